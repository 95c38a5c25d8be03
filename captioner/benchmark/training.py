"""Training of models for a benchmark: each recipe on the same data, with the same settings and seeds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.benchmark.contestants import Contestant
from captioner.benchmark.listener import Listener
from captioner.data.hub import local_copy
from captioner.errors import CaptionerError, ConfigError

if TYPE_CHECKING:
    from captioner.training.events import Events


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
    events: Events | None = None,
) -> list[Contestant]:
    """Train each recipe once per seed; interrupted runs resume, finished runs are reused.

    A run is in ``output/RECIPE``, or in ``output/RECIPE/seed-N`` if seeds are given. The runs of a recipe share the
    features of the images. A recipe that cannot be trained is reported and left out.

    Args:
        recipes: names of shipped recipes, or YAML files.
        output: the folder of the runs.
        data: the caption data set; its train split is used.
        images: the folder of its images, if they are not where its format expects them.
        restval: add COCO's restval images to the train split.
        changes: ``key=value`` settings for all recipes, for example ``epochs=4``, the same number of epochs.
        seeds: seeds of the runs; ``None`` uses each recipe's own.
        device: a torch device, or ``auto``.
        listener: receives notes and errors.
        events: receives the progress, notes and warnings of training.

    Raises:
        ConfigError: two recipes have the same name.
    """
    listener = listener or Listener()
    names = Counter(Path(recipe).stem for recipe in recipes)
    for name, number in names.items():
        if number > 1:
            raise ConfigError(
                f"--train: two recipes are named {name!r} and would share a folder; "
                "rename one of the files, or leave one out"
            )
    paths = {"data.path": str(local_copy(data).absolute())}
    if images is not None:
        paths["data.images"] = str(Path(images).absolute())
    settings = [f"{key}={json.dumps(value)}" for key, value in paths.items()]
    settings += ["data.restval=true"] * restval + ([f"device={device}"] if device != "auto" else [])
    out = []
    for recipe in recipes:
        for seed in [None] if seeds is None else seeds:
            try:
                out.append(_run(recipe, Path(output).absolute(), [*settings, *changes], seed, listener, events))
            except CaptionerError as error:
                listener.failed(
                    f"{Path(recipe).stem}{'' if seed is None else f', seed {seed}'}: could not be trained: {error}"
                )
    return out


def _run(
    recipe: str, output: Path, settings: list[str], seed: int | None, listener: Listener, events: Events | None
) -> Contestant:
    from captioner.training import fit
    from captioner.training.recipe import load_config
    from captioner.training.state import STATE

    name = Path(recipe).stem
    folder = output / name if seed is None else output / name / f"seed-{seed}"
    if seed is not None:
        settings = [*settings, f"seed={seed}"]
        config = load_config(recipe, settings)
        # An encoder with random weights differs by seed.
        if config.data.features is None and config.model.encoder.get("weights") != "random":
            settings = [*settings, f"data.features={json.dumps(str(output / name / 'features'))}"]
    title = name if seed is None else f"{name}, seed {seed}"
    listener.note(f"Training {title}")
    best = fit.train(recipe, settings, output=folder, resume=(folder / STATE).exists(), events=events)
    return Contestant(title, best, name, seed)
