"""``captioner attend``: pictures in, figures of where the model looked out."""

from __future__ import annotations

import os
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import caption, console
from captioner.errors import CaptionerError, ImageError

EXAMPLES = """Example: captioner attend photo.jpg -o figure.png

Example: captioner attend photo.jpg -o page.html

Example: captioner attend photos --recursive -o figures --format gif"""

_KINDS = ("png", "gif", "html", "json")


def _format(kind: str | None) -> str | None:
    if kind is not None and kind not in _KINDS:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(_KINDS)}")
    return kind


def run(
    paths: caption.Paths,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A file that ends in .png, .gif, .html or .json; for several pictures the folder of their figures.")
    ],
    format: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(_KINDS),
            callback=_format,
            help="png: a panel for each word. gif: the words one by one. html: a page to explore. json: the numbers. "
            "By default what the file's name says, in a folder png.",
        ),
    ] = None,
    model: caption.Model = None,
    recursive: caption.Recursive = False,
    beam: console.Beam = None,
    length_normalisation: console.LengthNormalisation = None,
    heads: Annotated[
        str, typer.Option(help="Of a Transformer: mean, rollout (all blocks together), or one head as BLOCK.HEAD, for example 2.5.")
    ] = "mean",
    scale: Annotated[
        str, typer.Option(help="Whose strongest attention the last colour stands for: each word's own, or the whole caption's.")
    ] = "word",
    colours: Annotated[
        str, typer.Option("--colours", "--colors", help="A colour map of matplotlib: inferno, magma, plasma, viridis, cividis ...")
    ] = "inferno",
    smoothing: Annotated[float, typer.Option(min=0, help="Standard deviation, in cells of the grid, of the Gaussian that smooths it.")] = 0.6,
    workers: console.Workers = 2,
    device: console.Device = "auto",
    max_pixels: caption.MaxPixels = None,
) -> None:
    """Show where the model looked for each word of its captions.

    In a folder the figure of cat.jpg is called cat.attention.png. For each figure there is a line "file: sentence".

    A picture that cannot be read is reported on stderr, and the others go on; the exit code is then 1.
    """
    kind, alone = _kind(output, format)
    from captioner.data.find import find_images

    failures = console.Failures()
    found = find_images(caption.named(paths), recursive=recursive, on_empty=failures)
    first = list(islice(found, 2 if alone else 1))
    if not first:
        raise CaptionerError(caption.NOTHING)
    if len(first) > 1:
        raise typer.BadParameter(f"{output} is one file, and there are several pictures; give a folder", param_hint="--output")
    if alone and os.path.realpath(first[0]) == os.path.realpath(output):
        raise CaptionerError(f"{output}: is the picture itself, which would be lost; give another --output")

    from captioner import Captioner
    from captioner.config import validate
    from captioner.data.images import load_image
    from captioner.figures import Figure, Style
    from captioner.figures.heads import check, look_again

    style = validate(Style, {"scale": scale, "colours": colours, "smoothing": smoothing}, where="attend")
    search = console.settings(width=beam, length_normalisation=length_normalisation)
    captioner = Captioner.from_pretrained(model, device=device, **search)
    if not captioner.model.decoder.attends:
        raise CaptionerError(f"model {model}: does not attend, so there is nothing to show; take one that does, such as show_attend_tell")
    check(captioner, heads)
    used: set[str] = set()
    with console.progress("Drawing", show=not alone and console.talks(stdout=True)) as progress:
        for done, result in enumerate(captioner.stream(chain(first, found), workers=workers, max_pixels=max_pixels), start=1):
            try:
                if isinstance(result, ImageError):
                    raise result
                source = result.source or ""
                photo = load_image(source, max_pixels=max_pixels)
                drawn = Figure(look_again(captioner, result, photo, heads), photo, style, heads)
                file = drawn.save(output if alone else output / _name(source, kind, used), kind)
                typer.echo(f"{file}: {result.text}")
            except ImageError as error:
                failures(error)
            progress(done, None)
    failures.exit()


def _kind(output: Path, given: str | None) -> tuple[str, bool]:
    """Return the format, and whether ``output`` is a file for one figure and not a folder."""
    suffix = output.suffix.lower().removeprefix(".")
    named = "html" if suffix == "htm" else suffix
    if output.is_dir() or not (named or output.is_file()):
        return given or "png", False
    if given is None and named not in _KINDS:
        raise typer.BadParameter(
            f"{output}: the name must end in .png, .gif, .html or .json, or be that of a folder; or give --format", param_hint="--output"
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
