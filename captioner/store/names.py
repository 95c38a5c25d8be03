"""The names of models: finding the folder of a shipped model, of a path, of the hub, or those of an ensemble."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import captioner
from captioner.errors import CheckpointError
from captioner.registry import suggestion
from captioner.store import hub
from captioner.store.config import (
    CAPTIONER,
    CONFIG,
    ONNX,
    TRANSLATOR,
    VOCABULARY,
    WEIGHTS,
    is_ours,
    kind_of,
    parts_of,
    read_config,
    read_whole,
)

DEFAULT = "show_attend_tell"
AND = "+"  # joins the names of an ensemble's members
PACKAGE = Path(captioner.__file__).parent


def shipped(kind: str | None = CAPTIONER) -> dict[str, Path]:
    """Return the folders of the models of one kind that come with the program, by name; ``None`` is all kinds.

    They are inside an installed package, or next to it in a checkout. The config of each is read for its kind.
    """
    found: dict[str, Path] = {}
    for folder in _shipped_folders():
        if kind in (None, kind_of(folder)):
            found.setdefault(folder.name, folder)
    return found


def _find_shipped(name: str, kind: str | None) -> Path | None:
    """Return the folder of the shipped model of a name, without reading the configs of others."""
    return next((each for each in _shipped_folders() if each.name == name and kind in (None, kind_of(each))), None)


def _shipped_folders() -> Iterator[Path]:
    for root in (PACKAGE / "assets", PACKAGE.parent / "assets"):
        for name in sorted(os.listdir(root)) if root.is_dir() else ():
            if (root / name / CONFIG).is_file():
                yield root / name


def list_models() -> list[str]:
    """Return the names of the captioners that come with the program, for :meth:`Captioner.from_pretrained`."""
    return list(shipped())


def locate(name_or_path: str | Path | None = None, *, kind: str | None = CAPTIONER) -> Path:
    """Find a model folder: a path, a shipped model's name, or ``user/model`` on the Hugging Face hub.

    ``None`` is the default captioner. Only the names of shipped models depend on ``kind`` (``None`` is any). For the
    kind of a folder see :func:`captioner.store.kind_of`; :func:`read_config` checks it.

    Raises:
        CheckpointError: there is no such model.
    """
    if name_or_path is None:
        if kind != CAPTIONER:
            raise CheckpointError(f"there is no default {kind or 'model'}; name one")
        if (default := _find_shipped(DEFAULT, kind)) is None:
            raise CheckpointError(
                "no model comes with this copy of captioner; give one with --model, or train one with: captioner train"
            )
        return default
    if not str(name_or_path):
        raise CheckpointError("the name of a model is empty; give one")
    path = Path(name_or_path)
    if os.path.isdir(path):  # unlike pathlib's, false of a name that no file can have
        if os.path.isfile(path / CONFIG):
            return path
        raise CheckpointError(f"{path}: not a model folder, it has no {CONFIG}")
    if os.path.isfile(path):
        raise CheckpointError(
            f"{path}: is a file; give the model's folder, which holds {WEIGHTS}, {CONFIG} and {VOCABULARY}"
        )
    name = str(name_or_path)
    if found := _find_shipped(name, kind):
        return found
    if hub.is_name(name):
        return _from_hub(name)
    models, others = shipped(kind), shipped(None)
    if name in others:
        raise CheckpointError(
            f"{name}: is a {kind_of(others[name])}, and this needs a {kind}; known: {', '.join(models)}"
        )
    if len(members(name)) > 1:
        raise CheckpointError(f"{name}: is an ensemble, and this needs a single {kind or 'model'}; give one of them")
    hint = suggestion(name, list(models))
    raise CheckpointError(
        f"model {name!r} does not exist.{hint} Shipped: {', '.join(models) or 'none'}; or give a model folder, or "
        "user/model on the hub"
    )


def join(names: Iterable[str | Path]) -> str:
    """Return the name of the ensemble of models, or that of the only one."""
    return AND.join(map(str, names))


def members(name_or_path: str | Path) -> list[str]:
    """Return the names that an ensemble's name joins by ``+``; just the one of a single model.

    A ``+`` may also be in the name of a folder: of the possible readings, the one with the longest names of folders
    that exist is taken, from the left.
    """
    pieces, found = str(name_or_path).split(AND), []
    while pieces:
        size = next((n for n in range(len(pieces), 1, -1) if os.path.isdir(join(pieces[:n]))), 1)
        found.append(join(pieces[:size]))
        pieces = pieces[size:]
    return found


def locate_captioners(name_or_path: str | Path | None = None) -> list[Path]:
    """Find the folder of a captioner, or those of an ensemble's members.

    Args:
        name_or_path: a name for :func:`locate`, or several joined by ``+``; ``None`` is the default.

    Raises:
        CheckpointError: there is no such captioner, or the ensemble has one twice or an exported one.
    """
    names: list[Any] = [None] if name_or_path is None else members(name_or_path)
    if "" in names and len(names) > 1:
        raise CheckpointError(f"{name_or_path}: a model's name is missing next to a {AND}; join names like a{AND}b")
    found: dict[Path, Path] = {}
    for name in names:
        folder = locate(name)
        if captioner_kind(folder) == ONNX and len(names) > 1:
            raise CheckpointError(
                f"{name}: is exported, and the members of an ensemble are run in torch; give the model that it was "
                "exported from"
            )
        if found.setdefault(folder.resolve(), folder) is not folder:
            raise CheckpointError(f"{name_or_path}: {name} is in it twice; give each member once")
    return list(found.values())


def translators(source: str = "en") -> dict[str, str]:
    """Return the languages that shipped translators write from ``source``, with the name of the first one of each."""
    found: dict[str, str] = {}
    for name, folder in shipped(TRANSLATOR).items():
        model = read_config(folder, TRANSLATOR)["model"]
        if model.get("source") == source:
            found.setdefault(str(model.get("target")).lower(), name)
    return found


def translator_into(language: str, source: str = "en") -> str:
    """Return the name of the shipped translator into a language, ``de`` for example, from another.

    Raises:
        CheckpointError: no shipped translator writes the language.
    """
    known = translators(source)
    if language.lower() not in known:
        raise CheckpointError(
            f"no translator from {source!r} into {language!r} comes with this copy of captioner. "
            f"Available languages: {', '.join(known) or 'none'}; or name a translator's folder (--translator); "
            "train one with: captioner train"
        )
    return known[language.lower()]


def _from_hub(name: str) -> Path:
    """Download only the parts of a model of its kind, and return its folder in the hub's cache.

    Raises:
        CheckpointError: it is not a model of this program, lacks a part, or cannot be downloaded.
    """
    config = hub.fetch(name, CONFIG)
    if config is None or not is_ours(config):
        raise CheckpointError(
            f"model {name!r}: is on the hub, but is not a model of captioner; give one that was uploaded with: "
            "captioner push"
        )
    folder = config.parent
    kind = kind_of(folder)
    try:
        fields = read_config(folder, kind)
    except CheckpointError as error:
        raise CheckpointError(f"model {name!r}: {error}") from None
    for part in parts_of(kind, fields):
        if hub.fetch(name, part, commit=folder.name) is None:
            raise CheckpointError(
                f"model {name!r}: is damaged, its repository has no {part}; upload it again with: captioner push"
            )
    try:
        read_whole(folder, kind)
    except CheckpointError as error:
        raise CheckpointError(
            f"model {name!r}: {error}. If it was uploaded like that, upload it again with: captioner push; else delete "
            f"{folder.parent.parent}, and it is downloaded again"
        ) from None
    return folder


def captioner_kind(folder: Path) -> str:
    """Return whether a folder holds a captioner in torch or an exported one.

    Raises:
        CheckpointError: it holds neither, or its config is damaged; see :func:`read_config`.
    """
    kind = ONNX if kind_of(folder) == ONNX else CAPTIONER
    read_config(folder, kind)
    return kind


def name_of(folder: str | Path) -> str:
    """Return the name of a model that is saved in a folder: the folder's, or the run's of a training's ``best``."""
    folder = Path(folder)
    return folder.parent.name if folder.name in ("best", "last") and folder.parent.name else folder.name
