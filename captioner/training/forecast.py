"""The forecast of a training run: data, parameters, steps, disk space and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from captioner.features import StoreSpace

T = TypeVar("T")


@dataclass(frozen=True)
class Forecast:
    """The forecast of a training run.

    Attributes:
        data: numbers of images, captions, words ... by name.
        parameters: numbers of parameters by part of the model.
        steps_per_epoch: batches per epoch.
        epochs: number of epochs without early stopping.
        seconds: estimated time by phase.
        store: disk space of the feature store.
        known_words: share of the words in the training captions that are in the vocabulary, from 0 to 1; ``None`` if
            no word can be unknown, or there are no captions yet.
    """

    data: dict[str, int]
    parameters: dict[str, int]
    steps_per_epoch: int
    epochs: int
    seconds: dict[str, float]
    store: StoreSpace = field(default_factory=StoreSpace)
    known_words: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        folder = None if self.store.folder is None else str(self.store.folder)
        return {
            **asdict(self),
            "store": {**asdict(self.store), "folder": folder},
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }


def evenly_spaced(items: Sequence[T], number: int) -> tuple[T, ...]:
    """Return at most ``number`` items, evenly spaced over a sequence."""
    return tuple(items[:: max(1, len(items) // number)][:number])
