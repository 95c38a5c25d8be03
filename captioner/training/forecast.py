"""What a training will take, told before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from captioner.features import StoreSpace

T = TypeVar("T")


@dataclass(frozen=True)
class Forecast:
    """What a training will take.

    Attributes:
        data: numbers of photos, captions, words ... by name.
        parameters: numbers of parameters by part.
        steps_per_epoch: batches.
        epochs: how many, if none is stopped early.
        seconds: estimates by what takes them.
        store: the feature store.
        known_words: share of the words in the training captions that the vocabulary has, from 0 to 1; ``None`` if no
            words can be unknown, or there are no captions yet.
    """

    data: dict[str, int]
    parameters: dict[str, int]
    steps_per_epoch: int
    epochs: int
    seconds: dict[str, float]
    store: StoreSpace = field(default_factory=StoreSpace)
    known_words: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        folder = None if self.store.folder is None else str(self.store.folder)
        return {
            **asdict(self),
            "store": {**asdict(self.store), "folder": folder},
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }


def spread(items: Sequence[T], number: int) -> tuple[T, ...]:
    """Return at most ``number`` items from all over a sequence."""
    return tuple(items[:: max(1, len(items) // number)][:number])
