"""Options that several commands share, in groups, and checks of their values.

A group is a dataclass with one field for each option; see :mod:`captioner.cli.groups`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from captioner.cli import complete, console
from captioner.cli.outputs import ends_in, writable

if TYPE_CHECKING:
    from captioner.collection.library import Library
    from captioner.data.dataset import CaptionData
    from captioner.translation.translator import Translator


# Kinds of options, each with the title of its group in --help.
data_option, machine_option, training_option = (
    functools.partial(typer.Option, rich_help_panel=title) for title in ("Data", "Machine", "Training")
)
output_option = functools.partial(typer.Option, rich_help_panel="Output")
library_option = functools.partial(typer.Option, rich_help_panel="Photo library")
search_option = functools.partial(typer.Option, rich_help_panel="Search", show_default="the model's own")


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", name):
        raise typer.BadParameter(f"{name!r} is none of cpu, cuda, cuda:1 (or another number), mps and auto")
    return name


output_file = functools.partial(output_option, dir_okay=False, callback=writable)
output_folder = functools.partial(output_option, "--output", "-o", file_okay=False, callback=writable)


Device = Annotated[
    str,
    machine_option(
        autocompletion=complete.devices,
        callback=_device,
        help="cpu, cuda, cuda:1, mps, or auto for the best available.",
    ),
]
EngineName = Annotated[
    Literal["auto", "onnx", "torch"],
    machine_option(
        "--engine",
        help="onnx runs a model's graphs on the CPU, torch its weights; auto: onnx on a CPU if the model has graphs, "
        "else torch.",
    ),
]
BatchSize = Annotated[int, machine_option(min=1, help="Images or sentences in a batch.")]
Workers = Annotated[int, machine_option(min=1, help="Threads that load images.")]
Json = Annotated[bool, output_option("--json", help="Print JSON.")]
JsonLines = Annotated[bool, output_option("--json", help="Print one JSON object per line.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete.models,
        help="A shipped model, a model folder, or user/model on the Hugging Face hub.",
    ),
]
DataPath = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="The caption data set: a file, a folder, or hf://datasets/USER/NAME on the hub."
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=complete.models,
        help="A shipped model, a model folder, or user/model on the Hugging Face hub. Several, repeated or as A+B, "
        "form an ensemble.",
    ),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated.")
]
Metrics = Annotated[
    list[str] | None, output_option(help="BLEU, METEOR, ROUGE-L, CIDEr, SPICE, separated by commas; all if not given.")
]
Strict = Annotated[
    bool, data_option("--strict", help="Refuse data with malformed records, which are otherwise left out and reported.")
]


@dataclass(frozen=True)
class Search:
    """Settings of the search that replace the model's own."""

    beam: Annotated[int | None, search_option(min=1, help="Beam width; 1 is greedy search.")] = None
    length_normalisation: Annotated[
        float | None, search_option(min=0, help="Divide a sentence's log-probability by this power of its length.")
    ] = None
    min_words: Annotated[int | None, search_option(min=0, help="Minimum number of words in a sentence.")] = None
    max_words: Annotated[int | None, search_option(min=1, help="Maximum number of words in a sentence.")] = None
    block_ngram: Annotated[
        int | None, search_option(min=0, help="Never repeat a sequence of this many words; 0 allows it.")
    ] = None

    def settings(self) -> dict[str, Any]:
        """Return the settings that were given, by their names in the library.

        Raises:
            typer.BadParameter: two of them contradict each other.
        """
        given = asdict(self)
        beam, n_best, least, most = (given.get(name) for name in ("beam", "n_best", "min_words", "max_words"))
        if beam is not None and n_best is not None and n_best > beam:
            raise typer.BadParameter(f"more than the beam width, {beam}; give a wider --beam", param_hint="--n-best")
        if least is not None and most is not None and least > most:
            raise typer.BadParameter(f"more than --max-words, {most}", param_hint="--min-words")
        given = {"width": given.pop("beam")} | given
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class NBest(Search):
    """Settings of a search for several hypotheses."""

    n_best: Annotated[
        int,
        search_option(
            min=1,
            show_default=True,
            help="Number of captions or translations, best first; at most --beam, if that is given. They are ranked by "
            "log-probability / words**0.7, plus the expected CIDEr if the model has a consensus.",
        ),
    ] = 1


@dataclass(frozen=True)
class Data:
    """The part of a caption data set that a command reads."""

    split: Annotated[str | None, data_option(help="The split.", show_default="the only one, else dev")] = None
    images: Annotated[
        Path | None, data_option(file_okay=False, help="Folder of the images, if they are not next to the data.")
    ] = None
    restval: Annotated[bool, data_option("--restval", help="Count COCO's restval images as train.")] = False
    strict: Strict = False

    def read(self, path: Path, *, captionless: bool = False) -> CaptionData:
        """Read the data set with all its splits, on request with images without captions; report malformed records."""
        from captioner.data.annotations import read_captions

        return report_malformed(read_captions(path, images=self.images, strict=self.strict, captionless=captionless))

    def chosen(self, data: CaptionData) -> str:
        """Return the name of the requested split, else of the only one, else dev."""
        return self.split or (next(iter(data.splits)) if len(data.splits) == 1 else "dev")

    def part(self, data: CaptionData) -> CaptionData:
        """Return the images of the chosen split."""
        return data.split(self.chosen(data), restval=self.restval)


@dataclass(frozen=True)
class Output:
    """Outputs of every command that measures."""

    output_scores: Annotated[Path | None, output_file(help="Write the scores as JSON.")] = None
    json: Json = False


@dataclass(frozen=True)
class Scoring(Output):
    """Metrics of captions, and their outputs."""

    per_image: Annotated[
        Path | None,
        output_file(
            callback=ends_in("json", "csv"),
            help="Write the scores of every image with its caption to a .json or .csv file.",
        ),
    ] = None
    metrics: Metrics = None


@dataclass(frozen=True)
class Translation:
    """The translator of captions, if any."""

    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            autocompletion=complete.languages,
            help="Translate the English captions, for example into de, with the shipped translator.",
        ),
    ] = None
    translator: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=complete.translators,
            help="Translate with this one: a shipped translator, a translator's folder, or user/model.",
        ),
    ] = None

    def __bool__(self) -> bool:
        return self.language is not None or self.translator is not None

    def load(self, device: str) -> Translator | None:
        """Load the translator; ``None`` if neither option is given."""
        if not self:
            return None
        from captioner.translation.find import find_translator

        return find_translator(self.language, self.translator, device=device)


class Sidecar(str, Enum):
    """A kind of file with the caption of a photo next to it."""

    TXT = "txt"
    XMP = "xmp"


@dataclass(frozen=True)
class Places:
    """Captions for photo software: in sidecars and in the photos."""

    sidecar: Annotated[
        list[Sidecar] | None,
        library_option(help="Write photo.txt (txt) or an XMP file (xmp) next to each photo; may be repeated."),
    ] = None
    sidecar_name: Annotated[
        Literal["photo.jpg.xmp", "photo.xmp"] | None,
        library_option(
            help="Name of the XMP file of photo.jpg.", show_default="that of an existing one, else photo.jpg.xmp"
        ),
    ] = None
    extension: Annotated[str, library_option(help="Extension of text files, as in .caption.")] = ".txt"
    prefix: Annotated[str, library_option(help="Text before the caption in text files.")] = ""
    suffix: Annotated[str, library_option(help="Text after the caption in text files.")] = ""
    embed: Annotated[
        bool,
        library_option(
            "--embed", help="Write XMP into each photo (JPEG, PNG, WebP, TIFF), without changing its compressed image."
        ),
    ] = False

    def open(self, *, overwrite: bool) -> Library | None:
        """Return the writer of these captions; ``None`` if no option is given.

        Raises:
            typer.BadParameter: an option has no effect without another one.
            ConfigError: the extension is that of an image.
        """
        kinds = self.sidecar or ()
        for option, given, kind in (
            ("--sidecar-name", self.sidecar_name is not None, "xmp"),
            ("--extension", self.extension != ".txt", "txt"),
            ("--prefix", self.prefix, "txt"),
            ("--suffix", self.suffix, "txt"),
        ):
            if given and kind not in kinds:
                raise typer.BadParameter(f"give --sidecar {kind} too", param_hint=option)
        if not kinds and not self.embed:
            return None
        from captioner.collection.library import Library
        from captioner.metadata import TextSidecars, XmpSidecars

        texts = TextSidecars(extension=self.extension, prefix=self.prefix, suffix=self.suffix, overwrite=overwrite)
        return Library(
            texts if "txt" in kinds else None,
            XmpSidecars(name=self.sidecar_name, overwrite=overwrite) if "xmp" in kinds else None,
            self.embed,
            overwrite,
        )


def names(lists: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names in comma-separated lists, as given by an option that may be repeated."""
    return tuple(name.strip() for names in lists or () for name in names.split(",") if name.strip())


def metrics(lists: Sequence[str] | None) -> tuple[str, ...]:
    """Return the metrics in comma-separated lists, or all if there are none; see :func:`names`.

    Raises:
        EvaluationError: one of them does not exist.
    """
    from captioner.evaluation.metrics import DEFAULT_METRICS, metric_families

    chosen = names(lists)
    if chosen:
        metric_families(chosen)
    return chosen or DEFAULT_METRICS


def ensemble(models: Sequence[str] | None) -> str | None:
    """Return the name of the ensemble of several models, the name of one model, or ``None`` without any."""
    from captioner.store import join

    return join(models) if models else None


def report_malformed(data: CaptionData) -> CaptionData:
    """Report on stderr the malformed records of a data set that was read without --strict, and return it."""
    for guess in data.notes:
        console.note(guess)
    if summary := data.problem_summary():
        console.note(f"{summary}, --strict refuses them")
    return data


def refuse(why: str, **given: object) -> None:
    """Refuse options, named by their parameters, that a command cannot use in this case.

    Raises:
        typer.BadParameter: one of them is given.
    """
    for name, value in given.items():
        if value:
            raise typer.BadParameter(why, param_hint=f"--{name.replace('_', '-')}")


def check_recipe(name_or_path: str, changes: Sequence[str]) -> None:
    """Check, before torch is imported, that a recipe or data set and ``key=value`` changes can be read.

    Raises:
        ConfigError: the recipe cannot be read, or a change has another form.
        AnnotationError: the data set cannot be read.
    """
    from captioner.settings import override, read_yaml
    from captioner.training.recipe_files import find_recipe, is_data

    override({}, changes)
    if is_data(name_or_path):
        from captioner.data.annotations import read_captions

        read_captions(name_or_path)
    else:
        read_yaml(find_recipe(name_or_path))
