"""``captioner features``: encode the images of a data set once, for any number of training runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from captioner.cli import bars, complete, console, options
from captioner.files import bytes_in
from captioner.machine.processes import Processes

if TYPE_CHECKING:
    from captioner.encoders import Encoder

EXAMPLES = """Example: captioner features flickr8k -o flickr8k-features --flips

Example: captioner features dataset_coco.json -o features --split train --split restval --split val

Example: captioner features flickr8k -o features --encoder resnet101 --set fit=crop

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
    *,
    output: Annotated[
        Path | None,
        options.output_folder(help="The folder of the feature store.", show_default="where the recipe looks for it"),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="A backbone: efficientnet_lite0 or 2, resnet50, resnet101, vgg19, or any of timm's. "
            "Or regions: those of a detector; or grid+regions: both, with --set grid.backbone=BACKBONE.",
            show_default="efficientnet_lite2",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of the encoder, for example size=256 or fit=crop, or of the recipe; may be "
            "repeated.",
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
            min=0,
            help="Leave off this many of the encoder's last stages, to tune them (fine_tune.stages).",
            show_default="0",
        ),
    ] = None,
    split: Annotated[list[str] | None, options.data_option(help="Only this split; may be repeated.")] = None,
    strict: options.Strict = False,
    flips: Annotated[bool, options.data_option("--flips", help="Also encode every image mirrored.")] = False,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 2,
    device: options.Device = "auto",
) -> None:
    """Encode the images of caption data sets into a feature store.

    A recipe sets the images, the encoder, the number of stages to leave off and whether images are mirrored.

    After an interruption, the same command resumes.

    Images that cannot be read are reported on stderr and left out; the exit code is then 1.
    """
    from captioner.training.recipe_files import recipes

    changes = changes or []
    if Processes.started().first:
        console.note(f"encoding the images of {', '.join(data)}")
    if len(data) == 1 and (data[0] in recipes() or data[0].lower().endswith((".yaml", ".yml"))):
        why = "the recipe determines that; change it with --set, or leave it out"
        options.refuse(why, encoder=encoder, model=model, cut=cut, split=split, flips=flips, strict=strict)
        options.check_recipe(data[0], changes)
        plan = _recipe_plan(data[0], changes, output)
    else:
        if output is None:
            raise typer.BadParameter("give the folder of the feature store", param_hint="--output")
        if model and changes:
            raise typer.BadParameter(
                "a model's encoder cannot be changed; leave out --set or --model", param_hint="--set"
            )
        images = _images(data, split or [], strict)
        plan = _Plan(images, _encoder(encoder or "efficientnet_lite2", model, changes), cut or 0, flips, output)

    from captioner.features import build_store, store_bytes
    from captioner.machine.backend import choose_device

    processes = Processes.join()
    front = plan.encoder.front(plan.cut).fast(choose_device(device, number=processes.local_rank))
    if processes.first and (expected_size := store_bytes(front, len(plan.images), flips=plan.flips)) > 1e9:
        console.note(f"{plan.output}: will take {expected_size / 1e9:,.1f} GB")
    began = time.perf_counter()
    with bars.progress("Encoding", show=processes.first) as progress:
        built = build_store(
            plan.output,
            front,
            plan.images,
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
    store = built.store
    speed = (
        f"{built.encoded:,} encoded now, {built.encoded / seconds:.1f} images/s"
        if built.encoded
        else "all were encoded already"
    )
    typer.echo(
        f"{plan.output}: {len(store):,} images{', also mirrored' if store.flips else ''}, {store.n_vectors} regions or "
        f"cells of {store.features} features, {bytes_in(plan.output) / 1e6:,.1f} MB; {speed}"
    )
    failures.exit()


class _Plan(NamedTuple):
    images: list[tuple[str, Path]]  # image ids and files
    encoder: Encoder
    cut: int  # how many of its last stages are left off
    flips: bool  # whether images are also encoded mirrored
    output: Path


def _images(data: list[str], splits: list[str], strict: bool) -> list[tuple[str, Path]]:
    from captioner.data.annotations import merge, read_captions

    sets = [options.report_malformed(read_captions(path, strict=strict)) for path in data]
    merged = merge(*sets) if len(sets) > 1 else sets[0]
    chosen = [each for part in dict.fromkeys(splits) for each in merged.split(part).images] if splits else merged.images
    return list({each.image_id: each.path for each in chosen}.items())


def _encoder(name: str, model: str | None, changes: list[str]) -> Encoder:
    from captioner.encoders import ENCODERS
    from captioner.model import build_encoder
    from captioner.model.checkpoint import load_model
    from captioner.settings import override

    if model:
        return load_model(model).encoder
    return build_encoder(override({"name": name} if name in ENCODERS else {"name": "grid", "backbone": name}, changes))


def _recipe_plan(recipe: str, changes: list[str], output: Path | None) -> _Plan:
    from captioner.training.recipe import load_config
    from captioner.training.stored_features import store_plan

    config = load_config(recipe, changes)
    plan = store_plan(config, console.note)
    folder = output or config.data.features or config.output / "features"
    return _Plan(plan.images, plan.encoder, plan.cut, config.data.flips, folder)
