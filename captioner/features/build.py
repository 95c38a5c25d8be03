"""Builds a feature store shard by shard, so an interrupted build can be resumed.

:mod:`captioner.features.store` describes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
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
from captioner.features.space import store_space
from captioner.features.store import (
    FORMAT,
    INDEX,
    MAX_INDEX,
    PLAN,
    REGIONS,
    SHARD,
    VECTORS,
    Array,
    FeatureStore,
    Kind,
    shard_name,
)
from captioner.machine.processes import SINGLE_PROCESS, Processes
from captioner.memory import Memory


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
    processes: Processes = SINGLE_PROCESS,
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
        processes: the processes that encode together; they share the shards and the disk, and all must call this.

    Raises:
        FeatureStoreError: the folder holds features of another encoder or of other images, another process encodes
            there, or the disk has too little space.
        FileError: the disk is full or fails.
    """
    return _Build(Path(folder), encoder, images, flips, batch_size, workers, shard, progress, processes).run()


@dataclass(frozen=True)
class _Build:
    """The arguments of :func:`build_store`, and its steps."""

    folder: Path
    encoder: Encoder
    images: Sequence[tuple[str, Path]]
    flips: bool
    batch_size: int
    workers: int
    shard: int
    progress: Callable[[int, int], object] | None
    processes: Processes

    def run(self) -> StoreReport:
        first = self.processes.first
        with files.only_one(self.folder, error=FeatureStoreError, work="encodes") if first else nullcontext():
            return self.build_parts() if self.encoder.parts else self.build_single()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (VECTORS, REGIONS) if self.encoder.grid is None else (VECTORS,)

    @property
    def mirrored(self) -> tuple[bool, ...]:
        """Whether images are mirrored, in each pass over them."""
        return (False, True) if self.flips else (False,)

    def build_single(self) -> StoreReport:
        """Build the store of a single encoder."""
        plan = self.write_plan(format=3 if REGIONS in self.kinds else 1)
        groups = [self.images[i : i + self.shard] for i in range(0, len(self.images), self.shard)]
        total, done, encoded = len(self.images) * len(self.mirrored), 0, 0
        for number in self.processes.share(range(len(groups))):
            finished = self.finished_shard(number, groups[number])
            if finished is None or _changed(finished, groups[number]):
                (self.folder / INDEX).unlink(missing_ok=True)  # it describes the old shard
                record = self.encode_shard(number, groups[number])
                files.write_json(self.record_file(number), record, indent=None)
                encoded += len(record["ids"]) * len(self.mirrored)
            done += len(groups[number]) * len(self.mirrored)
            if self.progress:
                self.progress(min(done * self.processes.count, total), total)
        encoded = sum(self.processes.gather(encoded))  # waits for the other processes
        errors: list[ImageError] = []
        checksums: dict[str, int | None] = {}
        sizes: list[int] = []
        shape = None
        for number, group in enumerate(groups):
            finished = self.finished_shard(number, group)
            if finished is None:
                raise FeatureStoreError(
                    f"{self.record_file(number)}: was written, but cannot be read; all processes must see the same "
                    "folder"
                )
            checksum = dict(
                zip((image_id for image_id, _ in group), finished.get("files", [None] * len(group)), strict=True)
            )
            checksums |= {image_id: checksum[image_id] for image_id in finished["ids"]}
            sizes.append(len(finished["ids"]))
            errors += [ImageError(source, reason) for source, reason in finished["errors"]]
            shape = finished["shape"] or shape
        if shape is None:
            where = (
                f", the first: {errors[0]}; if they are elsewhere, give their folder (data.images)" if errors else ""
            )
            raise FeatureStoreError(f"none of the {len(self.images):,} images can be read{where}")
        index = {**plan, "ids": list(checksums), "files": list(checksums.values()), "shards": sizes}
        index |= {"places": shape[0], "features": shape[1]}
        index["grid"] = self.encoder.grid
        if REGIONS in self.kinds:
            index["regions"] = True
        return StoreReport(self.write_index(index, errors), errors, encoded)

    def build_parts(self) -> StoreReport:
        """Build the stores of the encoder's parts, one after the other."""
        plan = self.write_plan(format=FORMAT)
        reports: dict[str, StoreReport] = {}
        for number, (name, part) in enumerate(self.encoder.parts.items()):

            def report(done: int, total: int, before: int = number) -> None:
                if self.progress:
                    self.progress((before * total + done) // len(self.encoder.parts), total)

            reports[name] = replace(self, folder=self.folder / name, encoder=part, progress=report).run()
        stores = {name: report.store for name, report in reports.items()}
        errors = list({error.source: error for report in reports.values() for error in report.errors}.values())
        index = {
            **plan,
            "ids": [image_id for image_id in plan["ids"] if all(image_id in store for store in stores.values())],
            "shards": [],
            "parts": {name: store.fingerprint for name, store in stores.items()},
            "places": sum(store.n_vectors for store in stores.values()),
            "features": self.encoder.features,
            "grid": None,
        }
        return StoreReport(self.write_index(index, errors), errors, max(report.encoded for report in reports.values()))

    def write_plan(self, *, format: int) -> dict[str, Any]:
        """Write and return the plan of the store, after checking the folder and the disk space."""
        plan: dict[str, Any] = {
            "format": format,
            "fingerprint": self.encoder.fingerprint(),
            "encoder": self.encoder.config.identity(),
            "transform": self.encoder.transform.model_dump(mode="json"),
            "flips": self.flips,
            "shard": self.shard,
            "ids": [image_id for image_id, _ in self.images],
        }
        if len(set(plan["ids"])) != len(self.images):
            raise FeatureStoreError(f"{self.folder}: the same image id was given twice")
        _check_plan(self.folder, plan)
        if not self.encoder.parts:  # each part checks its own store
            store_space(self.folder, self.encoder, len(self.images), flips=self.flips).check()
        if self.processes.first:
            files.write_json(self.folder / PLAN, plan, indent=None)
        self.processes.wait()
        return plan

    def write_index(self, index: dict[str, Any], errors: Sequence[ImageError]) -> FeatureStore:
        """Write the index, which completes the store, and open it."""
        if self.processes.first:
            listed = [[error.source, error.reason] for error in errors]
            files.write_json(self.folder / INDEX, {**index, "errors": listed}, indent=None)
        self.processes.wait()
        return FeatureStore(self.folder)

    def record_file(self, number: int) -> Path:
        """Return the file of a shard's record, which is written last and completes the shard."""
        return self.folder / f"{number:05d}.json"

    def finished_shard(self, number: int, group: Sequence[tuple[str, Path]]) -> dict[str, Any] | None:
        """Return the record of a finished shard; ``None`` if it is missing or damaged."""
        try:
            record = files.read_json(self.record_file(number), dict, error=FeatureStoreError, max_bytes=MAX_INDEX)
            errors = [(source, reason) for source, reason in record["errors"] if isinstance(source + reason, str)]
            checksums = record.get("files", [None] * len(group))  # older versions wrote none
            known = [image_id for image_id, _ in group if image_id in set(record["ids"])]
            if record["ids"] != known or len(errors) != len(group) - len(known) or len(checksums) != len(group):
                return None
            for flipped, kind in product(self.mirrored, self.kinds) if record["ids"] else ():
                file = self.folder / shard_name(number, flipped, kind)
                shard = np.load(file, mmap_mode="r", allow_pickle=False)
                if shard.shape != kind.shape(len(record["ids"]), *record["shape"]) or shard.dtype != kind.dtype:
                    return None
                if not shard.flags.c_contiguous:
                    return None
            return record
        except Exception:  # also of fields of other types, or of numpy, which evaluates the header
            return None

    def encode_shard(self, number: int, group: Sequence[tuple[str, Path]]) -> dict[str, Any]:
        """Encode a shard's images, write its files, and return its record."""
        encoder, keys = self.encoder, list(product(self.mirrored, self.kinds))
        written: dict[tuple[bool, Kind], list[Array]] = {key: [] for key in keys}
        ids: list[str] = []
        errors: list[ImageError] = []
        checksums = [files.quick_checksum(path) for _, path in group]
        loader = ImageLoader(
            [path for _, path in group],
            encoder.transform,
            batch_size=encoded_at_once(self.batch_size, encoder.device),
            workers=self.workers,
            prefetch=8,
        )

        def arrays(pixels: Tensor) -> dict[tuple[bool, Kind], Array]:
            memories = {flipped: encoder(pixels.flip(-1) if flipped else pixels) for flipped in self.mirrored}
            return {(flipped, kind): _array(memories[flipped], kind) for flipped, kind in keys}

        for batch, encoded in encode_batches(arrays, loader, ahead=8, device=encoder.device):
            errors += [error for _, error in batch.errors]
            ids += [group[position][0] for position in batch.positions]
            for key, array in (encoded or {}).items():
                written[key].append(array)
        for (flipped, kind), parts in written.items() if ids else ():
            name = self.folder / shard_name(number, flipped, kind)
            with files.atomic_path(name) as temporary, open(temporary, "wb") as file:
                np.save(file, np.concatenate(parts), allow_pickle=False)
        shape = list(written[False, VECTORS][0].shape[1:]) if ids else None
        return {
            "ids": ids,
            "files": checksums,
            "errors": [[error.source, error.reason] for error in errors],
            "shape": shape,
        }


def _array(memory: Memory, kind: Kind) -> Array:
    """Return the part of a memory that a file of this kind stores."""
    if kind is VECTORS:
        return memory.vectors.float().clamp(-65504, 65504).half().cpu().numpy()
    if memory.boxes is None or memory.labels is None or memory.scores is None:
        raise FeatureStoreError("the memories of this encoder have neither a grid nor regions, and cannot be stored")
    columns = [part.float().unsqueeze(-1) for part in (memory.labels, memory.scores)]
    return torch.cat([memory.boxes.float(), *columns], dim=-1).cpu().numpy()


def _changed(record: dict[str, Any], group: Sequence[tuple[str, Path]]) -> bool:
    """Return whether the file of an image of a shard was replaced since the shard was encoded."""
    now = (files.quick_checksum(path) for _, path in group)
    return any(new not in (old, None) for old, new in zip(record.get("files", []), now, strict=False))


def _check_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Refuse to resume a store that was started with another plan, and to replace an index that is not a store's."""
    path = folder / PLAN
    if not path.exists():
        if (folder / INDEX).exists():
            raise FeatureStoreError(f"{folder / INDEX}: exists, but not with the plan of a store; give another folder")
        return
    saved = files.read_json(
        path, dict, error=FeatureStoreError, advice="delete the folder and start again", max_bytes=MAX_INDEX
    )
    names = {
        "fingerprint": "encoder",
        "flips": "--flips setting",
        "shard": "shard size",
        "ids": "list of images",
        "format": "format",
    }
    for key, name in names.items():
        if saved.get(key) != plan[key]:
            raise FeatureStoreError(
                f"{folder}: was begun with another {name}; give another folder, or delete this one and start again"
            )
