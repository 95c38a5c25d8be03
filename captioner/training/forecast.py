"""What a training will take, told before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from captioner.errors import FeatureStoreError

T = TypeVar("T")


@dataclass(frozen=True)
class StoreNeed:
    """What the feature store of a run needs.

    Attributes:
        folder: where it is or will be; ``None`` if the run needs none.
        exists: whether it is complete.
        bytes: of the whole.
        left: bytes that are still to be written.
        free: bytes that the disk has left.
    """

    folder: Path | None = None
    exists: bool = False
    bytes: int = 0
    left: int = 0
    free: int = 0

    def check(self) -> None:
        """Refuse a store that the disk has no room for.

        Raises:
            FeatureStoreError: it has not.
        """
        if self.left > self.free:
            raise FeatureStoreError(
                f"{self.folder}: the features take {self.left / 1e9:,.1f} GB more and the disk has "
                f"{self.free / 1e9:,.1f} GB left; free some space, or set data.features to another disk"
            )


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
    store: StoreNeed = field(default_factory=StoreNeed)
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
