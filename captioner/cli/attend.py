"""``captioner attend``: pictures in, figures of where the model looked out."""

from __future__ import annotations

import os
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli import caption, console
from captioner.errors import CaptionerError, ImageError

if TYPE_CHECKING:
    from captioner.caption import Caption

EXAMPLES = """Example: captioner attend photo.jpg -o figure.png

Example: captioner attend photo.jpg -o page.html --n-best 3

Example: captioner attend photo.jpg -o dog.pdf --word dog

Example: captioner attend photos --recursive -o figures --format gif"""

# As in captioner.figures, which is imported after the options are known to make sense.
_DRAWN = ("png", "svg", "pdf")
_KINDS = (*_DRAWN, "gif", "html", "json")
_ENDINGS = f"{', '.join(f'.{kind}' for kind in _KINDS[:-1])} or .{_KINDS[-1]}"


def _format(kind: str | None) -> str | None:
    if kind is not None and kind not in _KINDS:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(_KINDS)}")
    return kind


def run(
    paths: caption.Paths,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help=f"A file that ends in {_ENDINGS}; for several pictures the folder of their figures."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(_KINDS),
            callback=_format,
            help="png, svg, pdf: a panel for each word. gif: the words one by one. html: a page to explore. json: the numbers. "
            "By default what the file's name says, in a folder png.",
        ),
    ] = None,
    model: caption.Model = None,
    word: Annotated[
        str | None, typer.Option(help="Show this word of the caption alone, large; in png, svg or pdf.")
    ] = None,
    recursive: caption.Recursive = False,
    beam: console.Beam = None,
    n_best: Annotated[
        int,
        typer.Option(
            min=1, help="Captions of each picture, in html side by side and in json; at most the width of the beam."
        ),
    ] = 1,
    length_normalisation: console.LengthNormalisation = None,
    min_words: console.MinWords = None,
    max_words: console.MaxWords = None,
    block_ngram: console.BlockNgram = None,
    heads: Annotated[
        str,
        typer.Option(
            help="Of a Transformer: mean, rollout (all blocks together), one head as BLOCK.HEAD, for example 2.5, or in json all heads."
        ),
    ] = "mean",
    scale: Annotated[
        str,
        typer.Option(
            help="Whose strongest attention the last colour stands for: each word's own, or the whole caption's."
        ),
    ] = "word",
    colours: Annotated[
        str,
        typer.Option(
            "--colours", "--colors", help="A colour map of matplotlib: inferno, magma, plasma, viridis, cividis ..."
        ),
    ] = "inferno",
    smoothing: Annotated[
        float, typer.Option(min=0, help="Standard deviation, in cells of the grid, of the Gaussian that smooths it.")
    ] = 0.6,
    workers: console.Workers = 2,
    device: console.Device = "auto",
    max_pixels: caption.MaxPixels = None,
) -> None:
    """Show where the model looked for each word of its captions.

    In a folder the figure of cat.jpg is called cat.attention.png. For each figure there is a line "file: sentence".

    A picture that cannot be read is reported on stderr, and the others go on; the exit code is then 1.
    """
    kind, alone = _kind(output, format)
    for option, given, kinds in (("--word", word is not None, _DRAWN), ("--n-best", n_best > 1, ("html", "json"))):
        if given and kind not in kinds:
            raise typer.BadParameter(f"{kind} cannot show it; take {', '.join(kinds)}", param_hint=option)
    if heads == "heads" and kind != "json":
        raise typer.BadParameter(
            "all heads are numbers for json; give one as BLOCK.HEAD, for example 2.5", param_hint="--heads"
        )
    from captioner.data.find import find_images

    failures = console.Failures()
    found = find_images(caption.named(paths), recursive=recursive, on_empty=failures)
    first = list(islice(found, 2 if alone else 1))
    if not first:
        raise CaptionerError(caption.NOTHING)
    if len(first) > 1:
        raise typer.BadParameter(
            f"{output} is one file, and there are several pictures; give a folder", param_hint="--output"
        )
    if alone and os.path.realpath(first[0]) == os.path.realpath(output):
        raise CaptionerError(f"{output}: is the picture itself, which would be lost; give another --output")

    from captioner import Captioner
    from captioner.data.images import load_image
    from captioner.figures import Figure, Style
    from captioner.heads import check
    from captioner.settings import validate

    style = validate(Style, {"scale": scale, "colours": colours, "smoothing": smoothing}, where="attend")
    search = console.settings(
        width=beam,
        n_best=n_best,
        length_normalisation=length_normalisation,
        min_words=min_words,
        max_words=max_words,
        block_ngram=block_ngram,
    )
    captioner = Captioner.from_pretrained(model, device=device, **search)
    if not captioner.model.decoder.attends:
        raise CaptionerError(
            f"{model}: does not attend to places, so there is no heatmap to show; take a model that does, such as show_attend_tell"
        )
    check(captioner.model.decoder, heads)
    used: set[str] = set()
    with console.progress("Drawing", show=not alone and console.talks(stdout=True)) as progress:
        results = captioner.stream(chain(first, found), workers=workers, max_pixels=max_pixels, attention=heads)
        for done, result in enumerate(results, start=1):
            try:
                if isinstance(result, ImageError):
                    raise result
                source = result.source or ""
                number = None if word is None else _find(result, word)
                drawn = Figure(result, load_image(source, max_pixels=max_pixels), style, number)
                file = drawn.save(output if alone else output / _name(source, kind, used), kind)
                typer.echo(f"{file}: {result.text}")
            except CaptionerError as error:
                failures(error)
            progress(done, None)
    failures.exit()


def _find(result: Caption, word: str) -> int:
    """Return the word's number in a caption, with the picture's name in the error if there is none."""
    from captioner.figures import find_word

    try:
        return find_word(result, word)
    except CaptionerError as error:
        raise CaptionerError(f"{result.source}: {error}") from None


def _kind(output: Path, given: str | None) -> tuple[str, bool]:
    """Return the format, and whether ``output`` is a file for one figure and not a folder."""
    suffix = output.suffix.lower().removeprefix(".")
    named = "html" if suffix == "htm" else suffix
    if output.is_dir() or not (named or output.is_file()):
        return given or "png", False
    if given is None and named not in _KINDS:
        raise typer.BadParameter(
            f"{output}: the name must end in {_ENDINGS}, or be that of a folder; or give --format",
            param_hint="--output",
        )
    return given or named, True


def _name(source: str, kind: str, used: set[str]) -> str:
    """Name the figure of a picture, so that two pictures of the same name in different folders have one each."""
    stem, number = Path(source).stem, 1
    name = f"{stem}.attention.{kind}"
    while name.lower() in used:
        number += 1
        name = f"{stem}-{number}.attention.{kind}"
    used.add(name.lower())
    return name
