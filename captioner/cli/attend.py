"""``captioner attend``: draw the attention for each word of a caption."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from captioner import files
from captioner.cli import bars, console, images, options, outputs, streams
from captioner.errors import CaptionerError, ImageError

if TYPE_CHECKING:
    from captioner.caption import Caption

EXAMPLES = """Example: captioner attend photo.jpg -o figure.png

Example: captioner attend photo.jpg -o page.html --n-best 3

Example: captioner attend photo.jpg -o dog.pdf --word dog

Example: captioner attend photos --recursive -o figures --format gif

Example: captioner attend photo.jpg -o hund.png --language de"""

# As in captioner.figures, which is imported only after the options are checked.
Kind = Literal["png", "svg", "pdf", "gif", "html", "json"]
_KINDS: tuple[str, ...] = get_args(Kind)
_DRAWN = _KINDS[:3]


def run(
    given: images.Images,
    *,
    output: Annotated[
        Path,
        options.output_option(
            "--output",
            "-o",
            callback=outputs.writable,
            help=f"A file ending in {outputs.endings(_KINDS)}; for several images a folder for their figures.",
        ),
    ],
    format: Annotated[
        Kind | None,
        options.output_option(
            help="png, svg, pdf: a panel for each word. gif: the words one by one. html: a page to explore. "
            "json: the numbers. By default that of the file's name, in a folder png."
        ),
    ] = None,
    models: options.Models = None,
    translation: options.Translation,
    word: Annotated[
        str | None, options.output_option(help="Show only this word of the caption, large; in png, svg or pdf.")
    ] = None,
    search: options.NBest,
    heads: Annotated[
        str,
        typer.Option(
            help="Of a Transformer: mean, rollout (all blocks together), one head as BLOCK.HEAD, for example 2.3, "
            "or, only in json, heads (all of them)."
        ),
    ] = "mean",
    colours: Annotated[
        str,
        options.output_option(
            "--colours", "--colors", help="A matplotlib colour map: inferno, magma, plasma, viridis, cividis ..."
        ),
    ] = "inferno",
    workers: options.Workers = 2,
    device: options.Device = "auto",
    engine: options.EngineName = "auto",
) -> None:
    """Draw the attention for each word of a caption over its image.

    With --language or --translator, draw it for each word of the translation: the attention for the English words that
    the translator attended to.

    With --n-best, html shows the captions side by side, and json lists them.

    In a folder, the figure of cat.jpg is cat.attention.png, and that of another cat.png cat-2.attention.png. A line
    "file: sentence" is printed for each figure.

    Figures of an earlier run are replaced, other files are not. When a folder is captioned, figures are left out.

    An image that cannot be read is reported on stderr and skipped; the exit code is then 1.
    """
    kind, single = _kind(output, format)
    for option, wanted, kinds in (
        ("--word", word is not None, _DRAWN),
        ("--n-best", search.n_best > 1, ("html", "json")),
    ):
        if wanted and kind not in kinds:
            raise typer.BadParameter(f"{kind} cannot show it; use {', '.join(kinds)}", param_hint=option)
    if heads == "heads" and translation:
        raise typer.BadParameter("a translation has one attention; leave it out, or --language", param_hint="--heads")
    if heads == "heads" and kind != "json":
        raise typer.BadParameter(
            "all heads are numbers for json; give one as BLOCK.HEAD, for example 2.3", param_hint="--heads"
        )
    from captioner.data.mark import check_replaceable

    failures = console.Failures()
    found = given.names(failures)
    first = list(islice(found, 2 if single else 1))
    if not first:
        failures.exit()
        raise CaptionerError(images.NO_IMAGES)
    if len(first) > 1:
        raise typer.BadParameter(
            f"{output} is one file, and there are several images; give a folder", param_hint="--output"
        )
    if single and os.path.realpath(first[0]) == os.path.realpath(output):
        raise CaptionerError(f"{output}: is the image itself, which would be overwritten; give another --output")
    if single:
        check_replaceable(output)

    settings = search.settings()
    if error := given.unreadable(first):
        raise error
    from captioner import Captioner
    from captioner.data.images import load_image
    from captioner.figures import Figure, Style
    from captioner.settings import validate

    style = validate(Style, {"colours": colours}, where="attend")
    model = options.ensemble(models)
    captioner = Captioner.from_pretrained(model, device=device, engine=engine, **settings)
    if not captioner.attends:
        raise CaptionerError(
            f"{model}: does not attend to the image, so there is no heatmap to draw; "
            "use a model that does, such as show_attend_tell"
        )
    captioner.engine.for_attention(heads)
    translator = translation.load(device)
    if translator and not translator.model.decoder.attends:
        raise CaptionerError(
            f"{translation.translator or translation.language}: this translator does not attend to words, so there is "
            "no heatmap to draw; use one that does"
        )
    name = _Names(output, kind)
    drawn = replaced = 0
    with bars.progress("Drawing", show=not single and bars.at_once(stdout=True)) as progress:
        results = captioner.stream(chain(first, found), workers=workers, max_pixels=given.max_pixels, attention=heads)
        if translator:
            results = translator.captions(results)
        for done, result in enumerate(results, start=1):
            try:
                if isinstance(result, ImageError):
                    raise result
                if translator:
                    result = result.translated()
                source = result.source or ""
                number = None if word is None else _find(result, word)
                figure = Figure(result, load_image(source, max_pixels=given.max_pixels), style, number)
                file = output if single else output / name(source)
                check_replaceable(file)
                was_there = not single and file.exists()
                figure.save(file, kind)
                drawn += 1
                replaced += was_there
                streams.show(f"{streams.quoted(str(file))}: {result.text}")
            except CaptionerError as error:
                failures(error)
            except OSError as error:
                failures(f"{result.source}: its figure cannot be written ({error.strerror or error})")
            progress(done, None)
    if not single:
        old = f"; replaced {console.count(replaced, 'figure')} of an earlier run" if replaced else ""
        console.wrote(f"{output}{os.sep}", f"{console.count(drawn, 'figure')}{old}")
    failures.exit()


def _find(result: Caption, word: str) -> int:
    """Return the word's index in a caption; the error of a missing word names the image."""
    from captioner.figures import find_word

    try:
        return find_word(result, word)
    except CaptionerError as error:
        raise CaptionerError(f"{result.source}: {error}") from None


def _kind(output: Path, given: Kind | None) -> tuple[str, bool]:
    """Return the format, and whether ``output`` is a file for one figure, not a folder."""
    named = files.format_of(output)
    if output.is_dir() or not (named or output.is_file()):
        return given or "png", False
    if given is None and named not in _KINDS:
        raise typer.BadParameter(
            f"{output}: must end in {outputs.endings(_KINDS)}, or be a folder; or give --format", param_hint="--output"
        )
    return given or named, True


class _Names:
    """File names for figures in a folder.

    Images in different folders may share a name, so figures are numbered; names that differ only in case count as the
    same. A name that is too long for the file system is cut, with a digest instead of its end.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._ending = f".attention.{kind}"
        self._longest = _longest_name(folder)
        self._used: set[str] = set()
        self._numbers: dict[str, int] = {}

    def __call__(self, source: str) -> str:
        """Return the name for an image's figure."""
        stem = Path(source).stem
        number = self._numbers.get(_folded(stem), 0)
        while True:
            number += 1
            name = self._fitted(stem, f"-{number}{self._ending}" if number > 1 else self._ending)
            if _folded(name) not in self._used:
                break
        self._numbers[_folded(stem)] = number
        self._used.add(_folded(name))
        return name

    def _fitted(self, stem: str, ending: str) -> str:
        if len(os.fsencode(stem + ending)) <= self._longest:
            return stem + ending
        ending = f"~{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}{ending}"
        while stem and len(os.fsencode(stem + ending)) > self._longest:
            stem = stem[:-1]
        return stem + ending


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _longest_name(folder: Path) -> int:
    """Return the longest name in bytes of a file in a folder, which need not exist yet."""
    there = next((parent for parent in (folder, *folder.absolute().parents) if parent.is_dir()), Path())
    try:
        return os.pathconf(there, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows has no pathconf
        return 255
