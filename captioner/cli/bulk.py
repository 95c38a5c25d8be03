"""``captioner bulk``: caption a collection, on this machine or on a cluster."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from captioner.cli import bars, console, options

EXAMPLES = """Example: captioner bulk photos -o captions

Example: captioner bulk 's3://bucket/shards/*.tar' -o /shared/captions --ray --workers 64 --gpus 1

Example: captioner bulk images.parquet --column image -o captions --format parquet"""


_ray = functools.partial(typer.Option, rich_help_panel="Ray")


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder with images, tar files (WebDataset) or Parquet files, at any depth; one such file; or a "
            "quoted pattern. Also a URL that fsspec opens: s3://, gs://, https:// and others.",
        ),
    ],
    *,
    output: Annotated[
        Path, options.output_folder(help="The folder of the captions, a file for each part of the source.")
    ],
    models: options.Models = None,
    format: Annotated[
        Literal["jsonl", "parquet"], options.output_option(help="Format of the files; parquet needs captioner[bulk].")
    ] = "jsonl",
    column: Annotated[
        str | None,
        options.data_option(
            help="The column of Parquet files with the images, as in image.bytes.", show_default="the only one of bytes"
        ),
    ] = None,
    part_size: Annotated[int, options.data_option(min=1, help="Loose images in a part.")] = 1000,
    ray: Annotated[
        bool, _ray("--ray", help="Run on the Ray cluster of this machine, or start one; needs captioner[ray].")
    ] = False,
    workers: Annotated[int, _ray(min=1, help="With --ray: parts captioned at once.")] = 2,
    cpus: Annotated[int, _ray(min=1, help="With --ray: cores of each worker.")] = 1,
    gpus: Annotated[float, _ray(min=0, help="With --ray: GPUs of each worker; 0.5 for two on one.")] = 0,
    translation: options.Translation,
    search: options.NBest,
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    engine: options.EngineName = "auto",
) -> None:
    """Caption a collection of any size, a row for each image: image, caption, log_probability, model, error.

    The source is divided into parts: tar files, row groups of Parquet files, and loose images by the thousand. The file
    of a part is written when the part is complete, so after an interruption the same command resumes, and no image is
    lost or captioned twice. It also captions files with new names; rows of removed or changed files are not changed.

    An image that cannot be read has a row with the reason, and so has a damaged tar or Parquet file after its good
    images. Folders that cannot be read are reported, and tried again by the next run. In both cases the exit code is 1.
    """
    from captioner import store

    settings = search.settings()
    console.note(f"captioning {source}")
    name = options.ensemble(models) or store.DEFAULT
    store.locate_captioners(name)  # a wrong name must not enter the output's plan
    from captioner.collection.plan import open_plan
    from captioner.collection.run import Bulk, bulk, bulk_on_ray
    from captioner.data.rows import require_parquet

    if format == "parquet":
        require_parquet("--format parquet")
    plan = open_plan(
        source, output, format=format, column=column, size=part_size, model=_label(name, settings, translation)
    )
    failures = console.Failures()
    for problem in plan.problems:
        failures(problem)
    if plan.described:
        console.note(f"{plan.described:,} Parquet files without a column of bytes were left out")
    if plan.unread:
        more = f" and {len(plan.unread) - 1:,} more" if len(plan.unread) > 1 else ""
        console.note(f"{plan.unread[0]}{more}: left out, since archives of this kind are not read; unpack them")
    if plan.gone:
        console.note(f"{plan.gone:,} images are not in the source any more; their rows stay")
    translator = None
    if translation:
        from captioner.translation.find import find_translator

        translator = functools.partial(find_translator, translation.language, translation.translator, device=device)
    worker = functools.partial(
        Bulk,
        plan,
        name,
        batch_size=batch_size,
        device=device,
        engine=engine,
        threads=cpus if ray else None,
        translator=translator,
        **settings,
    )
    with bars.progress("Captioning parts") as progress:
        report = (
            bulk_on_ray(plan, worker, workers=workers, cpus=cpus, gpus=gpus, progress=progress)
            if ray
            else bulk(plan, worker, progress=progress)
        )
    for reason in report.errors:
        failures(reason)
    if report.failed > len(report.errors):
        console.note(f"and {report.failed - len(report.errors):,} more; see the rows with an error")
    done = [f"{len(plan.parts):,} parts"]
    if plan.begun and plan.new:
        done.append(f"{plan.new:,} new")
    if plan.begun and (archives := len({part.address for part in plan.parts[plan.begun :] if part.kind != "pictures"})):
        done.append(f"{archives:,} new tar or Parquet files")
    done.append(f"{report.images:,} images captioned" if report.parts else "none was left")
    typer.echo(f"{output}: {'; '.join(done)}")
    failures.exit()


def _label(name: str, settings: Mapping[str, object], translation: options.Translation) -> str:
    """Return what all parts of an output have in common: the model, and the options that change its rows."""
    changed = {key: value for key, value in settings.items() if (key, value) != ("n_best", 1)}
    language = {"language": translation.translator or translation.language} if translation else {}
    return f"{name} {changed | language}" if changed or language else name
