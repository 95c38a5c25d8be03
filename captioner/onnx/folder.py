"""The folder of an exported captioner: its config, and the files that the config vouches for."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from pydantic import Field

from captioner import folders
from captioner.assets import CONFIG, ONNX
from captioner.data.transform import Transform
from captioner.errors import CheckpointError, ConfigError
from captioner.search.config import SearchConfig
from captioner.settings import Settings, validate

log = logging.getLogger(__name__)

ENCODER, START, STEP = folders.GRAPHS
PIXELS, FEATURES, TOKENS = "pixels", "features", "tokens"  # inputs of the three graphs
LOG_PROBABILITIES, ATTENTION = "log_probabilities", "attention"  # outputs of the step, beside the state's
STATE, NEXT = "state.", "next."  # begin the names of the state's arrays, and in the step's outputs of the next state's


class File(Settings):
    """What a file must be."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> File:
        """Describe a file."""
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        return cls(bytes=path.stat().st_size, sha256=digest.hexdigest())


class Graphs(Settings):
    """What the graphs need to be run; the config's field ``graphs``."""

    transform: Transform = Field(description="from a picture to the encoder's pixels")
    grid: tuple[int, int] = Field(description="rows and columns of the places")
    search: SearchConfig = Field(description="the model's own settings of the search")
    most_words: int | None = Field(description="most words that the decoder has positions for, if there is a limit")
    attends: bool = Field(description="whether the step returns attention")
    hypotheses: list[str] = Field(description="names of the state's arrays that differ between hypotheses")
    images: list[str] = Field(description="names of the state's arrays that all hypotheses of an image share")
    int8: bool = Field(description="whether the graphs compute in eight bits, see captioner.onnx.quantise")
    opset: int = Field(description="version of ONNX's operators")
    files: dict[str, File] = Field(description="the graphs' files")


def read(folder: Path) -> Graphs:
    """Read the config of an exported captioner and check its files.

    Raises:
        CheckpointError: the config or a file is missing, damaged, or newer than this program.
    """
    log.info("reading the exported captioner in %s", folder)
    config: dict[str, Any] = folders.read_config(folder, ONNX)
    try:
        graphs = validate(Graphs, config.get("graphs") or {}, where=f"{folder / CONFIG}: graphs")
    except ConfigError as error:
        raise CheckpointError(f"{error}; export the model again") from None
    for name in folders.GRAPHS:
        path, expected = folder / name, graphs.files.get(name)
        if not path.is_file():
            raise CheckpointError(f"{path}: is missing; copy the whole model folder")
        size = path.stat().st_size
        if expected is None or size != expected.bytes:
            asked = "unknown" if expected is None else f"{expected.bytes:,}"
            raise CheckpointError(
                f"{path}: has {size:,} bytes and not {asked}, so it was cut off or is another's; copy it again"
            )
        if File.of(path) != expected:
            raise CheckpointError(f"{path}: is damaged, its SHA-256 is not that in {CONFIG}; copy it again")
    return graphs
