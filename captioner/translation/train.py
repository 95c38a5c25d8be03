"""Training translation models.

Tensor letters: B pairs, S source pieces, T target pieces.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from captioner import files
from captioner.data.batches import Captions
from captioner.errors import AnnotationError
from captioner.layers.segments import previous_lines
from captioner.settings import Settings
from captioner.text.subwords import Subwords
from captioner.text.vocabulary import EOS
from captioner.training.cross_entropy import CrossEntropy, CrossEntropyConfig
from captioner.training.events import Events
from captioner.training.forecast import Forecast, evenly_spaced
from captioner.training.loop import Loop
from captioner.training.optimisation import BatchLoss
from captioner.training.recipe import EvaluationConfig, RunConfig, read_run
from captioner.training.resume import locked
from captioner.training.state import data_hash
from captioner.translation.bleu import require_sacrebleu, score_translations, translate_runs
from captioner.translation.context import DecoderInContext, RefinerInContext, readers_of_context
from captioner.translation.model import TextSearchConfig, TranslationConfig, TranslationModel, save_translator
from captioner.translation.pairs import LengthSampler, ParallelText, collate, read_parallel, runs
from captioner.translation.translator import Translator


class TextDataConfig(Settings):
    """The data to train on and to select the best epoch on; the languages are the model's."""

    path: Path = Field(
        description="folder with a file of sentences, one per line, for each split and language: train.en, train.de, "
        "val.en, val.de"
    )
    train: str = Field("train", description="training split; the pieces of words are learned from it")
    dev: str = Field("val", description="split that selects the best epoch")
    merges: int = Field(4000, ge=0, description="number of merges of the byte-pair encoding of each language")
    max_pieces: int = Field(100, ge=1, description="training pairs with a longer side are left out")
    context: int = Field(
        0,
        ge=0,
        description="number of previous lines that blocks with relative positions read as context, without gradient "
        "(Dai 2019); batches then have runs of consecutive lines, and an empty line ends a text",
    )


class TextEvaluationConfig(EvaluationConfig):
    """Selecting the best epoch by BLEU."""

    search: TextSearchConfig = Field(default_factory=lambda: TextSearchConfig(width=1))


class TranslateConfig(RunConfig):
    """A training run of a translation model."""

    data: TextDataConfig
    model: TranslationConfig = Field(default_factory=TranslationConfig)
    objective: CrossEntropyConfig = Field(default_factory=CrossEntropyConfig)
    evaluation: TextEvaluationConfig = Field(default_factory=TextEvaluationConfig)
    batch_tokens: int = Field(4000, ge=1, description="maximum pieces in a step on either side, padding included")

    @model_validator(mode="after")
    def _no_sampling_in_context(self) -> TranslateConfig:
        if self.data.context and self.objective.scheduled_sampling:
            raise ValueError("data.context: cannot be combined with objective.scheduled_sampling; set one of them to 0")
        return self


def load_translate_config(
    name_or_path: str | Path, changes: Iterable[str] = (), output: Path | None = None
) -> TranslateConfig:
    """Read a translator's recipe, by name or from a YAML file; see :func:`captioner.training.recipe.read_run`."""
    return read_run(TranslateConfig, name_or_path, changes, output)


def train_translation(
    config: str | Path | TranslateConfig,
    changes: Iterable[str] = (),
    *,
    output: Path | None = None,
    resume: bool = False,
    events: Events | None = None,
) -> Path:
    """Train a translation model; :mod:`captioner.training.loop` describes the files of a run's folder.

    Args:
        config: a recipe's name, a YAML file, or the settings themselves, to which ``changes`` and ``output`` do not
            apply.
        changes: ``key=value`` changes of the settings.
        output: folder of the run, if not the one in the settings.
        resume: resume the run in the output folder.
        events: receives progress, notes and warnings; by default, notes and warnings are logged.

    Returns:
        The folder of the best model, by BLEU on dev.

    Raises:
        CaptionerError: the data, the settings or the output folder cannot be used, or sacrebleu is missing.
    """
    if not isinstance(config, TranslateConfig):
        config = load_translate_config(config, changes, output)
    with locked(config.output, resume=resume):
        return TranslatorRun(config, resume=resume, events=events or Events()).run()


def dry_run(config: TranslateConfig, *, events: Events | None = None) -> Forecast:
    """Train for a few steps, and forecast the time of the whole run.

    Raises:
        CaptionerError: the data or the settings cannot be used, or sacrebleu is missing.
    """
    with files.temporary_folder() as folder:
        trial = config.model_copy(update={"output": folder / "run"})
        return TranslatorRun(trial, resume=False, events=events or Events()).forecast()


@dataclass(frozen=True)
class PairBatch:
    """A batch of sentence pairs.

    Attributes:
        sources: (B, S) source sentences, padded.
        captions: their translations, as one caption each.
        previous: (B, N) the previous lines of each, if they are read as context.
    """

    sources: Tensor
    captions: Captions
    previous: Tensor | None = None


class TranslatorRun(Loop[PairBatch]):
    """One training run of a translation model."""

    metric: ClassVar[str] = "BLEU"
    units: ClassVar[str] = "words"
    model: TranslationModel

    def __init__(self, config: TranslateConfig, *, resume: bool, events: Events) -> None:
        super().__init__(config, resume=resume, events=events)
        require_sacrebleu()
        self.config = config
        self.train, self.dev = self._read(config.data.train), self._read(config.data.dev)
        both = len(set(self.train.pairs) & set(self.dev.pairs))
        if 2 * both > len(set(self.dev.pairs)):
            self.events.warn(
                f"{self.train.name}: {both:,} pairs are in {self.dev.name} too, so its score does not show how new "
                "sentences are translated; choose other splits"
            )
        source = Subwords.learn((pair.source for pair in self.train.pairs), merges=config.data.merges)
        target = Subwords.learn((pair.target for pair in self.train.pairs), merges=config.data.merges)
        self.model = TranslationModel(config.model, source, target).to(self.device)
        if config.data.context:
            readers_of_context(self.model.refiner, self.model.decoder)  # refuses a model that cannot read it
        self.numbers, lines = self._encode(self.train)
        lengths = [max(map(len, pair)) for pair in self.numbers]
        self.runs = runs(lines, self._longest_run)
        self.dev_runs = runs(self.dev.lines, self._longest_run)
        self.sampler = LengthSampler(
            [max(lengths[index] for index in run) for run in self.runs],
            tokens=config.batch_tokens,
            seed=config.seed,
            pairs=[len(run) for run in self.runs],
        )
        self.average = copy.deepcopy(self.model).eval()
        self.objective: CrossEntropy = CrossEntropy(config.objective).to(self.device)
        self.optimiser = self.adamw([(self.model, config.optimiser.learning_rate)])
        self.steps = len(self.sampler)
        self.data = data_hash(source.merges, target.merges, self.train.pairs, self.dev.pairs)

    def _read(self, split: str) -> ParallelText:
        model = self.config.model
        text = read_parallel(self.config.data.path, split, source=model.source, target=model.target)
        for problem in text.problems[:5]:
            self.events.warn(f"left out: {problem}")
        if len(text.problems) > 5:
            self.events.warn(f"left out: {len(text.problems) - 5:,} more pairs with an empty line")
        return text

    @property
    def _longest_run(self) -> int:
        """Number of lines in a run: 1 without context, else so many that few lines have less than full context."""
        return 8 * (self.config.data.context + 1) if self.config.data.context else 1

    def _encode(self, text: ParallelText) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
        """Return the tokens and the line number of each pair, without pairs that are too long.

        Sources are as the encoder reads them; translations run from ``<bos>`` to ``<eos>``.
        """
        limit = min(self.config.data.max_pieces, self.config.model.max_pieces)
        numbers = [(self.model.read(pair.source), self.model.target.encode(pair.target)) for pair in text.pairs]
        # A source that was cut has no <eos>.
        kept = [
            (pair, line)
            for pair, line in zip(numbers, text.lines, strict=True)
            if pair[0][-1] == EOS and len(pair[0]) - 1 <= limit and len(pair[1]) - 2 <= limit
        ]
        if len(kept) < len(numbers):
            self.events.warn(
                f"{text.name}: {len(numbers) - len(kept):,} pairs of more than {limit} pieces are left out"
            )
        if not kept:
            raise AnnotationError(f"{text.name}: every pair has more than {limit} pieces; raise data.max_pieces")
        return [pair for pair, _ in kept], [line for _, line in kept]

    def describe(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{len(self.numbers):,} training pairs, {len(self.dev.pairs):,} dev pairs; "
            f"{len(self.model.source):,} and {len(self.model.target):,} pieces of words; "
            f"{parameters / 1e6:.1f} M parameters"
        )

    def forecast(self) -> Forecast:
        """Time some steps and translations."""
        training = self.time_a_step(0) * self.steps * self.config.epochs
        few = evenly_spaced(self.dev_runs, -(-self.config.evaluation.batch_size // self._longest_run))
        began = time.perf_counter()
        self._translate(few)
        seconds = (time.perf_counter() - began) / len(few) * len(self.dev_runs)
        return Forecast(
            data={"training pairs": len(self.numbers), "dev pairs": len(self.dev.pairs)},
            parameters={
                "encoder": sum(parameter.numel() for parameter in self.model.encoder.parameters()),
                "decoder": sum(
                    values.numel() for part in (self.model.refiner, self.model.decoder) for values in part.parameters()
                ),
            },
            steps_per_epoch=self.steps,
            epochs=self.config.epochs,
            seconds={
                "training": training,
                "evaluation": seconds * (self.config.epochs // self.config.evaluation.every),
            },
        )

    def trained_modules(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        return {"model": (self.model, self.average)}

    def batches(self, epoch: int, skip: int) -> Iterator[PairBatch]:
        for chosen in self.sampler.epoch(epoch, skip=skip):
            mine = [self.runs[run] for run in self.processes.share(chosen)]
            pairs = [self.numbers[index] for run in mine for index in run]
            starts = [position == 0 for run in mine for position in range(len(run))]
            yield PairBatch(
                collate([source for source, _ in pairs]),
                Captions.collate([[target] for _, target in pairs]),
                previous_lines(starts, self.config.data.context) if self.config.data.context else None,
            )

    def batch_loss(self, batch: PairBatch, captions: Captions) -> BatchLoss:
        refiner, decoder = self.model.refiner, self.model.decoder
        if batch.previous is not None:
            previous = batch.previous.to(self.device)
            refiner, decoder = RefinerInContext(refiner, previous), DecoderInContext(decoder, previous)
        loss, metrics = self.objective(refiner, decoder, self.model(batch.sources.to(self.device)), captions)
        return BatchLoss(loss, metrics, len(captions.targets))

    def evaluate(self) -> dict[str, float]:
        parts = self.processes.gather(self._translate(self.processes.share(self.dev_runs)))
        texts = [
            text for number in range(len(self.dev_runs)) for text in parts[number % len(parts)][number // len(parts)]
        ]
        return score_translations(texts, [pair.target for pair in self.dev.pairs])

    def _translate(self, chosen: Sequence[list[int]]) -> list[list[str]]:
        """Translate the sources of runs of dev pairs with the averaged model."""
        settings, context = self.config.evaluation, self.config.data.context
        translator = Translator(self.average, device=str(self.device), **settings.search.model_dump())
        at_once = settings.batch_size * (self._longest_run + 1) if context else settings.batch_size
        found = translate_runs(translator, self.dev, chosen, batch_size=at_once, context=context)
        return [[translation.text for translation in run] for run in found]

    def save(self, name: str) -> None:
        about = {
            "data": self.train.name,
            "dev": self.config.data.dev,
            "pairs": len(self.numbers),
            "merges": self.config.data.merges,
            **({"context": self.config.data.context} if self.config.data.context else {}),
            **self.about(),
            "dev_bleu": round(self.score, 4),
            "recipe": json.loads(self.config.model_dump_json(exclude={"output", "data", "device", "save_minutes"})),
        }
        save_translator(self.output / name, self.average, about=about)
