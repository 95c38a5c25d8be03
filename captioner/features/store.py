"""The feature store: memories of a data set's images, computed once and read many times.

A store is a folder. ``index.json`` describes the encoder (settings, transform, hash of its weights) and lists the
images. The shards ``00000.npy``, ``00001.npy`` ... hold the vectors as float16 (images, N, D), and
``00000-flipped.npy`` those of the mirrored images. Every file is written atomically, the index last: a store without
an index is unfinished. It also has a checksum of every image's file, to find replaced ones.

Regions also have ``00000-regions.npy`` and ``00000-flipped-regions.npy``: boxes, labels and scores (images, N, 6) as
float32, with label -1 for padding. The pooled vector is not stored: it is the mean over the N vectors, without padding.

The store of an encoder with several parts holds a store for each, in folders named after the parts.
"""

from __future__ import annotations

import json
import mmap
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from captioner import files
from captioner.encoders.encoder import Encoder
from captioner.encoders.grid_regions import GRID, join
from captioner.encoders.grid_regions import REGIONS as REGION_PART
from captioner.encoders.regions import region_memory
from captioner.errors import EncoderError, FeatureStoreError, first_line
from captioner.memory import Memory

# Format 3 has regions (2 had only their boxes), 4 has parts. A store is written in the oldest format that can hold it
# (1 for a grid), so older versions can read it.
FORMAT = 4
INDEX, PLAN = "index.json", "plan.json"
SHARD = 256
MAX_INDEX = 1 << 30  # bytes of an index or a plan
_MAX_COMPARED = 5000  # images that are compared with their files, at most


Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


@dataclass(frozen=True)
class Kind:
    """A kind of file in a store: suffix of its name, type, and size of its last axis, ``None`` for D."""

    suffix: str
    dtype: type[np.floating[Any]]
    columns: int | None

    def shape(self, images: int, n_vectors: int, features: int) -> tuple[int, int, int]:
        """Return the shape of an array."""
        return (images, n_vectors, self.columns or features)


VECTORS, REGIONS = Kind("", np.float16, None), Kind("-regions", np.float32, 6)


class FeatureStore:
    """Reads a finished store.

    Args:
        folder: the store.
        encoder: the encoder that must have made the store, possibly without its last stages; ``None`` accepts any.

    Raises:
        FeatureStoreError: there is no store, or it is unfinished, damaged, newer than this program, or made by
            another encoder.
    """

    def __init__(self, folder: str | Path, *, encoder: Encoder | None = None) -> None:
        self.folder = Path(folder)
        self.index = _read(self.folder / INDEX, self.folder)
        #: number of the encoder's last stages that are left out; :meth:`Encoder.finish` applies them
        self.cut: int = self.index["encoder"].get(GRID, self.index["encoder"]).get("cut", 0)
        if encoder is not None and not _made_by(encoder, self.cut, self.index["fingerprint"]):
            raise FeatureStoreError(
                f"{self.folder}: these features were made by another encoder or transform "
                f"({json.dumps(self.index['encoder'])}); give another folder, or delete this one and make it again"
            )
        self.ids: list[str] = self.index["ids"]
        self.features: int = self.index["features"]
        self.n_vectors: int = self.index["places"]
        self.grid: tuple[int, int] | None = tuple(self.index["grid"]) if self.index["grid"] else None
        self.has_regions: bool = self.index["regions"]
        self.flips: bool = self.index["flips"]
        self.fingerprint: str = self.index["fingerprint"]
        #: the stores of the encoder's parts, by name
        self.parts = {name: self._part(name, made_by) for name, made_by in self.index["parts"].items()}
        self._position = {image_id: i for i, image_id in enumerate(self.ids)}
        self._starts = np.cumsum([0, *self.index["shards"]]).tolist()
        self._vectors = [] if self.parts else self._open_all(VECTORS)
        self._regions = self._open_all(REGIONS) if self.has_regions else []

    def _part(self, name: str, fingerprint: str) -> FeatureStore:
        part = FeatureStore(self.folder / name)
        if part.parts or part.fingerprint != fingerprint or part.flips < self.flips:
            raise FeatureStoreError(
                f"{part.folder}: does not belong to {self.folder / INDEX}; run the same "
                "'captioner features' command again"
            )
        return part

    def _open_all(self, kind: Kind) -> list[list[Array]]:
        """Open the shards of the images, and of the mirrored ones if there are any."""
        return [
            [self._open(number, bool(flipped), kind) for number in range(len(self.index["shards"]))]
            for flipped in range(1 + self.flips)
        ]

    def _open(self, number: int, flipped: bool, kind: Kind) -> Array:
        path = self.folder / shard_name(number, flipped, kind)
        expected = kind.shape(self.index["shards"][number], self.n_vectors, self.features)
        if expected[0] == 0:  # none of its images could be read
            return np.empty(expected, dtype=kind.dtype)
        try:
            shard: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # also of numpy, which evaluates the header
            raise FeatureStoreError(
                f"{path}: missing or damaged ({first_line(error)}); delete {self.folder / INDEX} and make the features "
                "again"
            ) from None
        if shard.shape != expected or shard.dtype != kind.dtype or not shard.flags.c_contiguous:
            raise FeatureStoreError(
                f"{path}: holds {shard.dtype} {shard.shape} and not {np.dtype(kind.dtype)} {expected}; "
                f"delete it and {self.folder / INDEX}, and make the features again"
            )
        return shard

    def changed(self, images: Sequence[tuple[str, Path]]) -> str | None:
        """Describe the images that changed since they were encoded; return ``None`` if none did.

        Of many images, 5,000 are compared, by :func:`captioner.files.quick_checksum`. Missing images, images inside
        other files, and the images of stores that older versions made are not compared.

        Args:
            images: (image id, file) pairs.
        """
        if self.parts:
            return next(iter(self.parts.values())).changed(images)
        compared = images[:: max(1, len(images) // _MAX_COMPARED)][:_MAX_COMPARED]
        known = dict(zip(self.ids, self.index["files"] or [None] * len(self), strict=True))
        pairs = ((path, known.get(image_id), files.quick_checksum(path)) for image_id, path in compared)
        changed = [path for path, old, new in pairs if None not in (old, new) and old != new]
        if not changed:
            return None
        return (
            f"{self.folder}: {len(changed):,} of {len(compared):,} images compared, such as {changed[0]}, are not the "
            "files whose features it has"
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._position

    def vectors(self, image_ids: Sequence[str], *, flipped: Sequence[bool] | None = None) -> Tensor:
        """Read vectors (B, N, D) float16.

        Args:
            image_ids: B image ids.
            flipped: whether to read the mirrored image of each.

        Raises:
            FeatureStoreError: an image is not in the store, or the store has no mirrored images.
        """
        return self._take(self._vectors, VECTORS, image_ids, flipped)

    def _take(
        self, shards: list[list[Array]], kind: Kind, image_ids: Sequence[str], flipped: Sequence[bool] | None
    ) -> Tensor:
        found: list[tuple[Array, int]] = []
        for row, image_id in enumerate(image_ids):
            try:
                position = self._position[image_id]
            except KeyError:
                raise FeatureStoreError(
                    f"{self.folder}: has no features of {image_id!r}; make them with: captioner features"
                ) from None
            shard = bisect_right(self._starts, position) - 1
            mirror = bool(flipped and flipped[row])
            if mirror and not self.flips:
                raise FeatureStoreError(f"{self.folder}: has no mirrored images; make the features with --flips")
            found.append((shards[mirror][shard], position - self._starts[shard]))
        for array, position in found:
            _read_ahead(array, position)
        out = np.empty(kind.shape(len(image_ids), self.n_vectors, self.features), dtype=kind.dtype)
        for row, (array, position) in enumerate(found):
            out[row] = array[position]
        return torch.from_numpy(out)

    def memory(self, image_ids: Sequence[str], *, flipped: Sequence[bool] | None = None) -> Memory:
        """Read a float32 memory; see :meth:`vectors`."""
        if self.parts:
            memories = {name: part.memory(image_ids, flipped=flipped) for name, part in self.parts.items()}
            return join(memories[GRID], memories[REGION_PART])
        vectors = self.vectors(image_ids, flipped=flipped).float()
        if self.has_regions:
            boxes, labels, scores = self._take(self._regions, REGIONS, image_ids, flipped).split([4, 1, 1], dim=-1)
            return region_memory(vectors, boxes, labels.squeeze(-1).long(), scores.squeeze(-1))
        return Memory(vectors=vectors, pooled=vectors.mean(dim=1), grid=self.grid)


def _read_ahead(shard: Array, row: int) -> None:
    """Prefetch a row of a mapped file; the system then reads the rows of a batch in parallel."""
    mapped: Any = getattr(shard, "_mmap", None)
    if not isinstance(shard, np.memmap) or mapped is None or not hasattr(mmap, "MADV_WILLNEED"):
        return
    size = shard.nbytes // len(shard)
    start = shard.offset % mmap.ALLOCATIONGRANULARITY + row * size
    begin = start - start % mmap.PAGESIZE
    mapped.madvise(mmap.MADV_WILLNEED, begin, start + size - begin)


def shard_name(number: int, flipped: bool, kind: Kind) -> str:
    """Return the name of a shard's file."""
    return f"{number:05d}{'-flipped' if flipped else ''}{kind.suffix}.npy"


def _made_by(encoder: Encoder, cut: int, fingerprint: str) -> bool:
    try:
        return encoder.front(cut).fingerprint() == fingerprint
    except EncoderError:
        return False


def _is_number(value: Any, minimum: int) -> bool:
    return type(value) is int and value >= minimum


def _is_grid(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(_is_number(n, 1) for n in value))


def _is_encoder(value: Any) -> bool:
    part = value.get(GRID, value) if isinstance(value, dict) else None
    return isinstance(part, dict) and _is_number(part.get("cut", 0), 0)


# Not a pydantic model: an image id is a file name, which may hold bytes that are not UTF-8.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "format": lambda value: _is_number(value, 1),
    "ids": lambda value: (
        isinstance(value, list) and all(isinstance(i, str) for i in value) and len(set(value)) == len(value)
    ),
    "files": lambda value: (
        value is None or (isinstance(value, list) and all(each is None or _is_number(each, 0) for each in value))
    ),
    "shards": lambda value: isinstance(value, list) and all(_is_number(size, 0) for size in value),
    "places": lambda value: _is_number(value, 1),
    "features": lambda value: _is_number(value, 1),
    "grid": _is_grid,
    "flips": lambda value: isinstance(value, bool),
    "fingerprint": lambda value: isinstance(value, str),
    "encoder": _is_encoder,
    "regions": lambda value: isinstance(value, bool),
    "parts": lambda value: (
        isinstance(value, dict)
        and value.keys() in (set(), {GRID, REGION_PART})
        and all(isinstance(made_by, str) for made_by in value.values())
    ),
}


def _read(path: Path, folder: Path) -> dict[str, Any]:
    advice = "delete it and run 'captioner features' again"
    if not path.exists():
        if (folder / PLAN).exists():
            raise FeatureStoreError(
                f"{folder}: these features are unfinished; run the same 'captioner features' command again to continue"
            )
        raise FeatureStoreError(f"{folder}: no feature store; make one with: captioner features DATA -o {folder}")
    index: dict[str, Any] = {"regions": False, "parts": {}, "files": None}
    index |= files.read_json(path, dict, error=FeatureStoreError, advice=advice, max_bytes=MAX_INDEX)
    if _is_number(index.get("format"), FORMAT + 1):
        raise FeatureStoreError(f"{path}: format {index['format']} is newer than this program; upgrade captioner")
    wrong = next((name for name, valid in _FIELDS.items() if name not in index or not valid(index[name])), None)
    if wrong is not None:
        problem = f"its {wrong!r} is {'not valid' if wrong in index else 'missing'}"
    elif index["format"] == 2:
        problem = "its regions have no labels, which older versions left out"
    elif not index["parts"] and sum(index["shards"]) != len(index["ids"]):
        problem = "its shards and ids do not agree"
    elif index["files"] is not None and len(index["files"]) != len(index["ids"]):
        problem = "its files and ids do not agree"
    elif (index["grid"] is None) != (index["regions"] or bool(index["parts"])):
        problem = "it has neither a grid nor regions, or both"
    elif index["grid"] is not None and index["grid"][0] * index["grid"][1] != index["places"]:
        problem = "its grid and the number of its cells do not agree"
    else:
        return index
    raise FeatureStoreError(f"{path}: damaged ({problem}); {advice}")
