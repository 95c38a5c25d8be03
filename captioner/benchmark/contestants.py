"""The models to compare: their folders, names and fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from captioner import store
from captioner.benchmark.cache import hash_of, sha256_of
from captioner.errors import CheckpointError
from captioner.store.card import name_of


@dataclass(frozen=True)
class Contestant:
    """A model to compare with others.

    Attributes:
        name: its name in tables.
        folder: the model folder; of an ensemble, that of its first member.
        recipe: the recipe with which the benchmark trained it; ``None`` if it did not.
        seed: the seed of that training.
        others: the folders of an ensemble's other members.
    """

    name: str
    folder: Path
    recipe: str | None = None
    seed: int | None = None
    others: tuple[Path, ...] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folder of the model, or those of all members."""
        return (self.folder, *self.others)

    @property
    def model(self) -> str:
        """The name by which :meth:`Captioner.from_pretrained` loads it."""
        return store.join(self.folders)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the config, vocabulary and weights of the model, or of all members; missing files are left out."""
        names = (store.CONFIG, store.VOCABULARY, store.WEIGHTS)
        return hash_of(
            [{name: sha256_of(folder / name) for name in names if (folder / name).is_file()} for folder in self.folders]
        )


def find(models: Sequence[str | Path | Contestant], failed: Callable[[str], None]) -> list[Contestant]:
    """Locate models and give each a unique name.

    A model is named after its folder (that of the run, for a run's ``best`` or ``last``), and an ensemble after its
    members. If that name is not unique, the model's name is the argument as given.

    Args:
        models: shipped models by name, model folders, ``user/model`` on the hub, ensembles of these by names joined by
            ``+``, or contestants, which have a name.
        failed: called with the error of a model that does not exist or whose config cannot be read; it is left out.

    Raises:
        CheckpointError: the same model was given twice, two models have the same name, or none is left.
    """
    located: list[tuple[str | Path | Contestant, tuple[Path, ...]]] = []
    for model in models:
        try:
            found = model.folders if isinstance(model, Contestant) else tuple(store.locate_captioners(model))
            for folder in found:
                store.read_config(folder)
        except CheckpointError as error:
            failed(str(error))
            continue
        if any([one.resolve() for one in found] == [one.resolve() for one in other] for _, other in located):
            raise CheckpointError(f"{store.join(found)}: this model is named twice; leave one out")
        located.append((model, found))
    if not located:
        raise CheckpointError(
            "no model is left to compare"
            if models
            else "no model comes with this copy of captioner; name some to compare"
        )
    short = [_name(model, found) for model, found in located]
    out: dict[str, Contestant] = {}
    for (model, (folder, *others)), name in zip(located, short, strict=True):
        contestant = (
            model
            if isinstance(model, Contestant)
            else Contestant(name if short.count(name) == 1 else str(model), folder, others=tuple(others))
        )
        if contestant.name in out:
            raise CheckpointError(
                f"{contestant.model}: another model is named {contestant.name!r} too; give its folder by a longer "
                f"path, such as ./{contestant.name}"
            )
        out[contestant.name] = contestant
    return list(out.values())


def _name(model: str | Path | Contestant, found: Sequence[Path]) -> str:
    if isinstance(model, Contestant):
        return model.name
    names = [
        # Folders of models from the hub have a hash as their name.
        name_of(folder.resolve()) if Path(name).is_dir() else name
        for name, folder in zip(store.members(model), found, strict=True)
    ]
    return store.join(names) if len(set(names)) == len(names) else str(model)
