"""``captioner bulk``: caption a collection, on this machine or on a cluster."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

import typer

from captioner.cli import console
from captioner.cli.caption import Models

EXAMPLES = """Example: captioner bulk photos -o captions

Example: captioner bulk 's3://bucket/shards/*.tar' -o /shared/captions --ray --workers 64 --gpus 1

Example: captioner bulk images.parquet --column image -o captions --format parquet"""


def run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder with pictures, tar files (WebDataset) or Parquet files, at any depth; one such file; or a "
            "quoted pattern. Also a URL that fsspec opens: s3://, gs://, https:// and others.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            file_okay=False,
            callback=console.writable,
            help="The folder of the captions, a file for each part of the source.",
        ),
    ],
    models: Models = None,
    format: Annotated[
        Literal["jsonl", "parquet"], typer.Option(help="Of the files; parquet needs captioner[bulk].")
    ] = "jsonl",
    column: Annotated[
        str | None,
        typer.Option(
            help="The column of Parquet files with the pictures, as in image.bytes.",
            show_default="the only one of bytes",
        ),
    ] = None,
    part_size: Annotated[int, typer.Option(min=1, help="Loose pictures in a part.")] = 1000,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Work on the Ray cluster that runs here, else on a new one; needs captioner[ray]."),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="With --ray: parts captioned at once.")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="With --ray: cores of each worker.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="With --ray: GPUs of each worker; 0.5 for two on one.")] = 0,
    beam: console.Beam = None,
    length_normalisation: console.LengthNormalisation = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in a batch.")] = 32,
    device: console.Device = "auto",
) -> None:
    """Caption a collection of any size, a row for each picture: image, caption, log_probability, model, error.

    The source is cut into parts: tar files, row groups of Parquet files, and loose pictures by the thousand. A part's
    file appears when it is complete, so after an interruption the same command resumes, and no picture is lost or
    captioned twice. It also takes the files that have been added since, by their names; the rows of files that have
    been removed or changed stay as they are.

    A picture that cannot be read has a row with the reason, and so has a damaged tar or Parquet file after its good
    pictures. Folders that cannot be read are reported, and looked into again by the next run. In both cases the exit
    code is 1.
    """
    from captioner import folders

    search = console.search(beam, length_normalisation)
    name = console.ensemble(models) or folders.DEFAULT
    folders.locate_captioners(name)  # a wrong one must not become the output's
    from captioner.bulk import Bulk, bulk, open_plan
    from captioner.bulk.run import bulk_on_ray
    from captioner.rows import require_parquet

    if format == "parquet":
        require_parquet("--format parquet")
    plan = open_plan(
        source, output, format=format, column=column, size=part_size, model=name if not search else f"{name} {search}"
    )
    failures = console.Failures()
    for problem in plan.problems:
        failures(problem)
    if plan.described:
        console.note(f"{plan.described:,} Parquet files without a column of bytes are not images")
    if plan.unread:
        more = f" and {len(plan.unread) - 1:,} more" if len(plan.unread) > 1 else ""
        console.note(f"{plan.unread[0]}{more}: left out, since archives of this kind are not read; unpack them")
    if plan.gone:
        console.note(f"{plan.gone:,} pictures are not in the source any more; their rows stay")
    worker = functools.partial(
        Bulk, plan, name, batch_size=batch_size, device=device, threads=cpus if ray else None, **search
    )
    with console.progress("Captioning parts") as progress:
        report = (
            bulk_on_ray(plan, worker, workers=workers, cpus=cpus, gpus=gpus, progress=progress)
            if ray
            else bulk(plan, worker, progress=progress)
        )
    for reason in report.errors:
        failures(reason)
    if report.failed > len(report.errors):
        console.note(f"and {report.failed - len(report.errors):,} more; the rows with an error tell which")
    done = [f"{len(plan.parts):,} parts"]
    if plan.begun and plan.new:
        done.append(f"{plan.new:,} new")
    if plan.begun and (archives := len({part.address for part in plan.parts[plan.begun :] if part.kind != "pictures"})):
        done.append(f"{archives:,} new tar or Parquet files")
    done.append(f"{report.images:,} pictures captioned" if report.parts else "all was captioned already")
    typer.echo(f"{output}: {'; '.join(done)}")
    failures.exit()
