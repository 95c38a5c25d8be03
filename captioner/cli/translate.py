"""``captioner translate``: translate text line by line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import console
from captioner.errors import CaptionerError

EXAMPLES = """Example: captioner translate models/en_de sentences.txt

Example: echo 'Two dogs run through the snow.' | captioner translate models/en_de --json --attention"""


def run(
    model: Annotated[
        str, typer.Argument(help="A shipped translator, a translator's folder, or user/model on the Hugging Face hub.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One sentence per line; - is standard input.")] = Path(
        "-"
    ),
    beam: console.Beam = None,
    length_normalisation: console.LengthNormalisation = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Lines in a batch.")] = 32,
    device: console.Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    attention: Annotated[
        bool,
        typer.Option("--attention", help="Add where the model looked in the source for each piece; only with --json."),
    ] = False,
) -> None:
    """Translate a text line by line; an empty line stays empty."""
    if attention and not json:
        raise typer.BadParameter("give --json too", param_hint="--attention")
    from captioner.translation.translator import Translator

    translator = Translator.from_pretrained(model, device=device, **console.search(beam, length_normalisation))
    with nullcontext(sys.stdin.buffer) if file == Path("-") else open(file, "rb") as opened:
        lines = _lines(opened, file)
        while batch := list(islice(lines, batch_size)):
            for translation in translator(batch, batch_size=batch_size):
                typer.echo(
                    console.json_text(translation.to_dict(attention=attention))
                    if json
                    else translation.text.replace("\n", " ")
                )


def _lines(file: Iterable[bytes], name: Path) -> Iterator[str]:
    """Decode lines that end with a line feed and nothing else, so that line n of the output translates line n."""
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8").removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 text (byte {error.start}); convert it to UTF-8"
            raise CaptionerError(f"{name}:{number}: {reason}") from None
