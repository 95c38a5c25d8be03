"""Training a captioner."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from captioner.checkpoint import load_model, locate, read_config, save_model
from captioner.data.annotations import CaptionData, merge, read_captions
from captioner.data.batches import Captions, EncodedCaptions, Sample, Sampler
from captioner.data.loader import load_groups
from captioner.encoders import Encoder
from captioner.errors import AnnotationError, ConfigError
from captioner.evaluation.diversity import Diversity
from captioner.evaluation.evaluate import generate
from captioner.evaluation.scores import Scorer
from captioner.features import FeatureStore, build_store
from captioner.memory import Memory
from captioner.model import CaptionModel
from captioner.pipeline import Captioner
from captioner.text.vocabulary import Vocabulary, tokenize
from captioner.training.loop import STATE, Cost, Loop, bar
from captioner.training.objective import OBJECTIVES
from captioner.training.recipe import TrainConfig, load_config
from captioner.training.state import holds


def run(
    config: str | Path,
    changes: Iterable[str] = (),
    *,
    output: Path | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train by a shipped recipe or a YAML file and return the folder of the best model; see :func:`fit`."""
    return fit(load_config(config, changes, output), resume=resume, console=console)


@dataclass(frozen=True)
class Batch:
    """What the loader thread hands to the loop: a memory, or pixels when more of the encoder is trained than the feature store leaves to do."""

    captions: Captions
    memory: Memory | None
    pixels: Tensor | None


def fit(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> Path:
    """Train a captioner; what the run's folder gets is told in :mod:`captioner.training.loop`.

    Args:
        config: the settings.
        resume: go on with the run in the output folder.
        console: where to report; ``None`` is standard error.

    Returns:
        The folder of the best model, by CIDEr of generated captions on dev.

    Raises:
        CaptionerError: the data, the settings or the output folder cannot be used.
    """
    return _Run(config, resume=resume, console=console or Console(stderr=True)).run()


class _Run(Loop[Batch]):
    """One training run of a captioner.

    Attributes:
        stages: how many of the encoder's last stages are to be trained, from some epoch on.
        free: how many are trained now.
    """

    metric: ClassVar[str] = "CIDEr"
    units: ClassVar[str] = "captions"
    model: CaptionModel

    def __init__(self, config: TrainConfig, *, resume: bool, console: Console) -> None:
        super().__init__(config, resume=resume, console=console)
        self.config = config
        self.train, self.dev = _read_data(config, partial(console.print, style="yellow"))
        self.model = self._build().to(self.device)
        self.stages, self.free = stages_to_train(config, self.model.encoder), 0
        self.store = self._features()
        self.train, self.dev = self._known(self.train), self._known(self.dev)
        self.model.encoder.requires_grad_(False)
        self.average = copy.deepcopy(self.model).eval()
        self.origin = copy.deepcopy(self.average) if config.start is not None and config.blend < 1 else None
        self.optimiser = self.adamw(
            [
                (self.model.decoder, config.optimiser.learning_rate),
                (self.model.encoder.tail(self.stages), config.fine_tune.learning_rate),
            ]
        )
        self.sampler = Sampler(
            self.train.photos,
            batch_size=config.batch_size,
            per_image=config.data.captions_per_image,
            flips=config.data.flips,
            seed=config.seed,
        )
        self.steps = len(self.sampler)
        self.encoded = EncodedCaptions(self.train.photos, self.model.vocabulary, max_words=config.data.max_words)
        name = config.objective["name"]
        settings = OBJECTIVES[name].Config(**{key: value for key, value in config.objective.items() if key != "name"})
        self.objective = OBJECTIVES[name].build(settings, self.train.photos, self.model.vocabulary).to(self.device)
        self.scorer = Scorer({photo.image_id: photo.captions for photo in self.dev.photos})
        self.people = Diversity.of([tokenize(photo.captions[0]) for photo in self.dev.photos])
        self.unreadable: set[str] = set()

    def _build(self) -> CaptionModel:
        if self.config.start is not None:
            return load_model(self.config.start)
        captions = (caption for photo in self.train.photos for caption in photo.captions)
        return CaptionModel.build(self.config.model, Vocabulary.build(captions, min_count=self.config.data.min_count))

    def describe(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.decoder.parameters())
        return (
            f"{len(self.train.photos):,} photos to learn from, {len(self.dev.photos):,} to choose on; {len(self.model.vocabulary):,} words; "
            f"{parameters / 1e6:.1f} M parameters in the decoder"
        )

    def parts(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        parts: dict[str, tuple[nn.Module, nn.Module]] = {"decoder": (self.model.decoder, self.average.decoder)}
        if self.free:
            parts["encoder"] = (self.model.encoder.tail(self.free), self.average.encoder.tail(self.free))
        return parts

    def load(self) -> None:
        if holds(self.output / STATE, "encoder"):  # it is in the state once it is trained
            self._free_encoder()
        super().load()

    def begin_epoch(self, epoch: int) -> None:
        if self._is_tuned_at(epoch):
            self._free_encoder()

    def _is_tuned_at(self, epoch: int) -> bool:
        """Tell whether the encoder is trained in ``epoch``, counted from 0."""
        return self.config.fine_tune.from_epoch is not None and epoch + 1 >= self.config.fine_tune.from_epoch

    def _free_encoder(self) -> None:
        """Train the encoder from now on, and keep its weights with the model's."""
        self.free = self.stages
        self.model.tuned_stages = self.average.tuned_stages = max(self.model.tuned_stages, self.stages)
        self.model.encoder.tail(self.stages).requires_grad_(True)

    @property
    def _from_pixels(self) -> bool:
        """Whether the feature store is of no use (any more): the stages that are trained begin before it ends."""
        return self.store is None or self.free > self.store.cut

    def _features(self) -> FeatureStore | None:
        """Open the feature store, or make it, unless the run needs none."""
        cut = store_cut(self.config, self.model)
        if cut is None:
            return None
        encoder = self.model.encoder.front(cut)
        data = self.config.data
        folder = data.features or self.output / "features"
        if not (folder / "index.json").exists():
            pictures = [(photo.image_id, photo.path) for photo in (*self.train.photos, *self.dev.photos)]
            with bar(self.console) as shown:
                task = shown.add_task("encoding", total=len(pictures) * (1 + data.flips), info="")
                built = build_store(
                    folder,
                    encoder.fast(self.device),
                    pictures,
                    flips=data.flips,
                    compiled=len(pictures) > 1000 and self.device.type == "cpu",
                    progress=lambda done, _: shown.update(task, completed=done),
                )
            for error in built.errors:
                self.console.print(f"left out: {error}", style="yellow")
        store = FeatureStore(folder, encoder=self.model.encoder)
        if data.flips and not store.flips:
            raise ConfigError(
                f"{folder}: has no mirrored pictures; make the features with --flips, or set data.flips=false"
            )
        if store.cut < cut:
            began = self.config.fine_tune.from_epoch
            self.console.print(
                f"{folder}: leaves off {store.cut} stages of the encoder, and {cut} are trained from epoch {began} on; then pictures "
                f"are read and encoded anew, which is much slower; to avoid that make the features with --cut {cut}",
                style="yellow",
            )
        return store

    def _known(self, data: CaptionData) -> CaptionData:
        """Leave out photos that have no features."""
        if self.store is None:
            return data
        photos = tuple(photo for photo in data.photos if photo.image_id in self.store)
        if len(photos) < len(data.photos):
            self.console.print(
                f"{data.name}: {len(data.photos) - len(photos)} photos have no features and are left out",
                style="yellow",
            )
        if not photos:
            raise AnnotationError(f"{data.name}: none of its photos is in the feature store {self.store.folder}")
        return CaptionData(data.name, data.format, photos)

    def batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        samples = self.sampler.epoch(epoch, skip=skip)
        if self._from_pixels or self.store is None:
            yield from self._batches_of_pixels(samples)
            return
        for sample in samples:
            ids = [self.train.photos[photo].image_id for photo in sample.photos]
            yield Batch(self.encoded.batch(sample), self.store.memory(ids, flipped=sample.flipped), None)

    def _batches_of_pixels(self, samples: Iterator[Sample]) -> Iterator[Batch]:
        """Load the batches' pictures in threads; those that cannot be read are left out, and reported once."""
        samples, again = tee(samples)
        groups = ([self.train.photos[photo].path for photo in sample.photos] for sample in again)
        for sample, loaded in zip(samples, load_groups(groups, self.model.encoder.transform), strict=True):
            for _, error in loaded.errors:
                if error.source not in self.unreadable:
                    self.unreadable.add(error.source)
                    self.console.print(f"left out: {error}", style="yellow")
            flipped = torch.tensor([sample.flipped[row] for row in loaded.positions], dtype=torch.bool)
            pixels = torch.where(flipped.view(-1, 1, 1, 1), loaded.pixels.flip(-1), loaded.pixels)
            yield Batch(self.encoded.batch(sample.rows(loaded.positions)), None, pixels)

    def cost(self, batch: Batch) -> Cost | None:
        if not batch.captions.captions:  # not one of its pictures could be read
            return None
        if batch.memory is not None:
            assert self.store is not None
            memory = self.model.encoder.finish(batch.memory.to(self.device), self.store.cut)
        else:
            assert batch.pixels is not None
            memory = self.model(batch.pixels)
        loss, metrics = self.objective(self.model.decoder, memory, batch.captions.to(self.device))
        return Cost(loss, metrics, batch.captions.captions)

    def evaluate(self) -> dict[str, float]:
        settings = self.config.evaluation
        captioner = Captioner(self._averaged_model(), device=str(self.device), **settings.search.model_dump())
        captions, _ = generate(
            captioner, self.dev, features=None if self._from_pixels else self.store, batch_size=settings.batch_size
        )
        every = {photo.image_id: captions.get(photo.image_id, "") for photo in self.dev.photos}
        if self.progress.epoch > 1 and (
            how := Diversity.of([caption.split() for caption in every.values()]).collapsed(self.people)
        ):
            self.console.print(
                f"the model has collapsed: {how}; lower optimiser.learning_rate, or choose another objective",
                style="yellow",
            )
        return self.scorer(every, metrics=("BLEU", "CIDEr")).values

    @torch.no_grad()
    def _averaged_model(self) -> CaptionModel:
        """Return the model to evaluate and keep: the moving average, or a point on the line from the model it started from to there.

        Weights between a model and its fine-tuned self often do better than both where the fine-tuning has few data
        (Wortsman 2022, https://arxiv.org/abs/2109.01903).
        """
        if self.origin is None:
            return self.average
        blended = copy.deepcopy(self.origin)
        blended.tuned_stages = self.average.tuned_stages
        torch._foreach_lerp_(list(blended.parameters()), list(self.average.parameters()), self.config.blend)
        return blended

    def save(self, name: str) -> None:
        left_out = {"output", "data", "start", "device", "save_minutes"} | (
            {"model"} if self.config.start is not None else set()
        )
        about: dict[str, Any] = {
            "data": self.train.name,
            "photos": len(self.train.photos),
            "captions": sum(len(photo.captions) for photo in self.train.photos),
            "seed": self.config.seed,
            "precision": self.precision,
            "epoch": self.progress.epoch,
            "minutes": round(self.progress.seconds / 60, 1),
            "dev_cider": round(self.progress.best, 4),
            "recipe": json.loads(self.config.model_dump_json(exclude=left_out)),
        }
        if self.config.start is not None:
            about["start"] = read_config(locate(self.config.start)).get("about")
        save_model(self.output / name, self._averaged_model(), about=about)


def stages_to_train(config: TrainConfig, encoder: Encoder) -> int:
    """Return how many of the encoder's last stages a run trains, from some epoch on.

    Raises:
        ConfigError: the encoder does not have so many.
    """
    if config.fine_tune.from_epoch is None:
        return 0
    stages = config.fine_tune.stages or encoder.stages
    if stages > encoder.stages:
        raise ConfigError(f"fine_tune.stages: the encoder has {encoder.stages} stages, not {stages}")
    return stages


def store_cut(config: TrainConfig, model: CaptionModel) -> int | None:
    """Return how many of the encoder's last stages a run's feature store leaves off, to be trained; ``None`` if the run needs no store.

    The store ends where the weights of this model, or of this run, begin, so that it also serves others.
    """
    encoder, stages = model.encoder, stages_to_train(config, model.encoder)
    if (
        stages == encoder.stages
    ):  # all of it is trained: from the first epoch on, or after epochs that learn from what it makes of pictures as it is
        return None if config.fine_tune.from_epoch == 1 else 0
    return max(stages, model.tuned_stages % encoder.stages)


class StorePlan(NamedTuple):
    """What the feature store of a run holds: of these pictures (id, file) what the encoder makes without its last ``cut`` stages."""

    pictures: list[tuple[str, Path]]
    encoder: Encoder
    cut: int


def store_plan(config: TrainConfig, tell: Callable[[str], object] = lambda complaint: None) -> StorePlan:
    """Return what the feature store of a run has to hold; ``tell`` is called with what had to be left out of the caption files.

    Raises:
        ConfigError: the run needs no store, as it trains the whole encoder from its first epoch on.
    """
    train, dev = _read_data(config, tell)
    model = load_model(config.start) if config.start is not None else CaptionModel.build(config.model, Vocabulary([]))
    cut = store_cut(config, model)
    if cut is None:
        raise ConfigError(
            "fine_tune: the whole encoder is trained from the first epoch on, so that there is nothing to store; give fine_tune.stages"
        )
    return StorePlan([(photo.image_id, photo.path) for photo in (*train.photos, *dev.photos)], model.encoder, cut)


def _read_data(
    config: TrainConfig, tell: Callable[[str], object] = lambda complaint: None
) -> tuple[CaptionData, CaptionData]:
    """Read what to learn from and what to choose on; ``tell`` is called with what had to be left out of the files."""
    settings = config.data
    data = read_captions(settings.path, images=settings.images, strict=settings.strict)
    others = [read_captions(path, strict=settings.strict) for path in settings.also]
    for read in (data, *others):
        if complaint := read.complaint():
            tell(f"{complaint}, data.strict=true refuses them")
    train, dev = data.split(settings.train, restval=settings.restval), data.split(settings.dev)
    return merge(train, *(other.split("train", restval=True) for other in others)) if others else train, dev
