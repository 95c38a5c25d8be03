"""``captioner export``: write a captioner in ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captioner import files
from captioner.cli import console, options
from captioner.machine.packages import require

EXAMPLES = """Example: captioner export show_attend_tell -o small

Example: captioner export runs/mine/best -o small --photos 'holiday/*.jpg'

Example: captioner export show_attend_tell -o small --int8 --calibrate flickr8k

Example: captioner caption photo.jpg --model small"""


def run(
    model: options.Model,
    *,
    output: Annotated[Path, options.output_folder(help="The folder to write; give it as --model afterwards.")],
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--photos",
            metavar="PATH",
            help="Images to compare on: a file, a folder or a quoted pattern; may be repeated.",
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Compute in eight bits: smaller and faster, with slightly different captions."),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="With --int8: the data that it was trained on; uses 200 images of the split train."
        ),
    ] = None,
) -> None:
    """Export a captioner to ONNX, which runs without torch.

    Give the folder as --model to any command that captions. The model's encoder must be a grid.

    Before the folder appears, the export is compared with the model on images; if they differ, nothing is written.
    Score an export in eight bits too, with captioner evaluate.
    """
    if int8 != (calibrate is not None):
        raise typer.BadParameter("give both or neither", param_hint="--int8, --calibrate")
    require("an export", "onnx", "onnxscript")
    from captioner import store
    from captioner.data.find import find_images
    from captioner.data.images import check_file
    from captioner.store import ONNX

    folder = store.locate(model)
    about = store.read_config(folder).get("about")
    store.check_replaceable(output, ONNX)
    failures = console.Failures()
    chosen = None if images is None else list(find_images(images, on_empty=failures))
    for image in chosen or ():
        check_file(image)
    failures.exit()
    console.note(f"exporting {model}")
    from captioner.onnx.export import export, require_exporter, training_images

    require_exporter()
    measured = None if calibrate is None else training_images(calibrate)
    from captioner.model.checkpoint import load_model

    with console.progress("Exporting") as progress:
        found = export(
            load_model(folder), output, source=model, about=about, images=chosen, calibrate=measured, progress=progress
        )
    graphs = sorted(output.glob("*.onnx"))
    for file in graphs:
        typer.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    attention = "" if found.attention is None else f", attention by {found.attention:.0e}"
    typer.echo(
        f"compared with {model} on {found.photos} images: {found.same} captions are the same; features differ by at "
        f"most {found.features:.0e} of their norm, log-probabilities by {found.log_probabilities:.0e}{attention}"
    )
    console.wrote(
        output, f"{console.count(len(graphs), 'graph')}, {files.bytes_in(output) / 1e6:,.1f} MB with all files"
    )
