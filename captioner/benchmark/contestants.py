"""The contestants: models with their folders, names and fingerprints, and captions of other programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from captioner import store
from captioner.benchmark.cache import hash_of, sha256_of
from captioner.errors import CaptionerError, CheckpointError, EvaluationError
from captioner.evaluation.results import read_results
from captioner.store.names import name_of


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


@dataclass(frozen=True)
class GivenCaptions:
    """Captions of another program, to compare with those of models.

    Attributes:
        name: its name in tables.
        path: their file, in COCO's results format.
        captions: captions by image id, as written by the program.
    """

    name: str
    path: Path
    captions: Mapping[str, str]

    @classmethod
    def read(cls, name: str, path: str | Path) -> GivenCaptions:
        """Read the captions; see :func:`captioner.evaluation.results.read_results`.

        Raises:
            EvaluationError: the file cannot be read.
        """
        return cls(name, Path(path), read_results(path))


def find(
    models: Sequence[str | Path | Contestant | GivenCaptions], failed: Callable[[str], None]
) -> list[Contestant | GivenCaptions]:
    """Locate models, read captions of other programs, and give each contestant a unique name.

    A model without a given name is named after its folder (that of the run, for a run's ``best`` or ``last``), and an
    ensemble after its members. If that name is not unique, the model's name is the argument as given.

    Args:
        models: shipped models by name, model folders, ``user/model`` on the hub, or ensembles of these by names joined
            by ``+``, each also as ``NAME=MODEL``; COCO results files as ``NAME=FILE``; or contestants, which have a
            name.
        failed: called with the error of a model that does not exist or whose config cannot be read, or of a file that
            cannot be read; it is left out.

    Raises:
        CheckpointError: the same model or file was given twice, two contestants have the same name, or none is left.
    """
    located: list[tuple[Contestant | GivenCaptions, str]] = []
    for model in models:
        try:
            contestant, longer = _locate(model)
        except CaptionerError as error:
            failed(str(error))
            continue
        if any(_places(contestant) == _places(other) for other, _ in located):
            kind = "file" if isinstance(contestant, GivenCaptions) else "model"
            raise CheckpointError(f"{source(contestant)}: this {kind} is named twice; leave one out")
        located.append((contestant, longer))
    if not located:
        raise CheckpointError(
            "no model is left to compare"
            if models
            else "no model comes with this copy of captioner; name some to compare"
        )
    short = [contestant.name for contestant, _ in located]
    out: dict[str, Contestant | GivenCaptions] = {}
    for contestant, longer in located:
        name = contestant.name if short.count(contestant.name) == 1 else longer
        if name in out:
            where = source(contestant)
            raise CheckpointError(f"{where}: another model is named {name!r} too; name it otherwise: NAME={where}")
        out[name] = replace(contestant, name=name)
    return list(out.values())


def _locate(model: str | Path | Contestant | GivenCaptions) -> tuple[Contestant | GivenCaptions, str]:
    """Return a contestant, and its longer name in case another has the same."""
    if isinstance(model, GivenCaptions):
        return model, model.name
    if isinstance(model, Contestant):
        _check(model.folders)
        return model, model.name
    name, given = _named(model)
    is_folder, is_json = os.path.isdir(given), str(given).lower().endswith(".json")
    if name is None and is_json and not is_folder:
        example = Path(given).stem.replace("=", "-")  # the name ends at the first =
        raise EvaluationError(
            f"{given}: captions of another program need a name for the tables; write {example}={given}"
        )
    if name is not None and (is_json or os.path.exists(given)) and not is_folder:
        return GivenCaptions.read(name, given), name
    found = tuple(store.locate_captioners(given))
    _check(found)
    folder, *others = found
    return Contestant(name or _short(given, found), folder, others=tuple(others)), name or str(given)


def _named(model: str | Path) -> tuple[str | None, str | Path]:
    """Split ``NAME=FILE`` or ``NAME=MODEL`` into the name and the rest; the name is ``None`` if none is given.

    A ``=`` may also be in the name of a folder or file that exists.

    Raises:
        EvaluationError: the name or the rest is empty, or the name has characters that cannot be printed.
    """
    member = next((member for member in store.members(model) if "=" in member), None)
    if member is None or os.path.exists(member):
        return None, model
    name, _, given = str(model).partition("=")
    name = name.strip()
    if not name or not given or not name.isprintable():
        raise EvaluationError(f"{str(model)!r}: give NAME=FILE or NAME=MODEL, with a name that can be printed")
    return name, given


def _check(folders: Sequence[Path]) -> None:
    for folder in folders:
        store.read_config(folder)


def _places(contestant: Contestant | GivenCaptions) -> list[Path]:
    """Return what two contestants must not share: the folders of a model, or the file of captions."""
    paths = [contestant.path] if isinstance(contestant, GivenCaptions) else contestant.folders
    return [path.resolve() for path in paths]


def source(contestant: Contestant | GivenCaptions) -> str:
    """Return the name by which a model is loaded, or the path of a file of captions."""
    return str(contestant.path) if isinstance(contestant, GivenCaptions) else contestant.model


def _short(model: str | Path, found: Sequence[Path]) -> str:
    names = [
        # Folders of models from the hub have a hash as their name.
        name_of(folder.resolve()) if Path(name).is_dir() else name
        for name, folder in zip(store.members(model), found, strict=True)
    ]
    return store.join(names) if len(set(names)) == len(names) else str(model)
