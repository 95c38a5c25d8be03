"""``captioner evaluate``: score a model's captions, those of another program, where a model looks, or a translator's translations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from captioner import files
from captioner.cli import console
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.data.dataset import CaptionData
    from captioner.evaluation.evaluate import Evaluation

EXAMPLES = """Example: captioner evaluate show_attend_tell flickr8k --split test

Example: captioner evaluate models/mine dataset_coco.json --split test --beam 3 --metrics BLEU,CIDEr --output-captions captions.json

Example: captioner evaluate dataset_coco.json --split test --captions results_of_another_program.json --per-image each.csv

Example: captioner evaluate models/mine image_info_test2014.json --images test2014 --output-captions captions_test2014_mine_results.json

Example: captioner evaluate show_attend_tell captions_val2017.json --grounding instances_val2017.json

Example: captioner evaluate models/en_de multi30k --split val"""


def _table(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in (".json", ".csv"):
        raise typer.BadParameter(f"{path}: the name must end in .json or .csv")
    return path


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="A shipped model, a model folder, or user/model on the Hugging Face hub; none with --captions.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="The caption data set, a file or folder; for a translator the folder of val.en, ...",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="The split to caption or translate.",
            show_default="the only one there is, else dev; for a translator val",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the pictures, if they are not beside the data.")
    ] = None,
    restval: Annotated[bool, typer.Option("--restval", help="Count COCO's restval photos as train.")] = False,
    strict: console.Strict = False,
    captions: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Score these captions, a COCO results file that any program wrote, and not a model's."
        ),
    ] = None,
    grounding: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            metavar="BOXES",
            help="Measure instead whether the model looks at what it names: COCO instances of the same image ids.",
        ),
    ] = None,
    beam: console.Beam = None,
    length_normalisation: console.LengthNormalisation = None,
    min_words: console.MinWords = None,
    max_words: console.MaxWords = None,
    block_ngram: console.BlockNgram = None,
    features: Annotated[Path | None, typer.Option(help="Read features from this store and not the pictures.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures or sentences in a batch.")] = 16,
    device: console.Device = "auto",
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="BLEU, METEOR, ROUGE-L, CIDEr, SPICE, joined by commas; all of them if not given."),
    ] = None,
    output_captions: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Write the captions as a COCO results file, which COCO's test server takes; translations as JSON.",
        ),
    ] = None,
    output_scores: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the scores as JSON.")] = None,
    per_image: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            callback=_table,
            help="Write the scores of every picture with its caption, as .json or .csv.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Caption a split of a data set and score the captions against all of its references.

    A translator's translations are scored against the other language's file, by sacrebleu: BLEU and chrF.

    With --grounding the attention is held against boxes, for the captions that the model writes and for the references.

    Photos without references are captioned, for --output-captions, and not scored.

    The table is in percent, as in papers; JSON has plain scores.

    What cannot be used is reported on stderr and not scored, the rest is; the exit code is then 1. Malformed records
    alone do not change it.
    """
    given = {
        "--captions": captions,
        "--grounding": grounding,
        "--images": images,
        "--restval": restval or None,
        "--strict": strict or None,
        "--features": features,
        "--metrics": metrics or None,
        "--beam": beam,
        "--length-normalisation": length_normalisation,
        "--min-words": min_words,
        "--max-words": max_words,
        "--block-ngram": block_ngram,
        "--output-captions": output_captions,
        "--per-image": per_image,
    }
    if captions is None and data is None:
        raise typer.BadParameter("give a model and the data", param_hint="DATA")
    if captions is not None and data is None:
        model, data = str(captions), Path(model)
    elif captions is not None:
        raise typer.BadParameter(
            f"there are captions to score already; leave the model {model} out", param_hint="--captions"
        )
    assert data is not None
    names = console.names(metrics)
    search = console.settings(
        width=beam,
        length_normalisation=length_normalisation,
        min_words=min_words,
        max_words=max_words,
        block_ngram=block_ngram,
    )
    if captions is not None:
        _refuse(
            given, "is for models, and captions are given", *_SEARCH, "--features", "--grounding", "--output-captions"
        )
        result = _given_captions(captions, _read(data, images, split, restval, strict), names, per_image)
    else:
        from captioner import assets, checkpoint

        folder = checkpoint.locate(model, kind=None)
        if assets.kind_of(folder) == assets.TRANSLATOR:
            _refuse(
                given,
                f"is for captioners, and {model} is a translator",
                *_PICTURES,
                "--metrics",
                "--grounding",
                "--per-image",
            )
            result = _translations(folder, data, split or "val", batch_size, device, search, output_captions)
        elif grounding is not None:
            _refuse(
                given,
                "is for captions, and --grounding measures attention",
                "--features",
                "--metrics",
                "--output-captions",
                "--per-image",
            )
            result = _grounding(
                folder, grounding, _read(data, images, split, restval, strict), batch_size, device, search
            )
        else:
            part = _read(data, images, split, restval, strict)
            result = _captions(folder, part, batch_size, device, search, output_captions, features, names, per_image)
    record = {"model": model, "data": str(data)} | result.record
    if output_scores:
        files.write_json(output_scores, record)
    if json:
        typer.echo(console.json_text(record, indent=2))
    else:
        _print(f"{model} on {result.data}", record)
    for line in record["notes"]:
        console.note(line)
    failures = console.Failures()
    for error in result.wrong:
        failures(error)
    failures.exit()


_SEARCH = ("--beam", "--length-normalisation", "--min-words", "--max-words", "--block-ngram")
_PICTURES = ("--images", "--restval", "--strict", "--features")


def _refuse(given: dict[str, Any], why: str, *options: str) -> None:
    for option in options:
        if given[option] is not None:
            raise typer.BadParameter(f"it {why}; leave it out", param_hint=option)


def _read(data: Path, images: Path | None, split: str | None, restval: bool, strict: bool) -> CaptionData:
    """Read a split, photos without captions included: the one that was asked for, the only one there is, or dev."""
    from captioner.data.annotations import read_captions

    whole = read_captions(data, images=images, strict=strict, captionless=True)
    console.left_out(whole)
    return whole.split(split or (next(iter(whole.splits)) if len(whole.splits) == 1 else "dev"), restval=restval)


class _Result(NamedTuple):
    """The name of the data, the record of what was found, and what could not be used."""

    data: str
    record: dict[str, Any]
    wrong: Sequence[object]


def _captions(
    model: Path,
    part: CaptionData,
    batch_size: int,
    device: str,
    search: dict[str, Any],
    output: Path | None,
    features: Path | None,
    metrics: tuple[str, ...],
    per_image: Path | None,
) -> _Result:
    if output is None and not any(photo.captions for photo in part.photos):
        raise CaptionerError(
            f"{part.name}: its photos have no captions to score against; write the model's with --output-captions"
        )

    from captioner import Captioner
    from captioner.evaluation.evaluate import evaluate
    from captioner.evaluation.results import write_results
    from captioner.evaluation.scores import DEFAULT_METRICS
    from captioner.features import FeatureStore

    captioner = Captioner.from_pretrained(model, device=device, **search)
    store = FeatureStore(features, encoder=captioner.model.encoder) if features else None
    keep = None if output is None else partial(write_results, output)
    with console.progress("Captioning") as progress:
        result = evaluate(
            captioner,
            part,
            features=store,
            metrics=metrics or DEFAULT_METRICS,
            batch_size=batch_size,
            per_image=per_image is not None,
            progress=progress,
            keep=keep,
        )
    more = {
        "images_per_second": round(len(result.captions) / result.seconds, 2),
        "search": captioner.search.model_dump(),
    }
    return _of_captions(result, part, more, per_image)


def _given_captions(captions: Path, part: CaptionData, metrics: tuple[str, ...], per_image: Path | None) -> _Result:
    from captioner.evaluation.evaluate import evaluate_captions
    from captioner.evaluation.results import read_results
    from captioner.evaluation.scores import DEFAULT_METRICS

    said = read_results(captions)
    result = evaluate_captions(
        said, part, metrics=metrics or DEFAULT_METRICS, per_image=per_image is not None, source=str(captions)
    )
    return _of_captions(result, part, {}, per_image)


def _of_captions(result: Evaluation, part: CaptionData, more: dict[str, Any], per_image: Path | None) -> _Result:
    split = part.photos[0].split
    record = {
        "split": split,
        "images": len(result.captions),
        **more,
        "scoring_seconds": result.scores.seconds if result.scores else {},
        "scores": result.scores.values if result.scores else {},
        "notes": result.scores.notes
        if result.scores
        else [f"{part.name}: no photo has a caption by people, so that nothing is scored."],
        "unreadable": [str(error) for error in result.errors],
    }
    if per_image and result.scores:
        rows = [
            {"image_id": image, "caption": result.captions[image], **scores}
            for image, scores in result.scores.per_image.items()
        ]
        _write_rows(per_image, rows)
    return _Result(f"{part.name}, {split}", record, result.errors)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix.lower() == ".json":
        files.write_json(path, rows)
        return
    import csv

    with (
        files.atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _grounding(
    model: Path, boxes: Path, part: CaptionData, batch_size: int, device: str, search: dict[str, Any]
) -> _Result:
    from dataclasses import asdict

    from captioner import Captioner
    from captioner.evaluation.grounding import ground

    captioner = Captioner.from_pretrained(model, device=device, **search)
    with console.progress("Looking") as progress:
        found = ground(captioner, boxes, part, batch_size=batch_size, progress=progress)
    split = part.photos[0].split
    record = {
        "split": split,
        "images": found.photos,
        "boxes": str(boxes),
        "search": captioner.search.model_dump(),
        "grounding": {"generated": asdict(found.generated), "references": asdict(found.references)},
        "notes": [],
        "unreadable": [str(error) for error in found.errors],
    }
    return _Result(f"{part.name}, {split}, boxes of {boxes.name}", record, found.errors)


def _translations(
    model: Path, data: Path, split: str, batch_size: int, device: str, search: dict[str, Any], output: Path | None
) -> _Result:
    from captioner import Translator
    from captioner.translation.pairs import read_parallel
    from captioner.translation.train import evaluate_translation

    translator = Translator.from_pretrained(model, device=device, **search)
    config = translator.model.config
    text = read_parallel(data, split, source=config.source, target=config.target)
    began = time.perf_counter()
    scores, translations = evaluate_translation(translator, data, split=split, batch_size=batch_size)
    seconds = time.perf_counter() - began
    if output:
        pairs = zip(text.pairs, translations, strict=True)
        files.write_json(
            output,
            [{"source": pair.source, "translation": found.text, "reference": pair.target} for pair, found in pairs],
        )
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
    return _Result(f"{text.name}, {config.source} to {config.target}", record, text.problems)


def _print(title: str, record: dict[str, Any]) -> None:
    if "grounding" in record:
        _print_grounding(title, record["grounding"])
    elif record["scores"]:
        _print_table(
            title, ("metric", "percent"), [(name, f"{100 * value:.1f}") for name, value in record["scores"].items()]
        )
    units = "sentences" if "sentences" in record else "images"
    rate = record.get(f"{units}_per_second")
    typer.echo(f"{record[units]:,} {units}" + (f", {rate:.1f} {units}/s" if rate else ""))


def _print_grounding(title: str, found: dict[str, Any]) -> None:
    from captioner.evaluation.bootstrap import Interval
    from captioner.evaluation.grounding import GAINS, METRICS

    def percent(part: str, name: str) -> str:
        score = found[part]["scores"].get(name)
        return Interval(**score).percent() if score else "-"

    rows = [(name, *(percent(part, name) for part in found)) for name in (*METRICS, *GAINS)]
    rows += [(f"{unit} counted", *(f"{found[part][unit]:,}" for part in found)) for unit in ("words", "photos")]
    rows += [("words of absent classes", *(f"{found[part]['absent']:,}" for part in found))]
    _print_table(f"{title}; percent, 95 % intervals", ("", "generated", "references"), rows)
    generated, references = found["generated"]["classes"], found["references"]["classes"]
    classes = [
        (
            name,
            *(
                f"{mine[name][0]:,}: {100 * mine[name][1]:.0f} / {100 * mine[name][2]:.0f}" if name in mine else "-"
                for mine in (generated, references)
            ),
        )
        for name in list(references)[:12]
    ]
    _print_table("words: pointing / mass, by class", ("class", "generated", "references"), classes)


def _print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
