"""Contestants that the benchmark trains itself: each recipe with the same data, the same changes and the same seeds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from captioner.benchmark.contestants import Contestant
from captioner.benchmark.listener import Listener
from captioner.errors import CaptionerError, ConfigError


def train(
    recipes: Sequence[str],
    output: str | Path,
    *,
    data: str | Path,
    images: str | Path | None = None,
    restval: bool = False,
    changes: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    device: str = "auto",
    listener: Listener | None = None,
    console: Console | None = None,
) -> list[Contestant]:
    """Train each recipe once for each seed, or go on with a training that was interrupted; one that is finished is not repeated.

    A run is in ``output/RECIPE``, or in ``output/RECIPE/seed-N`` if seeds are given. The runs of one recipe share the
    features of the photos. A recipe that cannot be trained is reported and left out.

    Args:
        recipes: shipped ones by name, or YAML files.
        output: the folder of the runs.
        data: the caption data set, whose train split is learned from.
        images: the folder of its pictures, if they are not where its format has them.
        restval: count COCO's restval photos as train.
        changes: ``key=value`` settings of all recipes: their budget, for example ``epochs=4``.
        seeds: ``None`` leaves each recipe its own.
        device: a torch device, or ``auto``.
        listener: is told of it.
        console: where training reports; ``None`` is standard error.

    Raises:
        ConfigError: two recipes have the same name.
    """
    listener = listener or Listener()
    names = Counter(Path(recipe).stem for recipe in recipes)
    for name, number in names.items():
        if number > 1:
            raise ConfigError(
                f"--train: two recipes are named {name!r}, and so would share a folder; rename one of the files, or leave one out"
            )
    given = {"data.path": str(Path(data).absolute())}
    if images is not None:
        given["data.images"] = str(Path(images).absolute())
    settings = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    settings += ["data.restval=true"] * restval + ([f"device={device}"] if device != "auto" else [])
    out = []
    for recipe in recipes:
        for seed in [None] if seeds is None else seeds:
            try:
                out.append(_run(recipe, Path(output).absolute(), [*settings, *changes], seed, listener, console))
            except CaptionerError as error:
                listener.failed(
                    f"{Path(recipe).stem}{'' if seed is None else f', seed {seed}'}: could not be trained: {error}"
                )
    return out


def _run(
    recipe: str, output: Path, settings: list[str], seed: int | None, listener: Listener, console: Console | None
) -> Contestant:
    from captioner.training import fit
    from captioner.training.loop import STATE
    from captioner.training.recipe import load_config

    name = Path(recipe).stem
    folder = output / name if seed is None else output / name / f"seed-{seed}"
    if seed is not None:
        settings = [*settings, f"seed={seed}"]
        config = load_config(recipe, settings)
        # An encoder with random weights is another with each seed.
        if config.data.features is None and config.model.encoder.get("weights") != "random":
            settings = [*settings, f"data.features={json.dumps(str(output / name / 'features'))}"]
    title = name if seed is None else f"{name}, seed {seed}"
    listener.note(f"Training {title}")
    best = fit.run(recipe, settings, output=folder, resume=(folder / STATE).exists(), console=console)
    return Contestant(title, best, name, seed)
