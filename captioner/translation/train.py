"""Training and scoring of translation models.

Tensor letters: B pairs, S source pieces, T target pieces.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from rich.console import Console
from torch import Tensor, nn

from captioner.caption import Translation
from captioner.data.batches import Captions
from captioner.encoders.sequence import TEXT_ENCODERS
from captioner.errors import AnnotationError, EvaluationError
from captioner.settings import Settings, override, read_yaml
from captioner.text.subwords import Subwords
from captioner.text.vocabulary import EOS
from captioner.training.cross_entropy import CrossEntropy, CrossEntropyConfig
from captioner.training.loop import Cost, Loop
from captioner.training.recipe import EvaluationConfig, RunConfig, find_recipe, load_config, read_run
from captioner.translation.model import TextSearchConfig, TranslationConfig, TranslationModel, save_translator
from captioner.translation.pairs import LengthSampler, Pair, ParallelText, collate, read_parallel
from captioner.translation.translator import Translator


class TextDataConfig(Settings):
    """What to learn from and what to choose on; the languages are the model's."""

    path: Path = Field(
        description="folder with a file of sentences for each split and language, a line each: train.en, train.de, val.en, val.de"
    )
    train: str = Field("train", description="split to learn from; the pieces of words are from it")
    dev: str = Field("val", description="split on which the best epoch is chosen")
    merges: int = Field(4000, ge=0, description="merges of the byte-pair encoding of each language")
    max_pieces: int = Field(100, ge=1, description="training pairs with a longer side are left out")


class TextObjectiveConfig(CrossEntropyConfig):
    """The objective, without the penalty that asks to look everywhere: a translation has as many words as it needs."""

    doubly_stochastic: float = Field(
        0.0, ge=0, description="weight of the penalty that asks a translation to look at every word (Xu 2015, eq. 14)"
    )


class TextEvaluationConfig(EvaluationConfig):
    """Choosing the best epoch by BLEU."""

    search: TextSearchConfig = Field(default_factory=lambda: TextSearchConfig(width=1))


class TranslateConfig(RunConfig):
    """A training run of a translation model."""

    data: TextDataConfig
    model: TranslationConfig = Field(default_factory=TranslationConfig)
    objective: TextObjectiveConfig = Field(default_factory=TextObjectiveConfig)
    evaluation: TextEvaluationConfig = Field(default_factory=TextEvaluationConfig)
    batch_tokens: int = Field(4000, ge=1, description="pieces in a step on either side, padding included")


def load_translate_config(
    name_or_path: str | Path, changes: Iterable[str] = (), output: Path | None = None
) -> TranslateConfig:
    """Read a translator's recipe, by name or from a YAML file, and apply ``key=value`` changes; see :func:`captioner.training.recipe.read_run`."""
    return read_run(TranslateConfig, name_or_path, changes, output)


def is_translators(settings: Mapping[str, Any]) -> bool:
    """Tell a translator's recipe from a captioner's: its model has a source or target language, or an encoder of text."""
    model = settings.get("model")
    if not isinstance(model, dict):
        return False
    encoder = model.get("encoder")
    return not model.keys().isdisjoint(("source", "target")) or (
        isinstance(encoder, dict) and encoder.get("name") in TEXT_ENCODERS
    )


def read_recipe(name_or_path: str | Path, changes: Iterable[str] = ()) -> RunConfig:
    """Read a recipe of either kind, a captioner's or a translator's.

    Raises:
        ConfigError: see :func:`read_run`.
    """
    if is_translators(override(read_yaml(find_recipe(name_or_path)), changes)):
        return load_translate_config(name_or_path, changes)
    return load_config(name_or_path, changes)


def train_translation(
    config: str | Path | TranslateConfig,
    changes: Iterable[str] = (),
    *,
    output: Path | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train a translation model; what the run's folder gets is told in :mod:`captioner.training.loop`.

    Args:
        config: a recipe's name, a YAML file, or the settings themselves, to which ``changes`` and ``output`` do not
            apply.
        changes: ``key=value`` changes of the settings.
        output: folder of the run, if not the one of the settings.
        resume: go on with the run in the output folder.
        console: where to report; ``None`` is standard error.

    Returns:
        The folder of the best model, by BLEU on dev.

    Raises:
        CaptionerError: the data, the settings or the output folder cannot be used, or sacrebleu is missing.
    """
    if not isinstance(config, TranslateConfig):
        config = load_translate_config(config, changes, output)
    return _Run(config, resume=resume, console=console or Console(stderr=True)).run()


def evaluate_translation(
    translator: Translator, data: str | Path, *, split: str = "val", batch_size: int = 64
) -> tuple[dict[str, float], list[Translation]]:
    """Translate a split of a data folder and score it against the other language's file; see :func:`score_translations`.

    Raises:
        CaptionerError: the data cannot be read, or sacrebleu is missing.
    """
    _metrics()  # if it is missing, say so before the work
    config = translator.model.config
    pairs = read_parallel(data, split, source=config.source, target=config.target).pairs
    translations = translator([pair.source for pair in pairs], batch_size=batch_size)
    return score_translations(
        [translation.text for translation in translations], [pair.target for pair in pairs]
    ), translations


def score_translations(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Score translations against one reference each, by sacrebleu's settings (Post 2018): ``BLEU`` (13a, cased) and ``chrF``, from 0 to 1.

    Raises:
        EvaluationError: sacrebleu is missing.
    """
    return {
        name: metric().corpus_score(list(texts), [list(references)]).score / 100 for name, metric in _metrics().items()
    }


def _metrics() -> dict[str, Callable[[], Any]]:
    try:
        from sacrebleu.metrics import BLEU, CHRF  # type: ignore[import-not-found,attr-defined,unused-ignore]  # an extra dependency
    except ImportError:
        raise EvaluationError(
            "translations are scored by sacrebleu, which is not installed; install it with: pip install sacrebleu"
        ) from None
    return {"BLEU": BLEU, "chrF": CHRF}


@dataclass(frozen=True)
class Batch:
    """Source sentences (B, S), padded, and their translations as one caption each."""

    sources: Tensor
    captions: Captions


class _Run(Loop[Batch]):
    """One training run of a translation model."""

    metric: ClassVar[str] = "BLEU"
    units: ClassVar[str] = "words"
    model: TranslationModel

    def __init__(self, config: TranslateConfig, *, resume: bool, console: Console) -> None:
        super().__init__(config, resume=resume, console=console)
        _metrics()
        self.config = config
        self.train, self.dev = self._read(config.data.train), self._read(config.data.dev)
        source = Subwords.learn((pair.source for pair in self.train.pairs), merges=config.data.merges)
        target = Subwords.learn((pair.target for pair in self.train.pairs), merges=config.data.merges)
        self.model = TranslationModel(config.model, source, target).to(self.device)
        self.numbers = self._encode(self.train.pairs)
        lengths = [max(map(len, pair)) for pair in self.numbers]
        self.sampler = LengthSampler(lengths, tokens=config.batch_tokens, seed=config.seed)
        self.average = copy.deepcopy(self.model).eval()
        self.objective: CrossEntropy = CrossEntropy(config.objective).to(self.device)
        self.optimiser = self.adamw([(self.model, config.optimiser.learning_rate)])
        self.steps = len(self.sampler)

    def _read(self, split: str) -> ParallelText:
        model = self.config.model
        text = read_parallel(self.config.data.path, split, source=model.source, target=model.target)
        for problem in text.problems[:5]:
            self.console.print(f"left out: {problem}", style="yellow")
        if len(text.problems) > 5:
            self.console.print(f"left out: {len(text.problems) - 5:,} more pairs with an empty line", style="yellow")
        return text

    def _encode(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
        """Return each pair as numbers: what the encoder reads, and the translation from ``<bos>`` to ``<eos>``; without those that are too long."""
        most = min(self.config.data.max_pieces, self.config.model.max_pieces)
        numbers = [(self.model.read(pair.source), self.model.target.encode(pair.target)) for pair in pairs]
        # A source that was cut has no end.
        kept = [
            pair for pair in numbers if pair[0][-1] == EOS and len(pair[0]) - 1 <= most and len(pair[1]) - 2 <= most
        ]
        if len(kept) < len(pairs):
            self.console.print(
                f"{self.train.name}: {len(pairs) - len(kept):,} pairs of more than {most} pieces are left out",
                style="yellow",
            )
        if not kept:
            raise AnnotationError(f"{self.train.name}: every pair has more than {most} pieces; raise data.max_pieces")
        return kept

    def describe(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{len(self.numbers):,} pairs to learn from, {len(self.dev.pairs):,} to choose on; {len(self.model.source):,} and "
            f"{len(self.model.target):,} pieces of words; {parameters / 1e6:.1f} M parameters"
        )

    def parts(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        return {"model": (self.model, self.average)}

    def batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        for chosen in self.sampler.epoch(epoch, skip=skip):
            pairs = [self.numbers[index] for index in chosen]
            yield Batch(collate([source for source, _ in pairs]), Captions.collate([[target] for _, target in pairs]))

    def cost(self, batch: Batch) -> Cost:
        captions = batch.captions.to(self.device)
        loss, metrics = self.objective(self.model.decoder, self.model(batch.sources.to(self.device)), captions)
        return Cost(loss, metrics, len(captions.targets))

    def evaluate(self) -> dict[str, float]:
        settings = self.config.evaluation
        translator = Translator(self.average, device=str(self.device), **settings.search.model_dump())
        texts = translator([pair.source for pair in self.dev.pairs], batch_size=settings.batch_size)
        return score_translations([translation.text for translation in texts], [pair.target for pair in self.dev.pairs])

    def save(self, name: str) -> None:
        about = {
            "data": self.train.name,
            "pairs": len(self.numbers),
            "seed": self.config.seed,
            "precision": self.precision,
            "epoch": self.progress.epoch,
            "minutes": round(self.progress.seconds / 60, 1),
            "dev_bleu": round(self.progress.best, 4),
            "recipe": json.loads(self.config.model_dump_json(exclude={"output", "data", "device", "save_minutes"})),
        }
        save_translator(self.output / name, self.average, about=about)
