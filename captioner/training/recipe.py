"""The schema of a captioner's recipe: every setting of a training run, with its default and description."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import Field, field_validator, model_validator

from captioner.data.augment import AugmentConfig
from captioner.decoders import DECODERS
from captioner.errors import CaptionerError, ConfigError
from captioner.machine.packages import is_installed, require
from captioner.model import ModelConfig
from captioner.search.config import SearchConfig
from captioner.settings import DEFAULT_OBJECTIVE, Settings, validate
from captioner.training import cross_entropy, self_critical, tensorboard  # noqa: F401 (they register themselves)
from captioner.training.consensus import ConsensusSettings
from captioner.training.logger import LOGGERS
from captioner.training.objective import OBJECTIVES
from captioner.training.recipe_files import IMPORT, read_recipe
from captioner.training.teacher import TeacherConfig

Beta: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
MIN_DEV_IMAGES = 40  # dev images; with fewer, a choice between models is mostly chance


class DataConfig(Settings):
    """The data to train on and to select the best epoch on."""

    path: Path = Field(description="a caption data set; see: captioner data inspect")
    images: Path | None = Field(
        None, description="folder of the images, if they are not where the format of the data set expects them"
    )
    train: str = Field("train", description="training split; the vocabulary and all statistics come from it")
    dev: str = Field("dev", description="split that selects the best epoch; 'val' and 'dev' are the same")
    restval: bool = Field(False, description="count COCO's restval as train")
    dev_share: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="share of the images that selects the best epoch, if the data set has no dev split",
    )
    strict: bool = Field(
        False, description="refuse data with malformed records; otherwise these are reported and left out"
    )
    also: list[Path] = Field(
        default_factory=list,
        description="more data sets: their train and restval splits are trained on, and their dev or val splits select "
        "the best epoch too, by the mean score of the data sets",
    )
    exclude: Path | None = Field(
        None, description="text file of image ids, one on each line, that are not trained on; # begins a comment"
    )
    teacher: TeacherConfig = Field(
        default_factory=TeacherConfig, description="training captions that another captioner writes"
    )
    boxes: Path | None = Field(
        None,
        description="boxes of objects in training images, in COCO's instances format with the image ids of the data, "
        "for objective.grounding",
    )
    features: Path | None = Field(None, description="feature store; by default it is built in the run's folder")
    flips: bool = Field(True, description="also train on mirrored images")
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig,
        description="augmentation of training images, which are then encoded in every epoch and not stored",
    )
    min_count: int = Field(5, ge=1, description="words that occur less often in the training captions become <unk>")
    max_words: int = Field(24, ge=1, description="longer training captions are truncated")
    captions_per_image: int = Field(5, ge=1, description="captions per image in a step; they share one memory")


class OptimiserConfig(Settings):
    """AdamW with warm-up and decay."""

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    schedule: Literal["cosine", "linear", "inverse_root", "steps", "constant"] = Field(
        "cosine",
        description="learning rate after the warm-up: falls to zero (cosine, linear), with the inverse square root of "
        "the step (Vaswani 2017), by a factor every few epochs (steps), or stays constant",
    )
    decay: float = Field(0.8, gt=0, le=1, description="the factor of schedule steps")
    decay_epochs: int = Field(3, ge=1, description="schedule steps: epochs between applications of the factor")
    warmup: float = Field(
        0.1, ge=0, lt=1, description="share of steps in which the learning rate rises linearly from zero"
    )
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    clip: float = Field(5.0, gt=0, description="gradients are clipped to this norm")


class FineTuneConfig(Settings):
    """Tuning the encoder."""

    from_epoch: int | None = Field(
        None, ge=1, description="first epoch (from 1) in which the encoder is tuned; by default it stays frozen"
    )
    stages: int | None = Field(
        None,
        ge=1,
        description="number of the encoder's last stages to tune, on stored output of the frozen ones; by default the "
        "whole encoder is tuned, from the images",
    )
    learning_rate: float = Field(1e-5, gt=0, description="the encoder's peak learning rate, with the same schedule")


class EvaluationConfig(Settings):
    """Selecting the best epoch."""

    every: int = Field(1, ge=1, description="epochs between evaluations of generated captions")
    patience: int = Field(5, ge=1, description="stop after this many evaluations without an improvement")
    batch_size: int = Field(50, ge=1)
    search: SearchConfig = Field(default_factory=lambda: SearchConfig(width=3))


class RunConfig(Settings):
    """The settings that every training run has."""

    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    output: Path = Field(
        Path("runs/latest"), description="folder of the run: models, log, curves, and the state to resume from"
    )
    epochs: int = Field(12, ge=1)
    accumulate: int = Field(1, ge=1, description="batches whose gradients are averaged for one optimiser step")
    average: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights, which is evaluated and saved; 0 for none",
    )
    seed: int = Field(0, ge=0, lt=1 << 32)
    device: str = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16-mixed if the hardware supports it, else 32-true"
    )
    logger: list[str] = Field(
        default_factory=lambda: ["tensorboard"] if is_installed("tensorboard") else [],
        description="loggers of the curves, in addition to log.jsonl: tensorboard, the default where it is installed, "
        "and loggers of your own",
    )
    save_minutes: float = Field(
        5.0, gt=0, description="minutes between saved states, in addition to one at the end of each epoch"
    )

    @field_validator("logger", mode="before")
    @classmethod
    def _loggers(cls, names: Any) -> Any:
        """Accept a single name; report a name that does not exist, or lacks a package, before any work is done."""
        names = [names] if isinstance(names, str) else names
        for name in names if isinstance(names, list) else ():
            try:
                require(f"logger {name!r}", *LOGGERS[name].needs)
            except CaptionerError as error:
                raise ValueError(str(error)) from None
        return names


class TrainConfig(RunConfig):
    """A training run of a captioner."""

    data: DataConfig
    start: Path | None = Field(
        None, description="a model to start from; its vocabulary and model settings replace those of the recipe"
    )
    new_words: bool = Field(
        False,
        description="with 'start': add words that occur data.min_count times in training captions to its vocabulary",
    )
    blend: float | tuple[float, ...] = Field(
        1.0,
        description="with 'start': share of the trained weights in the model that is evaluated and saved, interpolated "
        "with those of the start (Wortsman 2022). Of several shares, each evaluation takes the best, or the first if "
        f"dev has fewer than {MIN_DEV_IMAGES} images",
    )
    encoder_from: Path | None = Field(
        None,
        description="a model whose tuned encoder is used, to compare models that differ only in refiner and decoder",
    )
    model: ModelConfig = Field(default_factory=ModelConfig)
    objective: dict[str, Any] = Field(
        default_factory=lambda: {"name": DEFAULT_OBJECTIVE},
        validate_default=True,
        description=f"one of {', '.join(OBJECTIVES)}, and its settings",
    )
    fine_tune: FineTuneConfig = Field(default_factory=FineTuneConfig)
    consensus: ConsensusSettings | None = Field(
        None,
        description="at the end of the run, fit a consensus, which predicts the n-grams in captions of an image and by "
        "which a search then ranks its hypotheses; null: none",
    )
    batch_size: int = Field(32, ge=1, description="images per step")

    @model_validator(mode="after")
    def _one_source(self) -> TrainConfig:
        if self.start is not None and self.encoder_from is not None:
            raise ValueError("encoder_from: the encoder is already that of the model in 'start'; leave one of them out")
        return self

    @model_validator(mode="after")
    def _positions(self) -> TrainConfig:
        decoder, search = self.model.decoder, self.evaluation.search
        known = DECODERS[decoder["name"]].Config(**{key: value for key, value in decoder.items() if key != "name"})
        longest = getattr(known, "max_words", None)
        if self.start is not None or getattr(known, "positions", None) != "learned" or longest is None:
            return self
        for name, words in (("data.max_words", self.data.max_words), ("evaluation.search.max_words", search.max_words)):
            if words > longest:
                raise ValueError(
                    f"{name}: is {words}, and the learned positions end after {longest} words; set "
                    f"model.decoder.max_words={words}, or sinusoidal positions"
                )
        return self

    @model_validator(mode="after")
    def _rewards(self) -> TrainConfig:
        learns_rewards = issubclass(OBJECTIVES[self.objective["name"]], self_critical.SelfCritical)
        if not learns_rewards or self.data.teacher.model is None:
            return self
        if self.data.teacher.unlabelled:
            raise ValueError(
                "data.teacher.unlabelled: self-critical training needs human captions for its reward, and these "
                "images have none; leave them out, or train on them first with cross_entropy"
            )
        if not self.objective.get("cross_entropy"):
            raise ValueError(
                "data.teacher: self-critical training uses its own samples, not a teacher's captions; set "
                "objective.cross_entropy to train on these too, or leave out the teacher"
            )
        return self

    @model_validator(mode="after")
    def _boxes(self) -> TrainConfig:
        weight = self.objective.get("grounding", 0)
        if weight and self.data.boxes is None:
            raise ValueError("objective.grounding: needs boxes of objects; give their file as data.boxes")
        if self.data.boxes is not None and not weight:
            raise ValueError("data.boxes: are used by objective.grounding only, which is 0; set it, or leave them out")
        return self

    @field_validator("blend")
    @classmethod
    def _shares(cls, blend: float | tuple[float, ...]) -> float | tuple[float, ...]:
        shares = blend if isinstance(blend, tuple) else (blend,)
        if not shares or not all(0 < share <= 1 for share in shares):
            raise ValueError("give a share above 0 and at most 1, or a list of them")
        return blend

    @field_validator("objective")
    @classmethod
    def _complete_objective(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Complete the settings of the objective, to report wrong ones before any work is done."""
        name = str(settings.get("name", DEFAULT_OBJECTIVE))
        rest = {key: value for key, value in settings.items() if key != "name"}
        try:
            return {"name": name, **validate(OBJECTIVES[name].Config, rest, where="objective").model_dump()}
        except ConfigError as error:
            # Pydantic reports a ValueError together with the other wrong settings.
            raise ValueError(str(error).removeprefix("objective: ")) from None


R = TypeVar("R", bound=RunConfig)


def load_config(name_or_path: str | Path, changes: Iterable[str] = (), output: Path | None = None) -> TrainConfig:
    """Read a captioner's recipe, by name or from a YAML file, and apply ``key=value`` changes; see :func:`read_run`."""
    return read_run(TrainConfig, name_or_path, changes, output)


def read_run(kind: type[R], name_or_path: str | Path, changes: Iterable[str], output: Path | None) -> R:
    """Read and validate a recipe; see :func:`captioner.training.recipe_files.read_recipe`.

    Raises:
        ConfigError: there is no such recipe or file, or settings are wrong; all wrong ones are reported.
    """
    settings = read_recipe(name_or_path, changes)
    settings.pop(IMPORT, None)  # a model's config names no code
    if output is not None:
        settings["output"] = str(output)
    return validate(kind, settings, where=str(name_or_path))
