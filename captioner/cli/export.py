"""``captioner export``: write a captioner in ONNX, or as a web page that captions in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captioner import files
from captioner.cli import bars, console, options, outputs

EXAMPLES = """Example: captioner export show_attend_tell -o small

Example: captioner export runs/mine/best -o small --photos 'holiday/*.jpg'

Example: captioner export show_attend_tell -o small --int8 --calibrate flickr8k

Example: captioner caption photo.jpg --model small

Example: captioner export show_attend_tell --web site && python -m http.server --directory site"""


def run(
    model: options.Model,
    *,
    output: Annotated[
        Path | None,
        options.output_folder(help="The folder to write; give it as --model afterwards.", show_default=False),
    ] = None,
    web: Annotated[
        Path | None,
        options.output_option(
            "--web",
            metavar="FOLDER",
            file_okay=False,
            callback=outputs.writable,
            help="Instead, write a web page that captions in the browser: a folder for any web host. The first "
            "time, onnxruntime-web is downloaded from npm, 31 MB, and kept in the user's cache.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        options.output_option(
            "--runtime",
            metavar="PATH",
            help="With --web: the archive of onnxruntime-web, or its folder; then nothing is downloaded.",
            show_default=False,
        ),
    ] = None,
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
    """Export a captioner to ONNX, which runs without torch, or to a page that runs in a browser.

    Give the folder as --model to any command that captions. The model's encoder must be a grid.

    First, the export is compared with the model on images; if they differ, nothing is written. An export in eight bits
    should also be scored, with captioner evaluate.

    With --web, the graphs of a model that has them are used.
    """
    if int8 != (calibrate is not None):
        raise typer.BadParameter("give both or neither", param_hint="--int8, --calibrate")
    if (output is None) == (web is None):
        raise typer.BadParameter("give one of them", param_hint="--output, --web")
    if runtime is not None and web is None:
        raise typer.BadParameter("give --web too", param_hint="--runtime")

    if output is not None:
        compared = _export(model, output, images, calibrate)
        graphs = sorted(output.glob("*.onnx"))
        for file in graphs:
            typer.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
        typer.echo(compared)
        size = files.bytes_in(output) / 1e6
        console.wrote(output, f"{console.count(len(graphs), 'graph')}, {size:,.1f} MB with all files")
    if web is not None:
        _write_page(model, web, runtime, images, calibrate)


def _export(model: str, output: Path, images: list[str] | None, calibrate: Path | None) -> str:
    """Export to a folder, and return how the graphs compare with the model."""
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

    with bars.progress("Exporting") as progress:
        found = export(
            load_model(folder), output, source=model, about=about, images=chosen, calibrate=measured, progress=progress
        )
    attention = "" if found.attention is None else f", attention by {found.attention:.0e}"
    return (
        f"compared with {model} on {found.photos} images: {found.same} captions are the same; features differ by at "
        f"most {found.features:.0e} of their norm, log-probabilities by {found.log_probabilities:.0e}{attention}"
    )


def _write_page(
    model: str, folder: Path, runtime: Path | None, images: list[str] | None, calibrate: Path | None
) -> None:
    from captioner import store
    from captioner.web.browser import runtime as onnxruntime_web
    from captioner.web.browser import site

    source = store.locate(model)
    site.check_replaceable(folder)
    ready = site.has_graphs(source)
    if ready and (images or calibrate):
        raise typer.BadParameter(
            f"{model} has graphs, which are used as they are; leave these options out",
            param_hint="--photos, --int8, --calibrate",
        )
    if runtime is None:
        if onnxruntime_web.cached() is None:
            console.note(f"downloading {onnxruntime_web.ARCHIVE.url} to {onnxruntime_web.cache()}, once")
        with bars.files() as progress:
            runtime = onnxruntime_web.fetch(progress)
    parts = onnxruntime_web.read(runtime)
    with files.temporary_folder() as temporary:
        if not ready:
            typer.echo(_export(model, temporary / "graphs", images, calibrate))
            source = temporary / "graphs"
        written = site.write(source, folder, parts, name=Path(model).name)
    for file in written:
        typer.echo(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
    size = sum(file.stat().st_size for file in written) / 1e6
    console.wrote(
        folder, f"{console.count(len(written), 'file')}, {size:,.1f} MB; see it with python -m http.server -d {folder}"
    )
