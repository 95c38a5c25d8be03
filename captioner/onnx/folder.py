"""The folder of an exported captioner: the graphs and their description in the config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from captioner import store
from captioner.data.transform import Transform
from captioner.errors import CheckpointError, ConfigError
from captioner.search.config import SearchConfig
from captioner.settings import Settings, validate
from captioner.store import CONFIG

log = logging.getLogger(__name__)

ENCODER, START, STEP = store.GRAPHS
PIXELS, FEATURES, TOKENS = "pixels", "features", "tokens"  # inputs of the three graphs
LOG_PROBABILITIES, ATTENTION = "log_probabilities", "attention"  # outputs of the step, in addition to the state
STATE, NEXT = "state.", "next."  # begin the names of the state's arrays, and in the step's outputs of the next state's


class Graphs(Settings):
    """The description of the graphs; the config's field ``graphs``."""

    transform: Transform = Field(description="from an image to the encoder's pixels")
    grid: tuple[PositiveInt, PositiveInt] = Field(description="rows and columns of the cells")
    search: SearchConfig = Field(description="the model's own settings of the search")
    most_words: int | None = Field(description="most words that the decoder has positions for, if there is a limit")
    attends: bool = Field(description="whether the step returns attention")
    hypotheses: list[str] = Field(description="names of the state's arrays that differ between hypotheses")
    images: list[str] = Field(description="names of the state's arrays that all hypotheses of an image share")
    int8: bool = Field(description="whether the graphs compute in eight bits, see captioner.onnx.quantise")
    opset: int = Field(description="version of ONNX's operators")


def read(folder: Path) -> tuple[dict[str, Any], Graphs]:
    """Return the config of an exported captioner, or of a model with graphs, and the description of its graphs.

    The files that run it are checked.

    Raises:
        CheckpointError: the config or a file is missing, damaged, or newer than this program.
    """
    log.info("reading the exported captioner in %s", folder)
    kind = store.ONNX if store.kind_of(folder) == store.ONNX else store.CAPTIONER
    config = store.read_whole(folder, kind, unread=[store.WEIGHTS])
    try:
        return config, validate(Graphs, config["graphs"], where=f"{folder / CONFIG}: graphs")
    except ConfigError as error:
        raise CheckpointError(f"{error}; export the model again") from None
