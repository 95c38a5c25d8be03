"""``captioner caption``: caption pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captioner import rows
from captioner.assets import TRANSLATOR
from captioner.cli import complete, console
from captioner.errors import CaptionerError, ImageError

if TYPE_CHECKING:
    from captioner.caption import Caption
    from captioner.translation.translator import Translator

EXAMPLES = """Example: captioner caption photo.jpg

Example: captioner caption photos --recursive --output captions.csv

Example: captioner caption photo.jpg --language de

Example: captioner caption photo.jpg --model show_attend_tell --model transformer

Example: find . -name '*.jpg' | captioner caption - --json"""

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Files, folders, quoted patterns, or - for a list on stdin, one path per line or as of find -print0.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=complete.models,
        help="A shipped model, a model folder, or user/model on the Hugging Face hub. Several, repeated or as A+B, "
        "write one caption together.",
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Include subfolders.")]
Language = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        autocompletion=complete.languages,
        help="Translate the English captions, for example into de, with the shipped translator.",
    ),
]
TranslatorName = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        autocompletion=complete.translators,
        help="Translate with this one: a shipped translator, a translator's folder, or user/model.",
    ),
]
MaxPixels = Annotated[int | None, typer.Option(min=1, help="Refuse pictures with more pixels.")]

NOTHING = "no pictures found; give picture files, or folders that have some"
_FEW = 10_000  # names counted for the progress bar; longer lists have no total


def _output(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in (".jsonl", ".json", ".csv"):
        raise typer.BadParameter(f"{path}: the name must end in .jsonl, .json or .csv")
    return console.writable(path)


def run(
    paths: Paths,
    models: Models = None,
    language: Language = None,
    translator: TranslatorName = None,
    recursive: Recursive = False,
    beam: console.Beam = None,
    n_best: Annotated[
        int, typer.Option(min=1, help="Captions for each picture, best first; at most --beam, if that is given.")
    ] = 1,
    length_normalisation: console.LengthNormalisation = None,
    min_words: console.MinWords = None,
    max_words: console.MaxWords = None,
    block_ngram: console.BlockNgram = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in a batch.")] = 32,
    workers: console.Workers = 2,
    device: console.Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            callback=_output,
            dir_okay=False,
            help="Write to a .jsonl, .json or .csv file instead of the screen.",
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Add where the models looked for each word; only in JSON.")
    ] = False,
) -> None:
    """Caption pictures.

    For a single file the sentence is printed; otherwise a line "path: sentence" for each picture.

    With --language or --translator the sentences are the translations; JSON and CSV have the captions as well.

    Several models are an ensemble: each word has the mean of their probabilities. They must share a vocabulary.

    With --n-best each caption has its own line, with its log-probability after a tab. The output file appears when
    everything is done.

    A picture that cannot be read is reported on stderr and skipped; the exit code is then 1.
    """
    if attention and not json and (output is None or output.suffix.lower() == ".csv"):
        raise typer.BadParameter("give --json too, or an --output ending in .json or .jsonl", param_hint="--attention")
    from captioner.folders import DEFAULT

    if output:
        console.check_output(output, *paths)
    failures = console.Failures()
    single = len(paths) == 1 and os.path.isfile(paths[0])
    found = find_images(paths, recursive, failures)
    prints = json or output is None
    bar = not single and console.shows_progress(stdout=prints)
    # A list on standard input may still be growing, so it is not read ahead.
    first = list(islice(found, _FEW if bar and "-" not in paths else 1))
    if not first:
        failures.exit()
        raise CaptionerError(NOTHING)
    total = len(first) if bar and 1 < len(first) < _FEW else None

    search = console.search(beam, length_normalisation, min_words, max_words, block_ngram, n_best)
    name = console.ensemble(models)
    translated = language is not None or translator is not None
    results: Iterator[Caption | ImageError]
    if error := unreadable(paths, first, max_pixels):
        results = iter([error])
    else:
        from captioner import Captioner

        translate = find_translator(language, translator, device)
        captioner = Captioner.from_pretrained(name, device=device, **search)
        results = captioner.stream(chain(first, found), batch_size=batch_size, workers=workers, max_pixels=max_pixels)
        if translate:
            results = translate.captions(results, batch_size=batch_size)
    more = ("language", "translation") if translated else ()
    with (
        rows.writer(output, more=more) if output else nullcontext(lambda record: None) as write,
        console.progress("Captioning", show=bar) as progress,
    ):
        for done, result in enumerate(results, start=1):
            if isinstance(result, ImageError):
                failures(result)
            record = rows.row(result.source or "", result, model=name or DEFAULT, attention=attention)
            write(record)
            if json:
                console.show_json(record)
            elif prints and record["error"] is None:
                prefix = "" if single else f"{record['image']}: "
                for caption in (record, *record.get("others", ())):
                    score = [f"{caption['log_probability']:.2f}"] if n_best > 1 else []
                    text = caption["translation"]["text"] if translated else caption["caption"]
                    console.show(prefix + text, *score)
            progress(done, total)
            if console.lost() and output is None:  # nobody would get the others
                break
    failures.exit()


def unreadable(paths: list[str], found: list[str], max_pixels: int | None) -> ImageError | None:
    """Return why the only picture cannot be read, if there is only one and that is seen at once.

    Nothing large is then loaded for it.

    Args:
        paths: what was given.
        found: the first of the pictures that it stands for.
        max_pixels: the limit on its pixels.
    """
    if found != paths:
        return None
    from captioner.data.images import check_file

    try:
        check_file(found[0], max_pixels=max_pixels)
    except ImageError as error:
        return error
    return None


def find_translator(language: str | None, name: str | None, device: str, **search: Any) -> Translator | None:
    """Load the translator of that name, or the shipped one into that language; ``None`` if neither is given."""
    if language is None and name is None:
        return None
    from captioner import folders

    if name is not None:
        folders.locate(name, kind=TRANSLATOR)
    else:
        folders.translator_into(language or "")
    from captioner.translation.translator import Translator

    translator = (
        Translator.from_pretrained(name, device=device, **search)
        if name is not None
        else Translator.for_language(language or "", device=device, **search)
    )
    if language is not None and language.lower() != translator.language.lower():
        raise CaptionerError(
            f"{name}: translates into {translator.language!r}, not {language!r}; "
            "leave out --language, or give another --translator"
        )
    return translator


def find_images(paths: list[str], recursive: bool, failures: console.Failures) -> Iterator[str]:
    """Yield the names of the image files that arguments stand for, lazily; see :func:`captioner.data.find.find_images`.

    Names stay as they were given. Figures that this program drew are left out with a note, unless one is all that is
    given.

    Args:
        paths: the arguments, where - stands for a list on standard input.
        recursive: look into subfolders too.
        failures: is given the folders without images, an empty name, and a list that cannot be read.
    """
    from captioner.data import find, mark

    def hits(name: str) -> Iterator[str]:
        if name and not os.path.isdir(name) and (os.path.lexists(name) or not set(name) & set("*?[")):
            yield name
        elif name:
            for hit in find.find_images([name], recursive=recursive, on_empty=failures):
                yield name if hit == Path(name) else str(hit)
        else:
            failures("'': this name is empty; give image files, or folders that have some")

    alone = len(paths) == 1 and os.path.isfile(paths[0])
    drawn = 0
    for path in paths:
        try:
            for name in _listed() if path == "-" else [path]:
                for hit in hits(name):
                    if alone or not mark.is_drawn_image(hit):
                        yield hit
                    else:
                        drawn += 1
        except CaptionerError as error:
            failures(error)
    if drawn:
        console.note(f"left out {drawn:,} figure{'s' * (drawn != 1)} that this program drew")


def _listed() -> Iterator[str]:
    from captioner.data.names import read_list

    return read_list(console.stdin())
