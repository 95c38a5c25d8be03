"""``captioner evaluate``: score a model's captions, or a translator's translations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from captioner import files
from captioner.cli import console

EXAMPLES = """Example: captioner evaluate show_attend_tell flickr8k --split test

Example: captioner evaluate models/mine dataset_coco.json --split test --beam 3 --metrics BLEU,CIDEr --output-captions captions.json

Example: captioner evaluate models/en_de multi30k --split val"""


def run(
    model: Annotated[str, typer.Argument(help="A shipped model, a model folder, or user/model on the Hugging Face hub.")],
    data: Annotated[Path, typer.Argument(help="The caption data set, a file or folder; for a translator the folder of val.en, val.de and such.")],
    split: Annotated[str | None, typer.Option(help="The split to caption or translate.", show_default="dev, for a translator val")] = None,
    images: Annotated[Path | None, typer.Option(file_okay=False, help="Folder of the pictures, if they are not beside the data.")] = None,
    restval: Annotated[bool, typer.Option("--restval", help="Count COCO's restval photos as train.")] = False,
    beam: console.Beam = None,
    length_normalisation: console.LengthNormalisation = None,
    features: Annotated[Path | None, typer.Option(help="Read features from this store and not the pictures.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures or sentences in a batch.")] = 32,
    device: console.Device = "auto",
    metrics: Annotated[
        list[str] | None, typer.Option(help="BLEU, METEOR, ROUGE-L, CIDEr, SPICE, joined by commas; all of them if not given.")
    ] = None,
    output_captions: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the captions as a COCO results file, or the translations as JSON with their sources.")
    ] = None,
    output_scores: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the scores as JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Caption a split of a data set and score the captions against all of its references.

    A translator's translations are scored against the other language's file, by sacrebleu: BLEU and chrF.

    The table is in percent, as in papers; JSON has plain scores.

    Pictures that cannot be read, and pairs of sentences with an empty one, are reported on stderr and not scored; the exit code is then 1.
    """
    from captioner import checkpoint

    folder = checkpoint.locate(model, kind=None)
    search = console.settings(width=beam, length_normalisation=length_normalisation)
    if checkpoint.kind_of(folder) == checkpoint.TRANSLATOR:
        for option, given in (("--images", images), ("--restval", restval), ("--features", features), ("--metrics", metrics)):
            if given:
                raise typer.BadParameter(f"{model} is a translator, and this is for captioners; leave it out", param_hint=option)
        result = _translations(folder, data, split or "val", batch_size, device, search, output_captions)
    else:
        names = tuple(name.strip() for names in metrics or () for name in names.split(",") if name.strip())
        result = _captions(folder, data, split or "dev", batch_size, device, search, output_captions, images, restval, features, names)
    record = {"model": model, "data": str(data)} | result.record
    if output_scores:
        files.write_json(output_scores, record)
    if json:
        typer.echo(console.json_text(record, indent=2))
    else:
        _print_table(f"{model} on {result.data}", record["scores"])
        typer.echo(f"{record[result.units]:,} {result.units}, {record[f'{result.units}_per_second']:.1f} {result.units}/s")
    for line in record["notes"]:
        console.note(line)
    failures = console.Failures()
    for error in result.wrong:
        failures(error)
    failures.exit()


class _Result(NamedTuple):
    """The name of the data, what was counted (images or sentences), the record of it all, and what could not be used."""

    data: str
    units: str
    record: dict[str, Any]
    wrong: Sequence[object]


def _captions(
    model: Path,
    data: Path,
    split: str,
    batch_size: int,
    device: str,
    search: dict[str, Any],
    output: Path | None,
    images: Path | None,
    restval: bool,
    features: Path | None,
    metrics: tuple[str, ...],
) -> _Result:
    from captioner.data.annotations import read_captions

    part = read_captions(data, images=images).split(split, restval=restval)

    from captioner import Captioner
    from captioner.data.features import FeatureStore
    from captioner.evaluation.evaluate import evaluate
    from captioner.evaluation.results import write_results
    from captioner.evaluation.scores import DEFAULT_METRICS

    captioner = Captioner.from_pretrained(model, device=device, **search)
    store = FeatureStore(features, encoder=captioner.model.encoder) if features else None
    keep = None if output is None else partial(write_results, output)
    with console.progress("Captioning") as progress:
        result = evaluate(captioner, part, features=store, metrics=metrics or DEFAULT_METRICS, batch_size=batch_size, progress=progress, keep=keep)
    record = {
        "split": split,
        "images": len(result.captions),
        "images_per_second": round(len(result.captions) / result.seconds, 2),
        "search": captioner.search.model_dump(),
        "scores": result.scores.values,
        "notes": result.scores.notes,
        "unreadable": [str(error) for error in result.errors],
    }
    return _Result(f"{part.name}, {split}", "images", record, result.errors)


def _translations(model: Path, data: Path, split: str, batch_size: int, device: str, search: dict[str, Any], output: Path | None) -> _Result:
    from captioner import Translator
    from captioner.data.parallel import read_parallel
    from captioner.training.translate import evaluate_translation

    translator = Translator.from_pretrained(model, device=device, **search)
    config = translator.model.config
    text = read_parallel(data, split, source=config.source, target=config.target)
    began = time.perf_counter()
    scores, translations = evaluate_translation(translator, data, split=split, batch_size=batch_size)
    seconds = time.perf_counter() - began
    if output:
        pairs = zip(text.pairs, translations, strict=True)
        files.write_json(output, [{"source": pair.source, "translation": found.text, "reference": pair.target} for pair, found in pairs])
    record = {
        "split": split,
        "languages": [config.source, config.target],
        "sentences": len(translations),
        "sentences_per_second": round(len(translations) / seconds, 2),
        "search": translator.search.model_dump(),
        "scores": scores,
        "notes": [],
        "unreadable": [str(problem) for problem in text.problems],
    }
    return _Result(f"{text.name}, {config.source} to {config.target}", "sentences", record, text.problems)


def _print_table(title: str, scores: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("metric", title=Text(title))
    table.add_column("percent", justify="right")
    for name, value in scores.items():
        table.add_row(name, f"{100 * value:.1f}")
    Console(highlight=False).print(table)
