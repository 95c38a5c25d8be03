"""The training loop: data, optimiser, evaluation, early stop, resume."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor, nn

from captioner import files
from captioner.captioner import Captioner
from captioner.checkpoint import save_model
from captioner.data.annotations import CaptionData, merge, read_captions
from captioner.data.batches import Captions, EncodedCaptions, Sample, Sampler, prefetch
from captioner.data.features import FeatureStore, build_store
from captioner.data.loader import ImageLoader
from captioner.device import choose_device, fast_dtype
from captioner.errors import AnnotationError, CheckpointError, ConfigError
from captioner.evaluation.evaluate import generate
from captioner.evaluation.scores import Scorer
from captioner.memory import Memory
from captioner.model import CaptionModel
from captioner.text.vocabulary import Vocabulary
from captioner.training.config import OptimiserConfig, TrainConfig, load_config
from captioner.training.cross_entropy import CrossEntropy
from captioner.training.log import Log
from captioner.training.state import Progress, holds, load_state, save_state

STATE, CONFIG = "state.safetensors", "config.json"


def run(config: str | Path, changes: Iterable[str] = (), *, output: Path | None = None, resume: bool = False, console: Console | None = None) -> Path:
    """Train as a preset or a YAML file says and return the folder of the best model; see :func:`fit`."""
    return fit(load_config(config, changes, output), resume=resume, console=console)


def learning_rate_factor(step: int, total: int, config: OptimiserConfig) -> float:
    """Return the share of the highest learning rate at ``step`` of ``total``: a linear rise, then the schedule's fall."""
    warmup = max(1, round(config.warmup * total))
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}[config.schedule]


@dataclass(frozen=True)
class Batch:
    """What the loader thread hands to the loop: a memory, or pixels when the encoder is trained too."""

    captions: Captions
    memory: Memory | None
    pixels: Tensor | None


def fit(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> Path:
    """Train a model.

    The run's folder gets ``best`` and ``last`` (model folders), ``log.jsonl``, TensorBoard curves in ``curves``, ``config.json`` and the state to resume
    from. A run that is killed at any moment and resumed ends with the same weights to the bit as an unbroken one on the same machine's CPU.

    Args:
        config: the settings.
        resume: go on with the run in the output folder.
        console: where to report; ``None`` is standard error.

    Returns:
        The folder of the best model, by CIDEr of generated captions on dev.

    Raises:
        CaptionerError: the data, the settings or the output folder cannot be used.
    """
    return _Run(config, resume, console or Console(stderr=True)).run()


class _Run:
    """One training run; its steps in the order of :meth:`run`."""

    def __init__(self, config: TrainConfig, resume: bool, console: Console) -> None:
        self.config, self.console, self.output = config, console, config.output
        if (self.output / STATE).exists() and not resume:
            raise CheckpointError(f"{self.output}: holds a run already; go on with it with --resume, or give another --output")
        if resume and not (self.output / STATE).exists():
            raise CheckpointError(f"{self.output}: holds no run to resume; leave out --resume to begin one")
        self.resume = resume
        self.device = choose_device(config.device)
        precision = config.precision
        if precision == "auto":
            precision = "bf16-mixed" if fast_dtype(self.device) == torch.bfloat16 else "32-true"
        self.fabric = Fabric(accelerator=self.device.type, devices=1, precision=precision)
        self.precision = precision
        torch.manual_seed(config.seed)
        self.train, self.dev = _read_data(config)
        self.vocabulary = Vocabulary.build((c for photo in self.train.photos for c in photo.captions), min_count=config.data.min_count)
        self.model = CaptionModel.build(config.model, self.vocabulary).to(self.device)
        self.stages, self.cut = self._plan_of_tuning()
        self.store = self._features()
        self.train = self._known(self.train)
        self.dev = self._known(self.dev)
        self.model.encoder.requires_grad_(False)
        self.average = copy.deepcopy(self.model).eval()
        groups = [
            {"params": list(self.model.decoder.parameters()), "rate": config.optimiser.learning_rate},
            {"params": list(self.model.encoder.tail(self.stages).parameters()), "rate": config.fine_tune.learning_rate},
        ]
        self.optimiser = torch.optim.AdamW(
            groups, lr=0.0, betas=config.optimiser.betas, weight_decay=config.optimiser.weight_decay, fused=self.device.type in ("cpu", "cuda")
        )
        self.sampler = Sampler(
            self.train.photos,
            batch_size=config.batch_size,
            per_image=config.data.captions_per_image,
            flips=config.data.flips,
            seed=config.seed,
        )
        self.encoded = EncodedCaptions(self.train.photos, self.vocabulary, max_words=config.data.max_words)
        self.objective = CrossEntropy(config.objective).to(self.device)
        self.scorer = Scorer({photo.image_id: photo.captions for photo in self.dev.photos})
        self.total = len(self.sampler) * config.epochs
        self.progress = Progress()
        self.unreadable: set[str] = set()
        self.settings = config.model_dump_json(exclude={"output", "device", "save_minutes"})

    def run(self) -> Path:
        self.output.mkdir(parents=True, exist_ok=True)
        state = self.output / STATE
        if self.resume:
            if holds(state, "encoder"):  # it is in the state once it is trained
                self._free_encoder()
            self.progress = load_state(state, self._modules(), self.optimiser, self.settings)
            if self.progress.finished:
                self.console.print(f"this run is finished: {self.output / 'best'}")
                return self.output / "best"
        else:
            files.write_text(self.output / CONFIG, self.config.model_dump_json(indent=2) + "\n")
        self.log = Log(self.output, self.progress.step if self.resume else None)
        decoder = self.model.decoder
        self.console.print(
            f"{len(self.train.photos):,} photos to learn from, {len(self.dev.photos):,} to choose on; {len(self.vocabulary):,} words; "
            f"{sum(p.numel() for p in decoder.parameters()) / 1e6:.1f} M parameters in the decoder; {self.device}, {self.precision}"
        )
        began, before, saved = time.monotonic(), self.progress.seconds, time.monotonic()
        try:
            with _bar(self.console) as bar:
                task = bar.add_task("training", total=self.total, completed=self.progress.step, info="")
                for epoch in range(self.progress.epoch, self.config.epochs):
                    if self._is_tuned_at(epoch):
                        self._free_encoder()
                    for batch in prefetch(self._batches(epoch, self.progress.batch)):
                        info = self._step(batch)
                        bar.update(task, completed=self.progress.step, info=info)
                        self.progress.seconds = before + time.monotonic() - began
                        if time.monotonic() - saved > 60 * self.config.save_minutes:
                            save_state(state, self.progress, self._modules(), self.optimiser, self.settings)
                            saved = time.monotonic()
                    self.progress.epoch, self.progress.batch = epoch + 1, 0
                    last = self.progress.epoch == self.config.epochs
                    if last or self.progress.epoch % self.config.evaluation.every == 0:
                        self._evaluate()
                    self.progress.seconds = before + time.monotonic() - began
                    self.progress.finished = last or self.progress.waited >= self.config.evaluation.patience
                    if self.progress.finished:
                        self._save_model("last")
                    save_state(state, self.progress, self._modules(), self.optimiser, self.settings)
                    saved = time.monotonic()
                    if self.progress.finished:
                        break
        except KeyboardInterrupt:
            self.console.print(f"stopped; the run goes on from its last saved state with --resume --output {self.output}")
            raise
        finally:
            self.log.close()
        self.console.print(
            f"best CIDEr on dev {100 * self.progress.best:.1f} after epoch {self.progress.best_epoch}, "
            f"{self.progress.seconds / 60:.1f} minutes in all: {self.output / 'best'}"
        )
        return self.output / "best"

    def _is_tuned_at(self, epoch: int) -> bool:
        """Tell whether the encoder is trained in ``epoch``, counted from 0."""
        return self.config.fine_tune.from_epoch is not None and epoch + 1 >= self.config.fine_tune.from_epoch

    def _plan_of_tuning(self) -> tuple[int, int]:
        """Return how many of the encoder's last stages are to be trained, and how many the feature store leaves to do."""
        if self.config.fine_tune.from_epoch is None:
            return 0, 0
        all_of_it = self.model.encoder.stages
        stages = self.config.fine_tune.stages or all_of_it
        if stages > all_of_it:
            raise ConfigError(f"fine_tune.stages: the encoder has {all_of_it} stages, not {stages}")
        return stages, 0 if stages == all_of_it else stages

    def _free_encoder(self) -> None:
        """Train the encoder from now on, and keep its weights with the model's."""
        self.model.tuned_stages = self.average.tuned_stages = self.stages
        self.model.encoder.tail(self.stages).requires_grad_(True)

    @property
    def _from_pixels(self) -> bool:
        """Whether memories are no longer those of the feature store."""
        return self.model.tuned_stages > self.cut

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"decoder": self.model.decoder, "average.decoder": self.average.decoder, "objective": self.objective}
        if tuned := self.model.tuned_stages:
            modules |= {"encoder": self.model.encoder.tail(tuned), "average.encoder": self.average.encoder.tail(tuned)}
        return modules

    def _features(self) -> FeatureStore | None:
        """Open the feature store, or make it; none is needed if the whole encoder is trained from the first epoch."""
        if self._is_tuned_at(0) and not self.cut:
            return None
        encoder = self.model.encoder.front(self.cut)
        data = self.config.data
        folder = data.features or self.output / "features"
        if not (folder / "index.json").exists():
            pictures = [(photo.image_id, photo.path) for photo in (*self.train.photos, *self.dev.photos)]
            with _bar(self.console) as bar:
                task = bar.add_task("encoding", total=len(pictures) * (1 + data.flips), info="")
                built = build_store(
                    folder,
                    encoder.fast(self.device),
                    pictures,
                    flips=data.flips,
                    compiled=len(pictures) > 1000 and self.device.type == "cpu",
                    progress=lambda done, _: bar.update(task, completed=done),
                )
            for error in built.errors:
                self.console.print(f"left out: {error}", style="yellow")
        store = FeatureStore(folder, encoder=self.model.encoder)
        if data.flips and not store.flips:
            raise ConfigError(f"{folder}: has no mirrored pictures; make the features with --flips, or set data.flips=false")
        return store

    def _known(self, data: CaptionData) -> CaptionData:
        """Leave out photos that have no features."""
        if self.store is None:
            return data
        photos = tuple(photo for photo in data.photos if photo.image_id in self.store)
        if len(photos) < len(data.photos):
            self.console.print(f"{data.name}: {len(data.photos) - len(photos)} photos have no features and are left out", style="yellow")
        if not photos:
            raise AnnotationError(f"{data.name}: none of its photos is in the feature store {self.store.folder}")
        return CaptionData(data.name, data.format, photos)

    def _batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        samples = self.sampler.epoch(epoch, skip=skip)
        if self._from_pixels or self.store is None:
            yield from self._batches_of_pixels(samples)
            return
        for sample in samples:
            ids = [self.train.photos[photo].image_id for photo in sample.photos]
            yield Batch(self.encoded.batch(sample), self.store.memory(ids, flipped=sample.flipped), None)

    def _batches_of_pixels(self, samples: Iterator[Sample]) -> Iterator[Batch]:
        """Load a batch's pictures in threads; those that cannot be read are left out, and reported once."""
        for sample in samples:
            paths = [self.train.photos[photo].path for photo in sample.photos]
            loader = ImageLoader(paths, self.model.encoder.transform, batch_size=len(paths), workers=4, prefetch=0)
            (loaded,) = loader
            for _, error in loaded.errors:
                if error.source not in self.unreadable:
                    self.unreadable.add(error.source)
                    self.console.print(f"left out: {error}", style="yellow")
            if not len(loaded):
                continue
            flipped = torch.tensor([sample.flipped[row] for row in loaded.positions])
            pixels = torch.where(flipped.view(-1, 1, 1, 1), loaded.pixels.flip(-1), loaded.pixels)
            yield Batch(self.encoded.batch(sample.rows(loaded.positions)), None, pixels)

    def _step(self, batch: Batch) -> str:
        """Learn from one batch and return what to show beside the progress bar."""
        began = time.perf_counter()
        factor = learning_rate_factor(self.progress.step, self.total, self.config.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * factor
        self.model.train()
        captions = Captions(batch.captions.inputs.to(self.device), batch.captions.targets.to(self.device))
        with self.fabric.autocast():
            if batch.memory is not None:
                memory = self.model.encoder.finish(batch.memory.to(self.device), self.cut)
            else:
                assert batch.pixels is not None
                memory = self.model(batch.pixels)
            loss, metrics = self.objective(self.model.decoder, memory, captions)
        self.fabric.backward(loss)
        trained = [p for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, self.config.optimiser.clip)
        if not torch.isfinite(norm):
            raise ConfigError(f"training diverged at step {self.progress.step} (the gradient is {float(norm)}); lower optimiser.learning_rate")
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.batch += 1
        self._average()
        speed = batch.captions.captions / (time.perf_counter() - began)
        values = {"loss": float(loss.detach()), **{name: float(value) for name, value in metrics.items()}}
        self.log.step(
            self.progress.step,
            {**values, "learning_rate": self.optimiser.param_groups[0]["lr"], "gradient_norm": float(norm), "captions_per_second": speed},
        )
        return f"nll {values['nll']:.3f}  {speed:.0f} captions/s"

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.average, (1 + self.progress.step) / (10 + self.progress.step)) if self.config.average else 0.0
        parts: list[tuple[nn.Module, nn.Module]] = [(self.average.decoder, self.model.decoder)]
        if tuned := self.model.tuned_stages:
            parts.append((self.average.encoder.tail(tuned), self.model.encoder.tail(tuned)))
        for mean, now in parts:
            torch._foreach_lerp_(list(mean.parameters()), list(now.parameters()), 1.0 - decay)

    def _evaluate(self) -> None:
        """Caption dev, score it, and keep the model if it is the best so far."""
        settings = self.config.evaluation
        captioner = Captioner(self.average, device=str(self.device), **settings.search.model_dump())
        features = None if self._from_pixels else self.store
        captions, _ = generate(captioner, self.dev, features=features, batch_size=settings.batch_size)
        references_only = {photo.image_id: captions.get(photo.image_id, "") for photo in self.dev.photos}
        values = self.scorer(references_only, metrics=("BLEU", "CIDEr")).values
        self.log.evaluation(self.progress.epoch, self.progress.step, values)
        better = values["CIDEr"] > self.progress.best
        self.console.print(
            f"epoch {self.progress.epoch}: "
            + "  ".join(f"{name} {100 * value:.1f}" for name, value in values.items())
            + ("  (best)" if better else "")
        )
        if better:
            self.progress.best, self.progress.best_epoch, self.progress.waited = values["CIDEr"], self.progress.epoch, 0
            self._save_model("best")
        else:
            self.progress.waited += 1

    def _save_model(self, name: str) -> None:
        about = {
            "data": self.train.name,
            "photos": len(self.train.photos),
            "captions": sum(len(photo.captions) for photo in self.train.photos),
            "seed": self.config.seed,
            "precision": self.precision,
            "epoch": self.progress.epoch,
            "minutes": round(self.progress.seconds / 60, 1),
            "dev_cider": round(self.progress.best, 4),
            "recipe": json.loads(self.config.model_dump_json(exclude={"output", "data", "device", "save_minutes"})),
        }
        save_model(self.output / name, self.average, about=about)


def _read_data(config: TrainConfig) -> tuple[CaptionData, CaptionData]:
    data = read_captions(config.data.path, images=config.data.images)
    train, dev = data.split(config.data.train, restval=config.data.restval), data.split(config.data.dev)
    if config.data.also:
        train = merge(train, *(read_captions(path).split("train", restval=True) for path in config.data.also))
    return train, dev


def _bar(console: Console) -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Bar(*columns, TextColumn("{task.fields[info]}"), console=console, refresh_per_second=2)
