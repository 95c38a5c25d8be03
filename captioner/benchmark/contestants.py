"""The models to compare: locating them, naming them, and detecting changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from captioner import assets, checkpoint
from captioner.card import name_of
from captioner.errors import CheckpointError


@dataclass(frozen=True)
class Contestant:
    """A model to compare with others.

    Attributes:
        name: its name in tables.
        folder: the model folder.
        recipe: the recipe with which the benchmark trained it; ``None`` if it did not.
        seed: the seed of that training.
    """

    name: str
    folder: Path
    recipe: str | None = None
    seed: int | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model's weights, config and vocabulary.

        A missing file counts as empty here; loading the model reports it.
        """
        digest = hashlib.sha256()
        for name in (assets.CONFIG, checkpoint.VOCABULARY, checkpoint.WEIGHTS):
            path = self.folder / name
            digest.update(f"{name} {path.stat().st_size if path.is_file() else 0}\n".encode())
            if path.is_file():
                with open(path, "rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
        return digest.hexdigest()


def find(models: Sequence[str | Path | Contestant], failed: Callable[[str], None]) -> list[Contestant]:
    """Locate models and give each a unique name.

    A model is named after its folder (that of the run, for a run's ``best`` or ``last``). If that name is not unique,
    the model's name is the argument as given.

    Args:
        models: shipped models by name, model folders, ``user/model`` on the hub, or contestants, which have a name.
        failed: called with the error of a model that does not exist or whose config cannot be read; it is left out.

    Raises:
        CheckpointError: the same model was given twice, two models have the same name, or none is left.
    """
    located: list[tuple[str | Path | Contestant, Path]] = []
    for model in models:
        try:
            folder = model.folder if isinstance(model, Contestant) else checkpoint.locate(model)
            checkpoint.read_config(folder)
        except CheckpointError as error:
            failed(str(error))
            continue
        if any(folder.resolve() == other.resolve() for _, other in located):
            raise CheckpointError(f"{folder}: this model is named twice; leave one out")
        located.append((model, folder))
    if not located:
        raise CheckpointError(
            "no model is left to compare"
            if models
            else "no model comes with this copy of captioner; name some to compare"
        )
    short = [_name(model, folder) for model, folder in located]
    out: dict[str, Contestant] = {}
    for (model, folder), name in zip(located, short, strict=True):
        contestant = (
            model
            if isinstance(model, Contestant)
            else Contestant(name if short.count(name) == 1 else str(model), folder)
        )
        if contestant.name in out:
            raise CheckpointError(
                f"{folder}: another model is named {contestant.name!r} too; give its folder by a longer path, "
                f"such as ./{contestant.name}"
            )
        out[contestant.name] = contestant
    return list(out.values())


def _name(model: str | Path | Contestant, folder: Path) -> str:
    if isinstance(model, Contestant):
        return model.name
    if not Path(model).is_dir():  # a shipped model, or one from the hub, whose folder name is a hash
        return str(model)
    return name_of(folder.resolve())
