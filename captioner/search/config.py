"""Settings and results of all searches, without torch.

Letters in shapes: T words, N regions or cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from pydantic import Field, model_validator

from captioner.caption import Array
from captioner.settings import Settings, validate

if TYPE_CHECKING:
    from typing_extensions import Unpack

MINUS_INFINITY = float("-inf")
MAX_WIDTH, MAX_WORDS = 1000, 5000  # larger values are mistakes, or a damaged config, and would exhaust memory
N = TypeVar("N")  # a number, an array or a tensor
S = TypeVar("S", bound="SearchConfig")


class SearchConfig(Settings):
    """Settings of all searches."""

    width: int = Field(5, ge=1, le=MAX_WIDTH, description="hypotheses kept for each image; 1 is greedy search")
    max_words: int = Field(24, ge=1, le=MAX_WORDS, description="maximum number of words in a caption")
    min_words: int = Field(0, ge=0, description="minimum number of words in a caption")
    length_normalisation: float = Field(
        0.7,
        ge=0,
        le=10,  # MAX_WORDS to this power is a float32
        description="captions are compared by log-probability / length**this, where the length includes <eos>",
    )
    block_ngram: int = Field(
        0, ge=0, description="forbid captions to repeat a sequence of this many words; 0 forbids nothing"
    )
    consensus: float = Field(
        50.0,
        ge=0,
        description="weight of the expected CIDEr in a hypothesis's score, for models with a consensus; 0: none",
    )
    prune: float = Field(
        0.0,
        ge=0,
        description="drop hypotheses whose log-probability is more than this below that of the image's best one, but "
        "keep the first n_best; 0 drops none",
    )
    n_best: int = Field(1, ge=1, description="captions returned for each image")
    forbid_unknown: bool = Field(True, description="never write <unk>")

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if self.n_best > self.width:
            raise ValueError(f"n_best ({self.n_best}) must not be more than width ({self.width})")
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) must not be more than max_words ({self.max_words})")
        return self

    def changed(self: S, **changes: Unpack[SearchOptions]) -> S:
        """Return these settings with changes; ``n_best`` without ``width`` widens a narrower beam.

        Raises:
            ConfigError: a setting is wrong, or they contradict each other.
        """
        settings = {**self.model_dump(), **changes}
        if "width" not in changes and isinstance(changes.get("n_best"), int):
            settings["width"] = max(self.width, changes["n_best"])
        return validate(type(self), settings, where="search")

    def normalise(self, log_probability: N, length: Any) -> N:
        """Return the score by which finished captions are ranked; ``length`` counts the words and ``<eos>``."""
        return log_probability / length**self.length_normalisation


class SearchOptions(TypedDict, total=False):
    """The settings of a :class:`SearchConfig` as keywords, for editors and type checkers."""

    width: int
    max_words: int
    min_words: int
    length_normalisation: float
    block_ngram: int
    consensus: float
    prune: float
    n_best: int
    forbid_unknown: bool


@dataclass(frozen=True)
class Hypothesis:
    """One caption that a search found.

    Attributes:
        words: the words' indices, without ``<bos>`` and ``<eos>``.
        log_probability: the sum over its words and ``<eos>``, in nats.
        score: the value by which it was ranked.
        attention: (T, N) float32, each word's weights of the regions or cells; ``None`` if the decoder does not attend.
        finished: whether it ended with ``<eos>`` and not at ``max_words``.
    """

    words: list[int]
    log_probability: float
    score: float
    attention: Array | None
    finished: bool
