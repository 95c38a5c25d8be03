"""Sequence-level distillation: training captions that another captioner writes.

A student is trained on the hypotheses of a teacher's beam search instead of human captions (Kim and Rush 2016,
https://arxiv.org/abs/1606.07947, section 3.2). The teacher is a larger model or an ensemble. It can also caption
images without captions, so a student can learn from any folder of images.

The teacher captions every training image once. :data:`FILE` in the run's folder stores all hypotheses of the beams: a
line of JSON that identifies the teacher, then one for each image. A resumed run reads it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch.nn.utils.rnn import pad_sequence

from captioner import files, store
from captioner.caption import Caption
from captioner.captioner import Captioner
from captioner.data.dataset import CaptionedImage
from captioner.engines.model import TorchEngine
from captioner.errors import AnnotationError, CheckpointError, FeatureStoreError, ImageError
from captioner.evaluation.cider import CiderD
from captioner.machine.processes import SINGLE_PROCESS, Processes
from captioner.settings import Settings
from captioner.store import ONNX, kind_of
from captioner.store.names import name_of
from captioner.text.vocabulary import tokenize
from captioner.training.events import Events

FILE = "teacher.jsonl"
_BATCH = 32  # images in a search
_SCORED_TOGETHER = 1000  # images whose beams are scored together
Beams = dict[str, tuple[str, ...]]


class TeacherConfig(Settings):
    """Sequence-level distillation (Kim and Rush 2016): training captions that another captioner writes.

    The vocabulary is built from human captions, and dev is scored against human captions only.
    """

    model: str | None = Field(
        None,
        description="captioner that writes the training captions: name of a shipped one, folder, or user/model on the "
        "hub; several joined by + are an ensemble",
    )
    width: int = Field(5, ge=1, description="beam width of its search")
    captions: int = Field(1, ge=1, description="captions that each image gets from its beam; 1 is the paper's Seq-KD")
    choice: Literal["best", "closest"] = Field(
        "best",
        description="which captions of its beam: the highest-ranked ones, or those closest to human captions (the "
        "paper's Seq-Inter) by CIDEr-D, where the paper uses BLEU against a single reference",
    )
    human_captions: bool = Field(False, description="also train on human captions")
    unlabelled: list[Path] = Field(
        default_factory=list, description="folders of more images, without captions, to train on"
    )

    @model_validator(mode="after")
    def _consistent(self) -> TeacherConfig:
        if self.captions > self.width:
            raise ValueError(f"captions ({self.captions}) must not be more than width ({self.width})")
        if self.unlabelled and self.model is None:
            raise ValueError("unlabelled: these images have no captions; name the teacher that writes them in 'model'")
        return self


class Teacher:
    """Captions the training images, or reads the captions that an earlier start of the run saved.

    Args:
        config: the settings, which name a model.
        folder: the run's folder; see :data:`FILE`.
        device: the teacher's device; an exported one runs on the CPU.
        events: receives progress and images that are left out.
        features: a feature store to read images from, if the teacher's encoder made it.
        processes: the processes that train together; all must call :meth:`beams`.

    Attributes:
        name: name of the model, or of the ensemble's members, without their folders.
        seconds: time per captioned image, without loading the teacher; 0 if captions were read.

    Raises:
        CheckpointError: there is no such model.
    """

    def __init__(
        self,
        config: TeacherConfig,
        folder: Path,
        *,
        device: torch.device,
        events: Events,
        features: Path | None = None,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        assert config.model is not None
        self.features = features
        self.model, self.width, self.file = config.model, config.width, folder / FILE
        self.events, self.processes, self.seconds = events, processes, 0.0
        located, names = store.locate_captioners(self.model), store.members(self.model)
        self.name = store.join(name_of(name) if Path(name).is_dir() else name for name in names)
        exported = all(kind_of(part) == ONNX for part in located)
        self.device, self.engine = ("cpu", "onnx") if exported else (str(device), "torch")
        fingerprint = hashlib.sha256("+".join(map(_fingerprint, located)).encode()).hexdigest()
        self.head = {"teacher": self.name, "width": self.width, "fingerprint": fingerprint}

    def beams(self, images: Sequence[CaptionedImage], *, resume: bool = False) -> Beams:
        """Return the beam of each image, best first, by image id; unreadable images are reported and left out.

        If the file does not have the captions, all processes write them together, and the first one saves them.

        Args:
            images: to caption.
            resume: read the captions, and refuse to write them again.

        Raises:
            AnnotationError: no image could be captioned.
            CheckpointError: the teacher is damaged; or the run is resumed, and its captions are missing, or were
                written by another teacher.
        """
        records = self.processes.broadcast(self.read(images, resume=resume) if self.processes.first else None)
        if records is None:
            # Later random draws must not depend on whether the teacher is loaded.
            with torch.random.fork_rng([self.device] if self.device.startswith("cuda") else []):
                part = self._write(self.processes.share(images))
            by_image = {record["image"]: record for each in self.processes.gather(part) for record in each}
            records = [by_image[image.image_id] for image in images]
            if self.processes.first:
                lines = map(json.dumps, (self.head, *records))  # in ASCII, for any file name
                files.write_text(self.file, "".join(f"{line}\n" for line in lines))
        errors = [record["error"] for record in records if "error" in record]
        if len(errors) == len(images):
            raise AnnotationError(
                f"data.teacher: none of {len(images):,} images could be captioned; first: {errors[0]}"
            )
        for error in errors:
            self.events.warn(f"left out: {error}")
        return {record["image"]: tuple(record["captions"]) for record in records if "captions" in record}

    def read(self, images: Sequence[CaptionedImage], *, resume: bool = False) -> list[dict[str, Any]] | None:
        """Return the file's records of the images, in their order; ``None`` if they must be written.

        Raises:
            CheckpointError: the run is resumed, and they are missing.
        """
        try:
            text = files.read_text(self.file, error=CheckpointError, max_bytes=None)
            head, *records = (
                files.parse_json(line, dict, where=f"line {number}", error=CheckpointError, advice="")
                for number, line in enumerate(text.splitlines(), start=1)
            )
            for number, record in enumerate(records, start=2):
                if not _is_record(record):
                    raise CheckpointError(f"line {number}: is not an image with captions or an error")
            by_image = {record["image"]: record for record in records}
            if {**head, "teacher": self.name} != self.head:  # the same model may have moved
                problem = "was written by another teacher or beam"
            elif by_image.keys() != {image.image_id for image in images}:
                problem = "has captions of other images than the training images"
            else:
                return [by_image[image.image_id] for image in images]
        except (CheckpointError, ValueError) as error:  # the file is empty
            problem = f"is damaged ({str(error).rstrip('; ')})" if self.file.exists() else "is missing"
        if resume:
            raise CheckpointError(
                f"{self.file}: {problem}, and a resumed run must have the captions it began with; put back the "
                f"teacher {self.model}, the images and this file, or start another run"
            )
        return None

    def _write(self, images: Sequence[CaptionedImage]) -> list[dict[str, Any]]:
        """Caption images, and return a record of each; see :data:`FILE`."""
        captioner = Captioner.from_pretrained(
            self.model, device=self.device, engine=self.engine, width=self.width, n_best=self.width
        )
        records: list[dict[str, Any]] = []
        began = time.perf_counter()
        for image, result in zip(images, self._results(captioner, images), strict=True):
            if isinstance(result, ImageError):
                records.append({"image": image.image_id, "error": str(result)})
            elif beam := [caption.text for caption in (result, *result.others) if caption.text]:
                records.append({"image": image.image_id, "captions": beam})
            else:
                records.append({"image": image.image_id, "error": f"{image.path}: the teacher writes an empty caption"})
            self.events.progress("the teacher's captions", len(records), len(images), "")
        self.seconds = (time.perf_counter() - began) / max(1, len(images))
        return records

    def _results(self, captioner: Captioner, images: Sequence[CaptionedImage]) -> Iterator[Caption | ImageError]:
        """Caption images, in their order, from stored features or from their files."""
        store = None
        engine = captioner.engine
        if self.features is not None and isinstance(engine, TorchEngine):
            with suppress(FeatureStoreError):  # it is missing, or another encoder's
                store = engine.open_features(self.features)
        if store is None or not isinstance(engine, TorchEngine):
            yield from captioner.stream(image.path for image in images)
            return
        remaining = iter(images)
        while part := list(islice(remaining, _BATCH)):
            stored = [image.image_id for image in part if image.image_id in store]
            from_store: Iterator[Caption] = iter(())
            if stored:
                from_store = iter(engine.caption_memory(store.memory(stored), captioner.search, cut=store.cut))
            from_files = captioner.stream(image.path for image in part if image.image_id not in store)
            for image in part:
                yield next(from_store if image.image_id in store else from_files)


def _is_record(record: dict[str, Any]) -> bool:
    """Return whether a line of the file has the types that this program writes."""
    captions, error = record.get("captions"), record.get("error")
    if not isinstance(record.get("image"), str) or (captions is None) == (error is None):
        return False
    if captions is None:
        return isinstance(error, str)
    return isinstance(captions, list) and captions != [] and all(isinstance(caption, str) for caption in captions)


def _fingerprint(folder: Path) -> str:
    kind = kind_of(folder)
    config = store.read_config(folder, kind)
    hashed = hashlib.sha256(json.dumps(config["model"], sort_keys=True).encode())
    for part in store.parts_of(kind, config, graphs=False):
        if (folder / part).is_file():  # loading the model reports missing files
            hashed.update((folder / part).read_bytes())
    return hashed.hexdigest()


def distilled(
    images: Sequence[CaptionedImage], beams: Mapping[str, Sequence[str]], config: TeacherConfig
) -> tuple[CaptionedImage, ...]:
    """Return images with the teacher's captions.

    Args:
        images: the training images, with their human captions if they have any.
        beams: the beam of each image, best first, by image id.
        config: selects the captions.
    """
    ranked = closest_first(images, beams) if config.choice == "closest" else beams
    return tuple(
        replace(
            image,
            captions=(
                *(image.captions if config.human_captions else ()),
                *ranked[image.image_id][: config.captions],
            ),
        )
        for image in images
    )


def closest_first(images: Sequence[CaptionedImage], beams: Mapping[str, Sequence[str]]) -> Beams:
    """Sort each image's beam by CIDEr-D against human captions, which also give the document frequencies.

    The sort is stable. Beams of images without human captions keep their order.
    """
    captioned = [image for image in images if image.captions]
    ranked = {image.image_id: tuple(beams[image.image_id]) for image in images}
    if not captioned:
        return ranked
    word_index: dict[str, int] = {}

    def encode(caption: str) -> list[int]:
        return [word_index.setdefault(word, len(word_index) + 1) for word in tokenize(caption)]

    references = [[encode(caption) for caption in image.captions] for image in captioned]
    candidates = [[encode(caption) for caption in ranked[image.image_id]] for image in captioned]
    cider = CiderD(references, words=len(word_index) + 1)
    for start in range(0, len(captioned), _SCORED_TOGETHER):
        part = range(start, min(start + _SCORED_TOGETHER, len(captioned)))
        indices = [index for index in part for _ in candidates[index]]
        captions = [torch.tensor(caption, dtype=torch.long) for index in part for caption in candidates[index]]
        scores = iter(cider(indices, pad_sequence(captions, batch_first=True).numpy()).tolist())
        for index in part:
            beam = ranked[captioned[index].image_id]
            order = sorted(zip(beam, islice(scores, len(beam)), strict=True), key=lambda pair: -pair[1])
            ranked[captioned[index].image_id] = tuple(caption for caption, _ in order)
    return ranked
