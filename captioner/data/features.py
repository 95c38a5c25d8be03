"""The feature store: memories of a data set's pictures, computed once and read many times.

A store is a folder. ``index.json`` names the encoder (settings, transform, hash of its weights) and the pictures; shards ``00000.npy``, ``00001.npy`` ...
hold the vectors as float16 (images, N, D), ``00000-flipped.npy`` those of the mirrored pictures. Every file appears whole or not at all, and the index
comes last: a store without one is unfinished and is refused, and building it again goes on where it was stopped.

The pooled vector is the mean over the places and is not stored.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioner import files
from captioner.data.loader import ImageLoader
from captioner.encoders.base import Encoder
from captioner.errors import EncoderError, FeatureStoreError, ImageError
from captioner.memory import Memory

FORMAT = 1
INDEX, PLAN = "index.json", "plan.json"
SHARD = 256


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
        self.flips: bool = self.index["flips"]
        self.fingerprint: str = self.index["fingerprint"]
        self._position = {image_id: i for i, image_id in enumerate(self.ids)}
        self._starts = np.cumsum([0, *self.index["shards"]]).tolist()
        self._shards = [[self._open(i, flipped) for i in range(len(self.index["shards"]))] for flipped in range(1 + self.flips)]

    def _open(self, number: int, flipped: int) -> np.ndarray[Any, np.dtype[np.float16]]:
        path = self.folder / _name(number, bool(flipped))
        expected = (self.index["shards"][number], self.places, self.features)
        if expected[0] == 0:  # not one of its pictures could be read
            return np.empty(expected, dtype=np.float16)
        try:
            shard: np.ndarray[Any, np.dtype[np.float16]] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FeatureStoreError(f"{path}: missing or damaged ({error}); delete {self.folder / INDEX} and make the features again") from None
        if shard.shape != expected or shard.dtype != np.float16:
            raise FeatureStoreError(f"{path}: holds {shard.dtype} {shard.shape} and not float16 {expected}; delete it and {self.folder / INDEX}")
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
        out = np.empty((len(image_ids), self.places, self.features), dtype=np.float16)
        for row, image_id in enumerate(image_ids):
            try:
                position = self._position[image_id]
            except KeyError:
                raise FeatureStoreError(f"{self.folder}: has no features of {image_id!r}; make them with: captioner features") from None
            shard = bisect_right(self._starts, position) - 1
            mirror = bool(flipped and flipped[row])
            if mirror and not self.flips:
                raise FeatureStoreError(f"{self.folder}: has no mirrored copies; make the features with --flips")
            out[row] = self._shards[mirror][shard][position - self._starts[shard]]
        return torch.from_numpy(out)

    def memory(self, image_ids: Sequence[str], *, flipped: Sequence[bool] | None = None) -> Memory:
        """Read a float32 memory; see :meth:`vectors`."""
        vectors = self.vectors(image_ids, flipped=flipped).float()
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
        compiled: compile the encoder first; pays from some hundred pictures on.
        progress: called with (pictures done, pictures in all), mirrored ones counted.

    Raises:
        FeatureStoreError: the folder holds features of another encoder, or was begun with other pictures.
    """
    folder = Path(folder)
    plan: dict[str, Any] = {
        "format": FORMAT,
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
    encode = torch.compile(encoder) if compiled else encoder
    groups = [pictures[i : i + shard] for i in range(0, len(pictures), shard)]
    total, done, encoded = len(pictures) * (1 + flips), 0, 0
    errors: list[ImageError] = []
    ids: list[str] = []
    sizes: list[int] = []
    shape = None
    for number, group in enumerate(groups):
        summary = folder / f"{number:05d}.json"
        record = _finished_shard(folder, number, summary, flips=flips)
        if record is None:
            record = _encode_shard(folder, number, group, encoder, encode, flips=flips, batch_size=batch_size, workers=workers)
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
    index["errors"] = [[error.source, error.reason] for error in errors]
    files.write_json(folder / INDEX, index, indent=None)
    return Built(FeatureStore(folder), errors, encoded)


def _finished_shard(folder: Path, number: int, summary: Path, *, flips: bool) -> dict[str, Any] | None:
    """Return what is remembered of a shard, or ``None`` if it must be encoded: it is not there yet, or one of its files is damaged."""
    try:
        record: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
        for flipped in (False, True)[: 1 + flips] if record["ids"] else ():
            shard = np.load(folder / _name(number, flipped), mmap_mode="r", allow_pickle=False)
            if list(shard.shape) != [len(record["ids"]), *record["shape"]] or shard.dtype != np.float16:
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
    *,
    flips: bool,
    batch_size: int,
    workers: int,
) -> dict[str, Any]:
    """Encode one shard's pictures, write its files, and return what to remember of it."""
    plain: list[np.ndarray[Any, Any]] = []
    mirrored: list[np.ndarray[Any, Any]] = []
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
            for flipped, out in ((False, plain), (True, mirrored))[: 1 + flips]:
                memory = encode(pixels.flip(-1) if flipped else pixels)
                out.append(memory.vectors[: len(batch)].float().clamp(-65504, 65504).half().cpu().numpy())
    for flipped, parts in ((False, plain), (True, mirrored))[: 1 + flips] if good else ():
        with files.atomic_path(folder / _name(number, flipped)) as temporary, open(temporary, "wb") as file:
            np.save(file, np.concatenate(parts), allow_pickle=False)
    return {"ids": good, "errors": [[error.source, error.reason] for error in errors], "shape": list(plain[0].shape[1:]) if good else None}


def _name(number: int, flipped: bool) -> str:
    return f"{number:05d}{'-flipped' if flipped else ''}.npy"


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
