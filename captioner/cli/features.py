"""``captioner features``: encode a data set's pictures once, for any number of trainings."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from captioner.cli import complete, console

if TYPE_CHECKING:
    from captioner.encoders import Encoder

EXAMPLES = """Example: captioner features flickr8k -o flickr8k-features --flips

Example: captioner features dataset_coco.json -o features --split train --split restval --split val

Example: captioner features flickr8k -o regions --encoder regions --set regions=50

Example: captioner features flickr8k_show_attend_tell --set data.path=data/flickr8k -o features"""


def run(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA|RECIPE",
            autocompletion=complete.recipes,
            help="Caption data sets, files or folders; several are merged. Or the recipe of a captioner.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            file_okay=False,
            callback=console.writable,
            help="The folder of the feature store.",
            show_default="where the recipe looks for it",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="A backbone: efficientnet_lite0 or 2, resnet50, resnet101, vgg19, or any of timm's. "
            "Or regions: those that a detector finds; or grid+regions: both, with --set grid.backbone=BACKBONE.",
            show_default="efficientnet_lite2",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of the encoder or of the recipe; may be repeated.",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Side of the picture in pixels.",
            show_default="what gives a 14x14 map, or what the detector was trained on",
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            help="squash the whole picture into a square, or crop its middle.",
            show_default="squash, as always for regions",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete.models,
            help="Use this model's encoder, not a backbone: a shipped model, a model folder, or user/model on the hub.",
        ),
    ] = None,
    cut: Annotated[
        int | None,
        typer.Option(
            min=0, help="Leave off this many of its last stages, to train them (fine_tune.stages).", show_default="0"
        ),
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be repeated.")] = None,
    flips: Annotated[bool, typer.Option("--flips", help="Also encode every picture mirrored.")] = False,
    strict: console.Strict = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in a batch.")] = 8,
    workers: console.Workers = 2,
    device: console.Device = "auto",
) -> None:
    """Encode the pictures of caption data sets into a feature store.

    A recipe determines the pictures, the encoder, how many stages are left off and whether pictures are mirrored, as
    its training needs them.

    After an interruption, the same command resumes.

    Pictures that cannot be read are reported on stderr and left out; the exit code is then 1.
    """
    from captioner import assets

    recipe = (
        data[0]
        if len(data) == 1 and (data[0] in assets.recipes() or data[0].lower().endswith((".yaml", ".yml")))
        else None
    )
    if recipe is not None:
        own = {
            "--encoder": encoder,
            "--size": size,
            "--fit": fit,
            "--model": model,
            "--cut": cut,
            "--split": split,
            "--flips": flips,
            "--strict": strict,
        }
        for option, given in own.items():
            if given not in (None, False, []):
                raise typer.BadParameter(
                    "the recipe determines that; change it with --set, or leave it out", param_hint=option
                )
        console.check_recipe(recipe, changes or [])
        plan = _of_recipe(recipe, changes or [], output)
    else:
        if output is None:
            raise typer.BadParameter("give the folder of the feature store", param_hint="--output")
        if model and changes:
            raise typer.BadParameter(
                "a model's encoder cannot be changed; leave out --set or --model", param_hint="--set"
            )
        pictures = _pictures(data, split or [], strict)
        plan = _Plan(
            pictures,
            _encoder(encoder or "efficientnet_lite2", size or 0, fit, model, changes or []),
            cut or 0,
            flips,
            output,
        )

    from captioner.backend import choose_device
    from captioner.features import build_store, store_bytes
    from captioner.files import bytes_in
    from captioner.processes import Processes

    processes = Processes.join()
    front = plan.encoder.front(plan.cut).fast(choose_device(device, number=processes.local_rank))
    if processes.first and (expected_size := store_bytes(front, len(plan.pictures), flips=plan.flips)) > 1e9:
        console.note(f"{plan.output}: will take {expected_size / 1e9:,.1f} GB")
    began = time.perf_counter()
    with console.progress("Encoding", show=processes.first) as progress:
        built = build_store(
            plan.output,
            front,
            plan.pictures,
            flips=plan.flips,
            batch_size=batch_size,
            workers=workers,
            progress=progress,
            processes=processes,
        )
    if not processes.first:
        return
    seconds = time.perf_counter() - began
    failures = console.Failures()
    for error in built.errors:
        failures(error)
    store, size_on_disk = built.store, bytes_in(plan.output)
    speed = (
        f"{built.encoded:,} encoded now, {built.encoded / seconds:.1f} images/s"
        if built.encoded
        else "all were encoded already"
    )
    typer.echo(
        f"{plan.output}: {len(store):,} pictures{' and their mirror images' if store.flips else ''}, "
        f"{store.places} places of {store.features} features, {size_on_disk / 1e6:,.1f} MB; {speed}"
    )
    failures.exit()


class _Plan(NamedTuple):
    """What is encoded into a feature store, and how."""

    pictures: list[tuple[str, Path]]
    encoder: Encoder
    cut: int  # how many of its last stages are left off
    flips: bool  # whether pictures are also encoded mirrored
    output: Path


def _pictures(data: list[str], splits: list[str], strict: bool) -> list[tuple[str, Path]]:
    from captioner.data.annotations import merge, read_captions

    sets = [read_captions(path, strict=strict) for path in data]
    for read in sets:
        console.left_out(read)
    photos = merge(*sets) if len(sets) > 1 else sets[0]
    chosen = (
        [photo for part in dict.fromkeys(splits) for photo in photos.split(part).photos] if splits else photos.photos
    )
    return list({photo.image_id: photo.path for photo in chosen}.items())


def _encoder(name: str, size: int, fit: str | None, model: str | None, changes: list[str]) -> Encoder:
    from captioner.checkpoint import load_model
    from captioner.encoders import ENCODERS
    from captioner.model import build_encoder
    from captioner.settings import override

    if model:
        return load_model(model).encoder
    named = {"name": name} if name in ENCODERS else {"name": "grid", "backbone": name}
    given = ({"size": size} if size else {}) | ({"fit": fit} if fit is not None else {})
    return build_encoder(override(named | given, changes))


def _of_recipe(recipe: str, changes: list[str], output: Path | None) -> _Plan:
    """Derive the plan from the recipe of a captioner.

    Raises:
        ConfigError: the recipe is wrong, or its training needs no features.
    """
    from captioner.training.recipe import load_config
    from captioner.training.stored_features import store_plan

    config = load_config(recipe, changes)
    plan = store_plan(config, console.note)
    return _Plan(
        plan.images,
        plan.encoder,
        plan.cut,
        config.data.flips,
        output or config.data.features or config.output / "features",
    )
