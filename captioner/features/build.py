"""Builds a feature store shard by shard, so an interrupted build can be resumed.

:mod:`captioner.features.store` describes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioner import files
from captioner.data.loader import ImageLoader
from captioner.encoders.encoder import Encoder
from captioner.encoders.parallel import encode_batches, encoded_at_once
from captioner.errors import FeatureStoreError, ImageError
from captioner.features.store import (
    FORMAT,
    INDEX,
    MOST_INDEX,
    PLAN,
    REGIONS,
    SHARD,
    VECTORS,
    Array,
    FeatureStore,
    Kind,
    shard_name,
)
from captioner.memory import Memory
from captioner.processes import ALONE, Processes


@dataclass(frozen=True)
class StoreReport:
    """The result of building a store.

    Attributes:
        store: the finished store.
        errors: the images that could not be read, which are not in the store.
        encoded: number of images encoded now, mirrored ones included; the others were already in the store.
    """

    store: FeatureStore
    errors: list[ImageError]
    encoded: int


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


def build_store(
    folder: str | Path,
    encoder: Encoder,
    images: Sequence[tuple[str, Path]],
    *,
    flips: bool = False,
    batch_size: int = 8,
    workers: int = 2,
    shard: int = SHARD,
    progress: Callable[[int, int], object] | None = None,
    processes: Processes = ALONE,
) -> StoreReport:
    """Encode images into a store, or resume an unfinished one.

    Args:
        folder: folder of the store; created if missing.
        encoder: in eval mode, on its device and at its precision.
        images: (image id, file) pairs; ids must be unique.
        flips: also encode the mirror image of every image.
        batch_size: images in a batch on a GPU; a CPU takes fewer (:mod:`captioner.encoders.parallel`).
        workers: threads that load images.
        shard: images per file.
        progress: called with (images done, images in total), mirrored ones included; several processes extrapolate
            from their own shards.
        processes: the processes that encode together, which share the shards and the disk; all must call this.

    Raises:
        FeatureStoreError: the folder holds features of another encoder or of other images, another process encodes
            there, or the disk has too little space.
        FileError: the disk is full or fails.
    """
    folder = Path(folder)
    build = _build_parts if encoder.parts else _build_whole
    alone = files.only_one(folder, error=FeatureStoreError, work="encodes") if processes.first else nullcontext()
    with alone:
        return build(
            folder,
            encoder,
            images,
            flips=flips,
            batch_size=batch_size,
            workers=workers,
            shard=shard,
            progress=progress,
            processes=processes,
        )


def _build_whole(
    folder: Path,
    encoder: Encoder,
    images: Sequence[tuple[str, Path]],
    *,
    flips: bool,
    batch_size: int,
    workers: int,
    shard: int,
    progress: Callable[[int, int], object] | None,
    processes: Processes,
) -> StoreReport:
    """Build the store of a single encoder."""
    has_regions = encoder.grid is None
    kinds = (VECTORS, REGIONS) if has_regions else (VECTORS,)
    plan = _begin(
        folder, encoder, images, format=3 if has_regions else 1, flips=flips, shard=shard, processes=processes
    )
    groups = [images[i : i + shard] for i in range(0, len(images), shard)]
    total, done, encoded = len(images) * (1 + flips), 0, 0
    for number in processes.share(range(len(groups))):
        if _finished_shard(folder, number, groups[number], kinds, flips=flips) is None:
            record = _encode_shard(
                folder,
                number,
                groups[number],
                encoder,
                kinds,
                flips=flips,
                batch_size=batch_size,
                workers=workers,
            )
            files.write_json(_summary(folder, number), record, indent=None)
            encoded += len(record["ids"]) * (1 + flips)
        done += len(groups[number]) * (1 + flips)
        if progress:
            progress(min(done * processes.count, total), total)
    encoded = sum(processes.gather(encoded))  # waits for the other processes
    errors: list[ImageError] = []
    ids: list[str] = []
    sizes: list[int] = []
    shape = None
    for number in range(len(groups)):
        finished = _finished_shard(folder, number, groups[number], kinds, flips=flips)
        if finished is None:
            raise FeatureStoreError(
                f"{_summary(folder, number)}: was written, but cannot be read; all processes must see the same folder"
            )
        ids += finished["ids"]
        sizes.append(len(finished["ids"]))
        errors += [ImageError(source, reason) for source, reason in finished["errors"]]
        shape = finished["shape"] or shape
    if not ids or shape is None:
        raise FeatureStoreError(
            f"none of the {len(images):,} images can be read"
            + (f", the first: {errors[0]}; if they are elsewhere, give their folder (data.images)" if errors else "")
        )
    index = {**plan, "ids": ids, "shards": sizes, "places": shape[0], "features": shape[1], "grid": encoder.grid}
    if has_regions:
        index["regions"] = True
    index["errors"] = [[error.source, error.reason] for error in errors]
    return StoreReport(_end(folder, index, processes), errors, encoded)


def _begin(
    folder: Path,
    encoder: Encoder,
    images: Sequence[tuple[str, Path]],
    *,
    format: int,
    flips: bool,
    shard: int,
    processes: Processes,
) -> dict[str, Any]:
    """Write and return the plan of a store, after checking the folder and the disk space."""
    plan: dict[str, Any] = {
        "format": format,
        "fingerprint": encoder.fingerprint(),
        "encoder": encoder.config.identity(),
        "transform": encoder.transform.model_dump(mode="json"),
        "flips": flips,
        "shard": shard,
        "ids": [image_id for image_id, _ in images],
    }
    if len(set(plan["ids"])) != len(images):
        raise FeatureStoreError(f"{folder}: the same image id was given twice")
    _check_plan(folder, plan)
    if not encoder.parts:  # each part checks its own store
        store_space(folder, encoder, len(images), flips=flips).check()
    if processes.first:
        files.write_json(folder / PLAN, plan, indent=None)
    processes.wait()
    return plan


def _end(folder: Path, index: dict[str, Any], processes: Processes) -> FeatureStore:
    """Write the index, which completes the store, and open it."""
    if processes.first:
        files.write_json(folder / INDEX, index, indent=None)
    processes.wait()
    return FeatureStore(folder)


def _build_parts(
    folder: Path,
    encoder: Encoder,
    images: Sequence[tuple[str, Path]],
    *,
    flips: bool,
    shard: int,
    progress: Callable[[int, int], object] | None,
    processes: Processes,
    **settings: Any,
) -> StoreReport:
    """Build the stores of an encoder's parts, one after the other."""
    plan = _begin(folder, encoder, images, format=FORMAT, flips=flips, shard=shard, processes=processes)
    reports: dict[str, StoreReport] = {}
    for number, (name, part) in enumerate(encoder.parts.items()):

        def report(done: int, total: int, before: int = number) -> None:
            if progress:
                progress((before * total + done) // len(encoder.parts), total)

        reports[name] = build_store(
            folder / name, part, images, flips=flips, shard=shard, progress=report, processes=processes, **settings
        )
    stores = {name: report.store for name, report in reports.items()}
    errors = {error.source: error for report in reports.values() for error in report.errors}
    index = {
        **plan,
        "ids": [image_id for image_id in plan["ids"] if all(image_id in store for store in stores.values())],
        "shards": [],
        "parts": {name: store.fingerprint for name, store in stores.items()},
        "places": sum(store.places for store in stores.values()),
        "features": encoder.features,
        "grid": None,
        "errors": [[error.source, error.reason] for error in errors.values()],
    }
    encoded = max(report.encoded for report in reports.values())
    return StoreReport(_end(folder, index, processes), list(errors.values()), encoded)


def _summary(folder: Path, number: int) -> Path:
    """Return the file of a shard's record, which is written last and completes the shard."""
    return folder / f"{number:05d}.json"


def _finished_shard(
    folder: Path, number: int, group: Sequence[tuple[str, Path]], kinds: Sequence[Kind], *, flips: bool
) -> dict[str, Any] | None:
    """Return the record of a finished shard; ``None`` if it is missing or damaged."""
    try:
        record = files.read_json(_summary(folder, number), dict, error=FeatureStoreError, most=MOST_INDEX)
        errors = [(source, reason) for source, reason in record["errors"] if isinstance(source + reason, str)]
        known = [image_id for image_id, _ in group if image_id in set(record["ids"])]
        if record["ids"] != known or len(errors) != len(group) - len(known):
            return None
        for flipped, kind in product((False, True)[: 1 + flips], kinds) if record["ids"] else ():
            shard = np.load(folder / shard_name(number, flipped, kind), mmap_mode="r", allow_pickle=False)
            if shard.shape != kind.shape(len(record["ids"]), *record["shape"]) or shard.dtype != kind.dtype:
                return None
            if not shard.flags.c_contiguous:
                return None
        return record
    except Exception:  # also of fields of other types, or of numpy, which evaluates the header
        return None


def _encode_shard(
    folder: Path,
    number: int,
    group: Sequence[tuple[str, Path]],
    encoder: Encoder,
    kinds: Sequence[Kind],
    *,
    flips: bool,
    batch_size: int,
    workers: int,
) -> dict[str, Any]:
    """Encode a shard's images, write its files, and return its record."""
    written: dict[tuple[bool, Kind], list[Array]] = {
        (flipped, kind): [] for flipped in (False, True)[: 1 + flips] for kind in kinds
    }
    ids: list[str] = []
    errors: list[ImageError] = []
    loader = ImageLoader(
        [path for _, path in group],
        encoder.transform,
        batch_size=encoded_at_once(batch_size, encoder.device),
        workers=workers,
        prefetch=8,
    )

    def arrays(pixels: Tensor) -> dict[tuple[bool, Kind], Array]:
        memories = {flipped: encoder(pixels.flip(-1) if flipped else pixels) for flipped in (False, True)[: 1 + flips]}
        return {(flipped, kind): _array(memory, kind) for flipped, memory in memories.items() for kind in kinds}

    for batch, encoded in encode_batches(arrays, loader, ahead=8, device=encoder.device):
        errors += [error for _, error in batch.errors]
        ids += [group[position][0] for position in batch.positions]
        for key, array in (encoded or {}).items():
            written[key].append(array)
    for (flipped, kind), parts in written.items() if ids else ():
        with files.atomic_path(folder / shard_name(number, flipped, kind)) as temporary, open(temporary, "wb") as file:
            np.save(file, np.concatenate(parts), allow_pickle=False)
    shape = list(written[False, VECTORS][0].shape[1:]) if ids else None
    return {"ids": ids, "errors": [[error.source, error.reason] for error in errors], "shape": shape}


def _array(memory: Memory, kind: Kind) -> Array:
    """Return the part of a memory that a file of this kind stores."""
    if kind is VECTORS:
        return memory.vectors.float().clamp(-65504, 65504).half().cpu().numpy()
    if memory.boxes is None or memory.labels is None or memory.scores is None:
        raise FeatureStoreError("the memories of this encoder have neither a grid nor regions, and cannot be stored")
    columns = [part.float().unsqueeze(-1) for part in (memory.labels, memory.scores)]
    return torch.cat([memory.boxes.float(), *columns], dim=-1).cpu().numpy()


def _check_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Refuse to resume a store that was begun with another plan."""
    path = folder / PLAN
    if not path.exists():
        return
    begun = files.read_json(
        path, dict, error=FeatureStoreError, cure="delete the folder and start again", most=MOST_INDEX
    )
    names = {
        "fingerprint": "encoder",
        "flips": "--flips setting",
        "shard": "shard size",
        "ids": "list of images",
        "format": "format",
    }
    for key, name in names.items():
        if begun.get(key) != plan[key]:
            raise FeatureStoreError(
                f"{folder}: was begun with another {name}; give another folder, or delete this one and start again"
            )
