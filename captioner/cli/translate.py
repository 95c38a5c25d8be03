"""``captioner translate``: translate text line by line, and draw the alignment of the words."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner import files
from captioner.cli import complete, console, options, outputs, streams
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.translation.result import Translation

EXAMPLES = """Example: captioner translate 'Two dogs run through the snow.'

Example: captioner translate 'Two dogs run through the snow.' -o alignment.png

Example: captioner translate sentences.txt --model models/en_de > translated.txt

Example: captioner translate story.txt --model runs/multi30k_transformer_xl/best --context 1

Example: captioner caption photos --json | jq -r .caption | captioner translate - --json --attention"""

# As in captioner.figures, which is imported only after the options are checked.
_DRAWN = ("png", "svg", "pdf")
_KINDS = (*_DRAWN, "html", "json")


def run(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT|FILE|-", help="A text, a file with one sentence per line, or - for standard input."
        ),
    ],
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete.translators,
            help="A shipped translator, a translator's folder, or user/model on the Hugging Face hub.",
            show_default="the shipped one into --language",
        ),
    ] = None,
    language: Annotated[
        str,
        typer.Option(metavar="CODE", autocompletion=complete.languages, help="The language to translate English into."),
    ] = "de",
    output: Annotated[
        Path | None,
        options.output_option(
            "--output",
            "-o",
            dir_okay=False,
            callback=outputs.ends_in(*_KINDS),
            help="Write the alignment, the attention between words, to a file ending in "
            f"{outputs.endings(_KINDS)}. Only html and json hold several sentences.",
        ),
    ] = None,
    search: options.NBest,
    context: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Number of preceding lines that are context of each line; an empty line ends the context. Only for "
            "models with relative positions.",
        ),
    ] = 0,
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    json: options.JsonLines = False,
    attention: Annotated[
        bool,
        options.output_option("--attention", help="Add the attention to the source for each piece; only with --json."),
    ] = False,
) -> None:
    """Translate text line by line; an empty line stays empty.

    With --n-best, JSON has several translations of each line.

    A file may also be UTF-16 with a byte order mark. A line that is not text is reported on stderr, and its translation
    is empty; so is a line that is longer than the model reads, and only its beginning is translated. The exit code is
    then 1.
    """
    if not json:
        options.refuse("give --json too", attention=attention, n_best=search.n_best > 1)
    if output:
        from captioner.data.mark import check_replaceable

        outputs.check_outputs([text], output=output)
        check_replaceable(output)
    failures = console.Failures()
    with ExitStack() as stack:
        lines = _lines(stack, text, failures)
        settings = search.settings()
        from captioner.translation.find import find_translator

        translator = find_translator(None if model else language, model, device=device, **settings)
        if output and not translator.model.decoder.attends:
            raise CaptionerError(
                f"{model or language}: does not attend to words, so there is no alignment to draw; use a translator "
                "with attention"
            )
        shown: list[Translation] = []
        name = "standard input" if text == "-" else text if os.path.exists(text) else "the text"
        for number, translation in enumerate(translator.stream(lines, batch_size=batch_size, context=context), start=1):
            if translation.is_cut:
                failures(
                    f"{name}:{number}: its end is not translated, since the model reads "
                    f"{len(translation.source_tokens)} pieces of a line; give one sentence per line"
                )
            if output and translation.tokens:
                shown.append(translation)
                if len(shown) > 1 and files.format_of(output) in _DRAWN:
                    raise CaptionerError(f"{output}: shows one sentence, and there are several; use .html or .json")
            if json:
                streams.show_json(translation.to_dict(attention=attention))
            else:
                streams.show(translation.text.replace("\n", " "))
            if streams.lost() and output is None:
                break
    if output:
        _write(output, shown, text)
        console.wrote(output, console.count(len(shown), "sentence"))
    failures.exit()


def _write(path: Path, translations: list[Translation], text: str) -> None:
    from captioner.figures import Alignment
    from captioner.figures.alignment import page

    if not translations:
        raise CaptionerError(f"{path}: not written, since {text!r} has no words to translate")
    kind = files.format_of(path)
    if kind == "json":
        files.write_json(path, [translation.to_dict(attention=True) for translation in translations])
    elif kind == "html":
        files.write_text(path, page(translations))
    else:
        Alignment(translations[0]).save(path)


def _lines(stack: ExitStack, text: str, failures: console.Failures) -> Iterator[str]:
    """Return the lines of a text, of the file of that name, or of standard input."""
    if text == "-":
        return _decoded(streams.stdin(), "standard input", failures)
    if os.path.isdir(text):
        raise CaptionerError(f"{text}: is a folder; give a file with one sentence per line")
    if os.path.exists(text):  # also a pipe, as the shell makes for <(command)
        return _decoded(stack.enter_context(open(text, "rb")), text, failures)
    if len(text.split()) == 1 and (os.path.dirname(text) or text.lower().endswith(".txt")):
        raise CaptionerError(f"{text}: no such file; to translate a text, put it in quotes")
    return iter(text.split("\n"))


def _decoded(file: Iterable[bytes], name: str, failures: console.Failures) -> Iterator[str]:
    """Decode lines, which only a line feed ends: line n of the output translates line n."""
    raw = iter(file)
    first = next(raw, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from _utf16(chain([first], raw))
        return
    for number, line in enumerate(chain([first] if first else [], raw), start=1):
        try:
            decoded, bad = line.decode("utf-8"), line.find(b"\0")  # which UTF-16 without a mark has
        except UnicodeDecodeError as error:
            decoded, bad = "", error.start
        if bad >= 0:
            failures(f"{name}:{number}: not UTF-8 text (byte {bad}); convert it to UTF-8")
        yield "" if bad >= 0 else decoded.removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")


def _utf16(chunks: Iterable[bytes]) -> Iterator[str]:
    """Decode the lines of a file in UTF-16, as PowerShell writes it."""
    rest = ""
    for text in codecs.iterdecode(chunks, "utf-16", "replace"):
        *lines, rest = (rest + text).split("\n")
        yield from (line.rstrip("\r") for line in lines)
    if rest:
        yield rest
