"""The models that are compared: finding them, naming them, and telling whether one has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from captioner import assets, checkpoint
from captioner.errors import CheckpointError


@dataclass(frozen=True)
class Contestant:
    """A model that is compared with others.

    Attributes:
        name: in tables.
        folder: of the model.
        recipe: by which the benchmark trained it; ``None`` if it did not.
        seed: of that training.
    """

    name: str
    folder: Path
    recipe: str | None = None
    seed: int | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model's weights, config and vocabulary; a file that is missing counts as empty, and loading the model tells of it."""
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
    """Find models and name each by its folder (that of the run, if it is a run's ``best`` or ``last``), or as it was given if others are named so.

    Args:
        models: shipped models by name, model folders, ``user/model`` on the hub, or what has a name already.
        failed: called with the error of a model that does not exist or whose config cannot be read; it is left out.

    Raises:
        CheckpointError: the same model was given twice, two cannot be told apart by name, or none is left.
    """
    found: list[tuple[str | Path | Contestant, Path]] = []
    for model in models:
        try:
            folder = model.folder if isinstance(model, Contestant) else checkpoint.locate(model)
            checkpoint.read_config(folder)
        except CheckpointError as error:
            failed(str(error))
            continue
        if any(folder.resolve() == other.resolve() for _, other in found):
            raise CheckpointError(f"{folder}: this model is named twice; leave one out")
        found.append((model, folder))
    if not found:
        raise CheckpointError(
            "no model is left to compare"
            if models
            else "no model comes with this copy of captioner; name some to compare"
        )
    short = [_name(model, folder) for model, folder in found]
    out: dict[str, Contestant] = {}
    for (model, folder), name in zip(found, short, strict=True):
        one = (
            model
            if isinstance(model, Contestant)
            else Contestant(name if short.count(name) == 1 else str(model), folder)
        )
        if one.name in out:
            raise CheckpointError(
                f"{folder}: another model is named {one.name!r} too; give its folder by a longer path, such as ./{one.name}"
            )
        out[one.name] = one
    return list(out.values())


def _name(model: str | Path | Contestant, folder: Path) -> str:
    if isinstance(model, Contestant):
        return model.name
    if not Path(model).is_dir():  # a shipped model, or one of the hub, whose folder is named by a hash
        return str(model)
    folder = folder.resolve()
    return folder.parent.name if folder.name in ("best", "last") else folder.name
