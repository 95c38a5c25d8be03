"""``captioner evaluate``: score a model's captions, another program's, a model's attention, or a translator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captioner import files
from captioner.cli import complete, console, evaluations, scores

if TYPE_CHECKING:
    from captioner.data.dataset import CaptionData

EXAMPLES = """Example: captioner evaluate show_attend_tell flickr8k --split test

Example: captioner evaluate models/mine dataset_coco.json --split test --beam 3 --metrics BLEU,CIDEr \
--output-captions captions.json

Example: captioner evaluate flickr8k --model show_attend_tell --model transformer

Example: captioner evaluate dataset_coco.json --split test --captions results_of_another_program.json \
--per-image each.csv

Example: captioner evaluate models/mine image_info_test2014.json --images test2014 \
--output-captions captions_test2014_mine_results.json

Example: captioner evaluate show_attend_tell captions_val2017.json --grounding instances_val2017.json

Example: captioner evaluate models/en_de multi30k --split val"""


def _table(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in (".json", ".csv"):
        raise typer.BadParameter(f"{path}: the name must end in .json or .csv")
    return console.writable(path)


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            autocompletion=complete.scored,
            help="A shipped model, a model folder, user/model on the Hugging Face hub, or an ensemble of them as A+B; "
            "omitted with --model and --captions.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="The caption data set, a file or folder; for a translator the folder with val.en, ...",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete.scored,
            help="In place of MODEL; may be repeated, and several captioners are an ensemble.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="The split to caption or translate.",
            show_default="the only split, else dev; for a translator val",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the pictures, if they are not next to the data.")
    ] = None,
    restval: Annotated[bool, typer.Option("--restval", help="Count COCO's restval photos as train.")] = False,
    strict: console.Strict = False,
    captions: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Score these captions, a COCO results file from any program, instead of a model's."
        ),
    ] = None,
    grounding: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            metavar="BOXES",
            help="Measure instead whether the model looks at what it names; boxes as COCO instances, same image ids.",
        ),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            help="With --grounding, the attention of a Transformer that is measured: mean, rollout (all blocks "
            "together), or one head as BLOCK.HEAD, for example 2.5.",
            show_default="mean",
        ),
    ] = None,
    beam: console.Beam = None,
    length_normalisation: console.LengthNormalisation = None,
    min_words: console.MinWords = None,
    max_words: console.MaxWords = None,
    block_ngram: console.BlockNgram = None,
    features: Annotated[
        Path | None, typer.Option(help="Read features from this store instead of the pictures.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures or sentences in a batch.")] = 32,
    device: console.Device = "auto",
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="BLEU, METEOR, ROUGE-L, CIDEr, SPICE, separated by commas; all if not given."),
    ] = None,
    output_captions: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            callback=console.writable,
            help="Write the captions as a COCO results file, for COCO's test server too; translations as JSON.",
        ),
    ] = None,
    output_scores: Annotated[
        Path | None, typer.Option(dir_okay=False, callback=console.writable, help="Write the scores as JSON.")
    ] = None,
    per_image: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            callback=_table,
            help="Write the scores of every picture with its caption to a .json or .csv file.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Caption a split of a data set and score the captions against all of its references.

    A translator is scored against the file of the target language, by sacrebleu: BLEU and chrF.

    An ensemble is scored as one captioner; with --features all its members must have the encoder of the store.

    With --grounding, attention is compared with boxes, for the captions that the model writes and for the references;
    of a Transformer, --heads chooses whose.

    Photos without references are captioned for --output-captions, but not scored.

    The table is in percent, as in papers; JSON has plain scores.

    What cannot be used is reported on stderr and the rest is scored; the exit code is then 1. Malformed records alone
    do not change it.
    """
    given = {
        "--captions": captions,
        "--grounding": grounding,
        "--heads": heads,
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
    if models and captions is not None:
        raise typer.BadParameter("it is for models, and captions are given; leave it out", param_hint="--model")
    if models and data is not None:
        raise typer.BadParameter(f"give it too as --model, or as A+B: {model}", param_hint="MODEL")
    if models:
        model, data = console.ensemble(models) or "", Path(model)
    if captions is None and data is None:
        raise typer.BadParameter("give a model and the data", param_hint="DATA")
    if captions is not None and data is None:
        model, data = str(captions), Path(model)
    elif captions is not None:
        raise typer.BadParameter(f"it gives the captions to score; leave out {model}", param_hint="--captions")
    if heads is not None and grounding is None:
        raise typer.BadParameter("it says whose attention --grounding measures; give that too", param_hint="--heads")
    assert data is not None
    outputs = {"--output-captions": output_captions, "--output-scores": output_scores, "--per-image": per_image}
    _check_outputs(outputs, [path for path in (data, captions, grounding) if path])
    names = console.metrics(metrics)
    search = console.search(beam, length_normalisation, min_words, max_words, block_ngram)
    if captions is not None:
        why = "is for models, and captions are given"
        _refuse(given, why, *_SEARCH, "--features", "--grounding", "--output-captions")
        part = _read(data, images, split, restval, strict)
        result = evaluations.of_captions(captions, part, metrics=names, per_image=per_image)
    else:
        from captioner import assets, folders

        alone = len(folders.members(model)) == 1
        located = [folders.locate(model, kind=None)] if alone else folders.locate_captioners(model)
        if alone and assets.kind_of(located[0]) == assets.TRANSLATOR:
            why = f"is for captioners, and {model} is a translator"
            _refuse(given, why, *_PICTURES, "--metrics", "--grounding", "--per-image")
            result = evaluations.of_translator(
                located[0],
                data,
                search,
                split=split or "val",
                device=device,
                batch_size=batch_size,
                output=output_captions,
            )
        elif grounding is not None:
            why = "is for captions, and --grounding measures attention"
            _refuse(given, why, "--features", "--metrics", "--output-captions", "--per-image")
            part = _read(data, images, split, restval, strict)
            result = evaluations.of_grounding(
                folders.join(located),
                grounding,
                part,
                search,
                heads=heads or "mean",
                device=device,
                batch_size=batch_size,
            )
        else:
            result = evaluations.of_captioner(
                folders.join(located),
                _read(data, images, split, restval, strict),
                search,
                device=device,
                batch_size=batch_size,
                features=features,
                metrics=names,
                output=output_captions,
                per_image=per_image,
            )
    record = {"model": model, "data": str(data)} | result.record
    if output_scores:
        files.write_json(output_scores, record)
    if json:
        console.show_json(record, indent=2)
    else:
        scores.show(f"{model} on {result.data}", record)
    for line in record["notes"]:
        console.note(line)
    failures = console.Failures()
    for problem in result.problems:
        failures(problem)
    failures.exit()


_SEARCH = ("--beam", "--length-normalisation", "--min-words", "--max-words", "--block-ngram")
_PICTURES = ("--images", "--restval", "--strict", "--features")


def _check_outputs(outputs: dict[str, Path | None], inputs: list[Path]) -> None:
    """Check that no output would overwrite an input or another output."""
    written: dict[str, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        console.check_output(path, *inputs)
        if (other := written.setdefault(os.path.realpath(path), option)) != option:
            raise typer.BadParameter(f"{path} is that of {other} too; give another", param_hint=option)


def _refuse(given: dict[str, Any], why: str, *options: str) -> None:
    for option in options:
        if given[option] is not None:
            raise typer.BadParameter(f"it {why}; leave it out", param_hint=option)


def _read(data: Path, images: Path | None, split: str | None, restval: bool, strict: bool) -> CaptionData:
    """Read a split, photos without captions included: the requested one, else the only one, else dev."""
    from captioner.data.annotations import read_captions

    whole = read_captions(data, images=images, strict=strict, captionless=True)
    console.left_out(whole)
    return whole.split(split or (next(iter(whole.splits)) if len(whole.splits) == 1 else "dev"), restval=restval)
