"""The disk space of a feature store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioner import files
from captioner.encoders.encoder import Encoder
from captioner.errors import FeatureStoreError
from captioner.features.store import INDEX, REGIONS, VECTORS


def store_bytes(encoder: Encoder, images: int, *, flips: bool) -> int:
    """Return the size in bytes of the features of a number of images, with mirrored ones if ``flips``.

    For an encoder of regions, this is the maximum.
    """
    if encoder.parts:
        return sum(store_bytes(part, images, flips=flips) for part in encoder.parts.values())
    has_regions = encoder.grid is None
    cells = int(getattr(encoder.config, "regions", 0)) if encoder.grid is None else encoder.grid[0] * encoder.grid[1]
    cell_bytes = (
        encoder.features * np.dtype(VECTORS.dtype).itemsize + has_regions * 6 * np.dtype(REGIONS.dtype).itemsize
    )
    return images * (1 + flips) * cells * cell_bytes


@dataclass(frozen=True)
class StoreSpace:
    """The disk space of a feature store.

    Attributes:
        folder: where it is or will be; ``None`` if there is no store.
        exists: whether it is complete.
        bytes: size of the whole store.
        left: bytes that are still to be written.
        free: bytes that are free on the disk.
    """

    folder: Path | None = None
    exists: bool = False
    bytes: int = 0
    left: int = 0
    free: int = 0

    def check(self) -> None:
        """Check that the rest of the store fits on the disk.

        Raises:
            FeatureStoreError: it does not.
        """
        if self.left > self.free:
            raise FeatureStoreError(
                f"{self.folder}: the features take {self.left / 1e9:,.1f} GB more and the disk has "
                f"{self.free / 1e9:,.1f} GB left; free some space, give a folder on another disk (data.features in a "
                "recipe), or store less: no mirrored images, fewer stages left off (the feature map before the last "
                "stages is larger), a smaller encoder"
            )


def store_space(folder: Path, encoder: Encoder, images: int, *, flips: bool) -> StoreSpace:
    """Return the disk space that a store of a number of images needs; see :func:`store_bytes`."""
    whole = store_bytes(encoder, images, flips=flips)
    if (folder / INDEX).exists():
        return StoreSpace(folder, exists=True, bytes=whole)
    return StoreSpace(folder, bytes=whole, left=max(0, whole - files.bytes_in(folder)), free=files.free_bytes(folder))
