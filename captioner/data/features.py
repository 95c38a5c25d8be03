"""The feature store: memories of a data set's pictures, computed once and read many times.

A store is a folder. ``index.json`` names the encoder (settings, transform, hash of its weights) and the pictures; shards ``00000.npy``, ``00001.npy`` ...
hold the vectors as float16 (images, N, D), ``00000-flipped.npy`` those of the mirrored pictures. Every file appears whole or not at all, and the index
comes last: a store without one is unfinished and is refused, and building it again goes on where it was stopped.

The places of a grid are known, those of regions differ from picture to picture: ``00000-boxes.npy`` and ``00000-flipped-boxes.npy`` hold their boxes
(images, N, 4), with NaN for a place that is masked. They are float32, since beside the vectors they weigh next to nothing.

The pooled vector is the mean over the places and is not stored.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from captioner import files
from captioner.compilation import Compiled
from captioner.data.loader import ImageLoader
from captioner.encoders.base import Encoder
from captioner.encoders.regions import region_memory
from captioner.errors import EncoderError, FeatureStoreError, ImageError
from captioner.memory import Memory

# 2 has boxes; a store of a grid is still written as 1, which older programs read.
FORMAT = 2
INDEX, PLAN = "index.json", "plan.json"
SHARD = 256


Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


@dataclass(frozen=True)
class Kind:
    """What a file of a store holds: the end of its name, its type, and the numbers a place has, ``None`` for D."""

    suffix: str
    dtype: type[np.floating[Any]]
    last: int | None

    def shape(self, images: int, places: int, features: int) -> tuple[int, int, int]:
        """Return the shape of an array for so many images."""
        return (images, places, self.last or features)


VECTORS, BOXES = Kind("", np.float16, None), Kind("-boxes", np.float32, 4)


@dataclass(frozen=True)
class Built:
    """What building a store did.

    Attributes:
        store: the finished store.
        errors: the error of each picture that could not be read; these are not in the store.
        encoded: pictures encoded now, mirrored ones included; the others were there already.
    """

    store: FeatureStore
    errors: list[ImageError]
    encoded: int


class FeatureStore:
    """Reads a finished store.

    Args:
        folder: the store.
        encoder: refuse the store unless this encoder or a front of it, made it; ``None`` takes any.

    Raises:
        FeatureStoreError: there is no store, it is unfinished or damaged, newer than this program, or made by another encoder.
    """

    def __init__(self, folder: str | Path, *, encoder: Encoder | None = None) -> None:
        self.folder = Path(folder)
        self.index = _read(self.folder / INDEX, self.folder)
        #: how many of the encoder's last stages are still to be done; see :meth:`Encoder.finish`
        self.cut: int = self.index["encoder"].get("cut", 0)
        if encoder is not None and not _made_by(encoder, self.cut, self.index["fingerprint"]):
            raise FeatureStoreError(
                f"{self.folder}: these features were made by another encoder or transform ({json.dumps(self.index['encoder'])}); "
                f"give another folder, or delete this one and make it again"
            )
        self.ids: list[str] = self.index["ids"]
        self.features: int = self.index["features"]
        self.places: int = self.index["places"]
        self.grid: tuple[int, int] | None = tuple(self.index["grid"]) if self.index["grid"] else None
        self.boxed: bool = self.index.get("boxes", False)
        self.flips: bool = self.index["flips"]
        self.fingerprint: str = self.index["fingerprint"]
        self._position = {image_id: i for i, image_id in enumerate(self.ids)}
        self._starts = np.cumsum([0, *self.index["shards"]]).tolist()
        self._vectors = self._open_all(VECTORS)
        self._boxes = self._open_all(BOXES) if self.boxed else []

    def _open_all(self, kind: Kind) -> list[list[Array]]:
        """Open the shards of the plain pictures, and of the mirrored ones if there are."""
        return [[self._open(number, bool(flipped), kind) for number in range(len(self.index["shards"]))] for flipped in range(1 + self.flips)]

    def _open(self, number: int, flipped: bool, kind: Kind) -> Array:
        path = self.folder / _name(number, flipped, kind)
        expected = kind.shape(self.index["shards"][number], self.places, self.features)
        if expected[0] == 0:  # not one of its pictures could be read
            return np.empty(expected, dtype=kind.dtype)
        try:
            shard: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FeatureStoreError(f"{path}: missing or damaged ({error}); delete {self.folder / INDEX} and make the features again") from None
        if shard.shape != expected or shard.dtype != kind.dtype:
            raise FeatureStoreError(
                f"{path}: holds {shard.dtype} {shard.shape} and not {np.dtype(kind.dtype)} {expected}; delete it and {self.folder / INDEX}"
            )
        return shard

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._position

    def vectors(self, image_ids: Sequence[str], *, flipped: Sequence[bool] | None = None) -> Tensor:
        """Read vectors (B, N, D) float16.

        Args:
            image_ids: B of them.
            flipped: for each whether the mirrored picture is meant.

        Raises:
            FeatureStoreError: a picture is not in the store, or mirrored ones are not.
        """
        return self._take(self._vectors, VECTORS, image_ids, flipped)

    def _take(self, shards: list[list[Array]], kind: Kind, image_ids: Sequence[str], flipped: Sequence[bool] | None) -> Tensor:
        out = np.empty(kind.shape(len(image_ids), self.places, self.features), dtype=kind.dtype)
        for row, image_id in enumerate(image_ids):
            try:
                position = self._position[image_id]
            except KeyError:
                raise FeatureStoreError(f"{self.folder}: has no features of {image_id!r}; make them with: captioner features") from None
            shard = bisect_right(self._starts, position) - 1
            mirror = bool(flipped and flipped[row])
            if mirror and not self.flips:
                raise FeatureStoreError(f"{self.folder}: has no mirrored copies; make the features with --flips")
            out[row] = shards[mirror][shard][position - self._starts[shard]]
        return torch.from_numpy(out)

    def memory(self, image_ids: Sequence[str], *, flipped: Sequence[bool] | None = None) -> Memory:
        """Read a float32 memory; see :meth:`vectors`."""
        vectors = self.vectors(image_ids, flipped=flipped).float()
        if self.boxed:
            boxes = self._take(self._boxes, BOXES, image_ids, flipped)
            return region_memory(vectors, boxes.nan_to_num(0.0), ~boxes.isnan().any(-1))
        return Memory(vectors=vectors, pooled=vectors.mean(dim=1), grid=self.grid)


def build_store(
    folder: str | Path,
    encoder: Encoder,
    pictures: Sequence[tuple[str, Path]],
    *,
    flips: bool = False,
    batch_size: int = 8,
    workers: int = 2,
    shard: int = SHARD,
    compiled: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Encode pictures into a store, or go on with an unfinished one.

    Args:
        folder: where; made if missing.
        encoder: in eval mode, on its device and at its precision.
        pictures: (image id, file) pairs; ids must differ.
        flips: also encode every picture mirrored left to right.
        batch_size: pictures encoded at once.
        workers: threads that load pictures.
        shard: pictures in a file.
        compiled: compile the encoder first; pays from some hundred pictures on. One of regions never is: their number differs from picture to picture.
        progress: called with (pictures done, pictures in all), mirrored ones counted.

    Raises:
        FeatureStoreError: the folder holds features of another encoder, or was begun with other pictures.
    """
    folder = Path(folder)
    boxed = encoder.grid is None
    kinds = (VECTORS, BOXES) if boxed else (VECTORS,)
    plan: dict[str, Any] = {
        "format": FORMAT if boxed else 1,
        "fingerprint": encoder.fingerprint(),
        "encoder": encoder.config.model_dump(mode="json"),
        "transform": encoder.transform.model_dump(mode="json"),
        "flips": flips,
        "shard": shard,
        "ids": [image_id for image_id, _ in pictures],
    }
    if len(set(plan["ids"])) != len(pictures):
        raise FeatureStoreError(f"{folder}: the same image id was given twice")
    _agree(folder, plan)
    files.write_json(folder / PLAN, plan, indent=None)
    encode = Compiled(encoder) if compiled and not boxed else encoder
    groups = [pictures[i : i + shard] for i in range(0, len(pictures), shard)]
    total, done, encoded = len(pictures) * (1 + flips), 0, 0
    errors: list[ImageError] = []
    ids: list[str] = []
    sizes: list[int] = []
    shape = None
    for number, group in enumerate(groups):
        summary = folder / f"{number:05d}.json"
        record = _finished_shard(folder, number, summary, kinds, flips=flips)
        if record is None:
            record = _encode_shard(folder, number, group, encoder, encode, kinds, flips=flips, batch_size=batch_size, workers=workers)
            files.write_json(summary, record, indent=None)
            encoded += len(record["ids"]) * (1 + flips)
        ids += record["ids"]
        sizes.append(len(record["ids"]))
        errors += [ImageError(source, reason) for source, reason in record["errors"]]
        shape = record["shape"] or shape
        done += len(group) * (1 + flips)
        if progress:
            progress(done, total)
    if not ids or shape is None:
        raise FeatureStoreError(f"{folder}: not one picture could be read" + (f"; the first error: {errors[0]}" if errors else ""))
    index = {**plan, "ids": ids, "shards": sizes, "places": shape[0], "features": shape[1], "grid": encoder.grid}
    if boxed:
        index["boxes"] = True
    index["errors"] = [[error.source, error.reason] for error in errors]
    files.write_json(folder / INDEX, index, indent=None)
    return Built(FeatureStore(folder), errors, encoded)


def _finished_shard(folder: Path, number: int, summary: Path, kinds: Sequence[Kind], *, flips: bool) -> dict[str, Any] | None:
    """Return what is remembered of a shard, or ``None`` if it must be encoded: it is not there yet, or one of its files is damaged."""
    try:
        record: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
        for flipped, kind in product((False, True)[: 1 + flips], kinds) if record["ids"] else ():
            shard = np.load(folder / _name(number, flipped, kind), mmap_mode="r", allow_pickle=False)
            if shard.shape != kind.shape(len(record["ids"]), *record["shape"]) or shard.dtype != kind.dtype:
                return None
        return record if isinstance(record["errors"], list) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _encode_shard(
    folder: Path,
    number: int,
    group: Sequence[tuple[str, Path]],
    encoder: Encoder,
    encode: Callable[[Tensor], Memory],
    kinds: Sequence[Kind],
    *,
    flips: bool,
    batch_size: int,
    workers: int,
) -> dict[str, Any]:
    """Encode one shard's pictures, write its files, and return what to remember of it."""
    written: dict[tuple[bool, Kind], list[Array]] = {(flipped, kind): [] for flipped in (False, True)[: 1 + flips] for kind in kinds}
    good: list[str] = []
    errors: list[ImageError] = []
    loader = ImageLoader([path for _, path in group], encoder.transform, batch_size=batch_size, workers=workers)
    with torch.inference_mode():
        for batch in loader:
            errors += [error for _, error in batch.errors]
            good += [group[position][0] for position in batch.positions]
            if len(batch) == 0:
                continue
            # A last, smaller batch is filled up, so that a compiled encoder meets one shape only.
            pixels = torch.cat([batch.pixels, batch.pixels[:1].expand(batch_size - len(batch), -1, -1, -1)])
            for flipped in (False, True)[: 1 + flips]:
                memory = encode(pixels.flip(-1) if flipped else pixels)
                for kind in kinds:
                    written[flipped, kind].append(_array(memory, kind)[: len(batch)])
    for (flipped, kind), parts in written.items() if good else ():
        with files.atomic_path(folder / _name(number, flipped, kind)) as temporary, open(temporary, "wb") as file:
            np.save(file, np.concatenate(parts), allow_pickle=False)
    shape = list(written[False, VECTORS][0].shape[1:]) if good else None
    return {"ids": good, "errors": [[error.source, error.reason] for error in errors], "shape": shape}


def _array(memory: Memory, kind: Kind) -> Array:
    """Return what of a memory is stored in a file of this kind."""
    if kind is VECTORS:
        return memory.vectors.float().clamp(-65504, 65504).half().cpu().numpy()
    if memory.boxes is None:
        raise FeatureStoreError("the places of this encoder's memories are neither a grid nor boxes, and cannot be stored")
    boxes = memory.boxes.float()
    return (boxes if memory.mask is None else boxes.masked_fill(~memory.mask.unsqueeze(-1), torch.nan)).cpu().numpy()


def _name(number: int, flipped: bool, kind: Kind) -> str:
    return f"{number:05d}{'-flipped' if flipped else ''}{kind.suffix}.npy"


def _agree(folder: Path, plan: dict[str, Any]) -> None:
    """Refuse to go on with a store that was begun otherwise."""
    path = folder / PLAN
    if not path.exists():
        return
    try:
        begun = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise FeatureStoreError(f"{path}: damaged ({error}); delete the folder and begin again") from None
    names = {"fingerprint": "encoder", "flips": "--flips setting", "shard": "shard size", "ids": "list of pictures", "format": "format"}
    for key, name in names.items():
        if begun.get(key) != plan[key]:
            raise FeatureStoreError(f"{folder}: was begun with another {name}; give another folder, or delete this one and begin again")


def _made_by(encoder: Encoder, cut: int, fingerprint: str) -> bool:
    try:
        return encoder.front(cut).fingerprint() == fingerprint
    except EncoderError:
        return False


def _read(path: Path, folder: Path) -> dict[str, Any]:
    if not path.exists():
        if (folder / PLAN).exists():
            raise FeatureStoreError(f"{folder}: these features are unfinished; run the same 'captioner features' command again to go on")
        raise FeatureStoreError(f"{folder}: no feature store; make one with: captioner features DATA -o {folder}")
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] > FORMAT:
            raise FeatureStoreError(f"{path}: format {index['format']} is newer than this program; upgrade captioner")
        for key in ("ids", "shards", "places", "features", "grid", "flips", "fingerprint", "encoder"):
            index[key]
        if sum(index["shards"]) != len(index["ids"]):
            raise ValueError("its shards and ids do not agree")
    except (ValueError, KeyError, TypeError) as error:
        raise FeatureStoreError(f"{path}: damaged ({error}); delete it and run 'captioner features' again") from None
    return index
