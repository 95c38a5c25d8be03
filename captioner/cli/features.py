"""``captioner features``: encode a data set's pictures once, to train on many times."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli import console

EXAMPLES = """Example: captioner features flickr8k -o flickr8k-features --flips

Example: captioner features dataset_coco.json -o features --split train --split restval --split val

Example: captioner features flickr8k -o regions --encoder regions --set regions=50"""


def run(
    data: Annotated[list[Path], typer.Argument(metavar="DATA", help="Caption data sets, files or folders; several are joined.")],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="The folder of the feature store.")],
    encoder: Annotated[
        str,
        typer.Option(
            help="A backbone: efficientnet_lite0 or 2, resnet50, resnet101, vgg19, or any of timm's. Or: regions, those that a detector finds."
        ),
    ] = "efficientnet_lite2",
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the encoder; may be given several times.")
    ] = None,
    size: Annotated[
        int, typer.Option(min=0, help="Side of the picture in pixels; 0 is what gives a 14x14 map, or what the detector learned on.")
    ] = 0,
    fit: Annotated[
        str | None, typer.Option(help="squash the whole picture into a square, or crop its middle.", show_default="squash; regions always are")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Take this model's encoder and not a backbone: a shipped model, a model folder, or user/model on the hub.")
    ] = None,
    cut: Annotated[int, typer.Option(min=0, help="Leave off so many of its last stages, to train these (fine_tune.stages).")] = 0,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be given several times.")] = None,
    flips: Annotated[bool, typer.Option("--flips", help="Also encode every picture mirrored.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures encoded at once.")] = 8,
    workers: console.Workers = 2,
    device: console.Device = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the encoder first; pays from some hundred pictures on.")] = False,
) -> None:
    """Encode the pictures of caption data sets into a feature store.

    When it was interrupted, the same command goes on where it stopped.

    Pictures that cannot be read are reported on stderr and left out; the exit code is then 1.
    """
    if model and changes:
        raise typer.BadParameter("a model's encoder is taken as it is; leave out --set or --model", param_hint="--set")

    from captioner.data.annotations import merge, read_captions

    photos = merge(*sets) if len(sets := [read_captions(path) for path in data]) > 1 else sets[0]
    chosen = [photo for part in dict.fromkeys(split) for photo in photos.split(part).photos] if split else photos.photos
    pictures = [(image_id, path) for image_id, path in {photo.image_id: photo.path for photo in chosen}.items()]

    from captioner.checkpoint import load_model
    from captioner.config import override
    from captioner.data.features import build_store
    from captioner.device import choose_device
    from captioner.encoders import ENCODERS
    from captioner.model import build_encoder

    named = {"name": encoder} if encoder in ENCODERS else {"name": "grid", "backbone": encoder}
    given = {"size": size, "fit": fit} if fit is not None else {"size": size}
    whole = load_model(model).encoder if model else build_encoder(override(named | given, changes or []))
    front = whole.front(cut).fast(choose_device(device))
    began = time.perf_counter()
    with console.progress("Encoding") as progress:
        built = build_store(output, front, pictures, flips=flips, batch_size=batch_size, workers=workers, compiled=compiled, progress=progress)
    seconds = time.perf_counter() - began
    failures = console.Failures()
    for error in built.errors:
        failures(error)
    store, size_on_disk = built.store, sum(file.stat().st_size for file in output.iterdir())
    speed = f"{built.encoded:,} encoded now, {built.encoded / seconds:.1f} images/s" if built.encoded else "all were encoded already"
    typer.echo(
        f"{output}: {len(store):,} pictures{' and their mirror images' if store.flips else ''}, {store.places} places of {store.features} features, "
        f"{size_on_disk / 1e6:,.1f} MB; {speed}"
    )
    failures.exit()
