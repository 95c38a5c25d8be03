"""Dry runs: a forecast of a training run from a few steps on a few of its images."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from captioner import files
from captioner.data.dataset import CaptionData
from captioner.features import FeatureStore, StoreSpace
from captioner.training.events import Events
from captioner.training.fit import CaptionerRun, candidate_blends, count_captions
from captioner.training.forecast import Forecast, evenly_spaced
from captioner.training.recipe import TrainConfig
from captioner.training.stored_features import needed_space
from captioner.training.teacher import Teacher


def dry_run(config: TrainConfig, *, events: Events | None = None) -> Forecast:
    """Train for a few steps on a few images, and forecast the time and disk space of the whole run.

    All files are written to a temporary folder.

    Raises:
        CaptionerError: the data or the settings cannot be used.
    """
    with files.temporary_folder() as folder:
        return _DryRun(config, folder, events or Events()).forecast()


class _DryRun(CaptionerRun):
    """A run on a few images, with the vocabulary of all images."""

    def __init__(self, config: TrainConfig, folder: Path, events: Events) -> None:
        self.whole, self.needed, self.encoding = config, StoreSpace(), 0.0
        data = config.data.model_copy(update={"features": None})
        super().__init__(
            config.model_copy(update={"output": folder / "run", "data": data}), resume=False, events=events
        )

    def _select_images(self) -> tuple[CaptionData, CaptionData]:
        self.all = train, dev = super()._select_images()
        few = max(16, self.config.batch_size)
        return replace(train, images=evenly_spaced(train.images, few)), replace(
            dev, images=evenly_spaced(dev.images, few)
        )

    def _open_store(self) -> FeatureStore | None:
        train, dev = self.all
        self.needed = needed_space(self.whole, self.model, len(train.images) + len(dev.images))
        began = time.perf_counter()
        store = super()._open_store()
        if store is not None:
            self.encoding = (time.perf_counter() - began) / len(store)
        return store

    def forecast(self) -> Forecast:
        """Time steps, with and without tuning the encoder, and captions."""
        train, dev = self.all
        config = self.config
        steps = -(-len(train.images) // config.batch_size)
        later = config.fine_tune.from_epoch
        phases = [(0, config.epochs)] if later is None or later == 1 else [(0, later - 1), (later - 1, config.epochs)]
        training = 0.0
        for first, end in phases:
            if first < config.epochs:
                self.begin_epoch(first)
                training += steps * (min(end, config.epochs) - first) * self.time_a_step(first)
        began = time.perf_counter()
        captioned, _ = self.caption(self.dev.images)
        seconds = (time.perf_counter() - began) / max(1, len(captioned))
        evaluations = config.epochs // config.evaluation.every * len(candidate_blends(config, dev)) + self.pretrained
        return Forecast(
            data={
                "training images": len(train.images),
                **self._captions(),
                "dev images": len(dev.images),
                "words": len(self.model.vocabulary),
                **({"new words": len(self.new_words())} if config.new_words else {}),
            },
            parameters={
                "encoder": sum(parameter.numel() for parameter in self.model.encoder.parameters()),
                "encoder, trained": sum(
                    parameter.numel() for parameter in self.model.encoder.parameters() if parameter.requires_grad
                ),
                "decoder": self.model.decoder_size,
            },
            steps_per_epoch=steps,
            epochs=config.epochs,
            store=self.needed,
            known_words=None if self.coverage is None else self.coverage.known,
            seconds={
                **self._teacher_seconds(),
                "encoding": 0.0 if self.needed.exists else self.encoding * (len(train.images) + len(dev.images)),
                "training": training,
                "evaluation": seconds * len(dev.images) * evaluations,
            },
        )

    def _captions(self) -> dict[str, int]:
        """Return the numbers of training captions, by people and by a teacher."""
        train, teacher = self.all[0], self.config.data.teacher
        if teacher.model is None:
            return {"training captions": count_captions(train)}
        kept = {"captions by people": count_captions(train)} if teacher.human_captions else {}
        return {**kept, "captions by the teacher": len(train.images) * teacher.captions}

    def _teacher_seconds(self) -> dict[str, float]:
        """Return the time that a teacher needs; 0 if the run's folder already has its captions."""
        if self.config.data.teacher.model is None:
            return {}
        assert self.teacher is not None
        saved = Teacher(self.config.data.teacher, self.whole.output, device=self.device, events=self.events).read(
            self.all[0].images
        )
        return {"teacher": 0.0 if saved else self.teacher.seconds * len(self.all[0].images)}
