"""The folders of models: finding one, reading its config, and replacing it whole or not at all. Nothing needs torch.

What else a folder holds depends on the kind of the model, which its config names: see :mod:`captioner.checkpoint` and
:mod:`captioner.onnx`. The config also lists the size and the SHA-256 of each of these files, so that damage is noticed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import captioner
from captioner import card as cards
from captioner import files, hub
from captioner.assets import CAPTIONER, CONFIG, DETECTOR, ONNX, TRANSLATOR, kind_of, shipped
from captioner.errors import CheckpointError
from captioner.registry import suggestion

FORMAT = 1
WEIGHTS, VOCABULARY, CARD = "model.safetensors", "vocabulary.json", "README.md"
SOURCE_VOCABULARY = "source_vocabulary.json"  # of a translator: the words it reads
GRAPHS = ("encoder.onnx", "start.onnx", "step.onnx")  # of an exported captioner
DEFAULT = "show_attend_tell"
AND = "+"  # joins the names of an ensemble's members
FILES = "files"  # the config's field with the size and the SHA-256 of each part
COPY = "copy the whole model folder again"
_MOST, _DEEPEST = 1 << 22, 64  # bytes of a config, and levels of its JSON
#: what a model's folder holds beside its config and its card, by kind
PARTS: dict[str, tuple[str, ...]] = {
    CAPTIONER: (WEIGHTS, VOCABULARY),
    TRANSLATOR: (WEIGHTS, VOCABULARY, SOURCE_VOCABULARY),
    DETECTOR: (WEIGHTS,),
    ONNX: (*GRAPHS, VOCABULARY),
}


def locate(name_or_path: str | Path | None = None, *, kind: str | None = CAPTIONER) -> Path:
    """Find a model folder: a path, a shipped model's name, or ``user/model`` on the Hugging Face hub.

    ``None`` is the default captioner. Only the names of shipped models depend on ``kind`` (``None`` is any). For the
    kind of a folder see :func:`captioner.assets.kind_of`; :func:`read_config` checks it.

    Raises:
        CheckpointError: there is no such model.
    """
    models = shipped(kind)
    if name_or_path is None:
        if kind != CAPTIONER:
            raise CheckpointError(f"there is no default {kind or 'model'}; name one")
        if DEFAULT not in models:
            raise CheckpointError(
                "no model comes with this copy of captioner; give one with --model, or train one with: captioner train"
            )
        return models[DEFAULT]
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
    if name in models:
        return models[name]
    if hub.is_name(name):
        return _from_hub(name)
    others = shipped(None)
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
        name_or_path: a name that :func:`locate` knows, or several that are joined by ``+``; ``None`` is the default.

    Raises:
        CheckpointError: there is no such captioner, or the ensemble has one twice or an exported one.
    """
    names: list[Any] = [None] if name_or_path is None else members(name_or_path)
    if "" in names and len(names) > 1:
        raise CheckpointError(f"{name_or_path}: a model's name is missing beside a {AND}; join names like a{AND}b")
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
            f"Languages that there are: {', '.join(known) or 'none'}; or name a translator's folder (--translator); "
            "train one with: captioner train"
        )
    return known[language.lower()]


def _from_hub(name: str) -> Path:
    """Download what a model of its kind needs, and nothing else, and return its folder in the hub's cache.

    Raises:
        CheckpointError: it is no model of this program, lacks a part, or cannot be had.
    """
    config = hub.fetch(name, CONFIG)
    if config is None or not _is_ours(config):
        raise CheckpointError(
            f"model {name!r}: is on the hub, but is not a model of captioner; give one that was uploaded with: "
            "captioner push"
        )
    folder = config.parent
    kind = kind_of(folder)
    try:
        read_config(folder, kind)
    except CheckpointError as error:
        raise CheckpointError(f"model {name!r}: {error}") from None
    for part in PARTS[kind]:
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


def _is_ours(config: Path) -> bool:
    """Return whether a config is that of a model of this program, of any version."""
    try:
        value = files.read_json(config, dict, error=CheckpointError, most=_MOST)
    except CheckpointError:
        return False
    return "captioner" in value and str(value.get("kind", CAPTIONER)) in PARTS


def push(folder: Path, name: str, *, private: bool = False, card: str = "") -> str:
    """Upload a model folder of any kind to the hub, in one commit, and return its address.

    Its config, its parts and its card are uploaded and no other file. What a model of this program that is there has
    and this one lacks is deleted.

    Args:
        folder: of the model.
        name: ``user/model``.
        private: make a repository that nobody else can see.
        card: the text of the model card; by default the folder's own. One that this program wrote names the model as
            the hub does.

    Raises:
        CheckpointError: the folder is not a whole model's, or see :func:`captioner.hub.publish`.
    """
    kind = kind_of(folder)
    config = read_whole(folder, kind)
    if not card:
        cure = "repair or delete it, or give another card"
        there = (folder / CARD).exists()
        own = files.read_text(folder / CARD, error=CheckpointError, cure=cure) if there else ""
        card = cards.renamed(own, config, name)
    contents: dict[str, Path | bytes] = {part: folder / part for part in (*PARTS[kind], CONFIG)}
    return hub.publish(
        name,
        contents | {CARD: card.encode()},
        private=private,
        known={part for parts in PARTS.values() for part in parts},
        ours=lambda: (other := hub.fetch(name, CONFIG)) is not None and _is_ours(other),
    )


def push_saved(save: Callable[[Path], object], name: str, *, private: bool = False, card: str = "") -> str:
    """Upload a model that writes its folder with ``save``; see :func:`push`."""
    with files.temporary_folder() as parent:
        folder = parent / "model"
        save(folder)
        return push(folder, name, private=private, card=card)


_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    CAPTIONER: {"tuned_stages": (int,), "encoder_fingerprint": (str, type(None))},
    DETECTOR: {"classes": (list,)},
    ONNX: {"graphs": (dict,)},
}
_OPTIONAL: dict[str, tuple[type, ...]] = {"about": (dict,), "kind": (str,), FILES: (dict,)}


def read_config(folder: Path, kind: str = CAPTIONER) -> dict[str, Any]:
    """Read the config of a model folder and check its kind.

    Raises:
        CheckpointError: it is missing, damaged, foreign, of another kind, or newer than this program.
    """
    path = folder / CONFIG
    config: dict[str, Any] = files.read_json(path, dict, error=CheckpointError, cure=COPY, most=_MOST)
    _check_fields(path, config, {"format": (int,)}, {name: _OPTIONAL[name] for name in _OPTIONAL if name in config})
    if config["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: format {config['format']} is newer than this program reads ({FORMAT}); upgrade captioner"
        )
    found = config.get("kind", CAPTIONER)
    if found != kind:
        raise CheckpointError(f"{folder}: is a {found} and not a {kind}; give the folder of a {kind}")
    _check_fields(path, config, {"model": (dict,)}, _FIELDS.get(kind, {}))
    if _deeper(config, _DEEPEST):
        raise CheckpointError(f"{path}: its JSON is nested too deeply; {COPY}")
    return config


def _check_fields(path: Path, config: Mapping[str, Any], *groups: Mapping[str, tuple[type, ...]]) -> None:
    """Check that a config has fields, and the type of each.

    Raises:
        CheckpointError: one is missing or of another type.
    """
    for name, types in (field for group in groups for field in group.items()):
        if name not in config:
            raise CheckpointError(f"{path}: not the config of a model of captioner, it has no {name!r}; {COPY}")
        if type(config[name]) not in types:  # not isinstance, for which true is an integer
            names = " or ".join(each.__name__ for each in types)
            raise CheckpointError(f"{path}: {name}: is a {type(config[name]).__name__}, not a {names}; {COPY}")


def _deeper(value: Any, levels: int) -> bool:
    """Return whether JSON has more levels, which what works on the config later may not stand."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not levels or any(_deeper(each, levels - 1) for each in inner)


def read_whole(folder: Path, kind: str = CAPTIONER) -> dict[str, Any]:
    """Read the config of a model folder, and check that its parts are the files that the config lists.

    A config without a list is that of an older version; then the parts must only be there.

    Raises:
        CheckpointError: a part is missing, damaged or another model's; or see :func:`read_config`.
    """
    config = read_config(folder, kind)
    if kind not in PARTS:
        raise CheckpointError(f"{folder}: is a {kind}, which this program does not know; upgrade captioner")
    for part in PARTS[kind]:
        path, listed = folder / part, config.get(FILES, {}).get(part)
        if not path.is_file():
            raise CheckpointError(f"{path}: is missing; {COPY}")
        if FILES not in config:
            continue
        if not isinstance(listed, dict) or set(listed) != {"bytes", "sha256"}:
            raise CheckpointError(f"{folder / CONFIG}: {FILES}: does not list {part}; {COPY}")
        if path.stat().st_size != listed["bytes"]:
            raise CheckpointError(
                f"{path}: has {path.stat().st_size:,} bytes, and {listed['bytes']} by {CONFIG}; it was cut off or is "
                f"another model's; {COPY}"
            )
        if _described(path) != listed:
            raise CheckpointError(f"{path}: is damaged or another model's, its SHA-256 is not that in {CONFIG}; {COPY}")
    return config


def _described(path: Path) -> dict[str, Any]:
    """Return the size and the SHA-256 of a file, as a config lists them."""
    try:
        with open(path, "rb") as file:
            digest = files.sha256(file)
            return {"bytes": file.tell(), "sha256": digest}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {COPY}") from None


def captioner_kind(folder: Path) -> str:
    """Return whether a folder holds a captioner in torch or an exported one.

    Raises:
        CheckpointError: it holds neither, or its config is damaged; see :func:`read_config`.
    """
    kind = ONNX if kind_of(folder) == ONNX else CAPTIONER
    read_config(folder, kind)
    return kind


def about(folder: Path) -> dict[str, Any]:
    """Return how a model was made, for another folder of it, whose weights may have other bits."""
    found = read_config(folder, kind_of(folder)).get("about") or {}
    return {field: value for field, value in found.items() if field not in ("bits", "encoder_bits")}


def whole_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a model with the fields that all kinds have."""
    return {"format": FORMAT, "captioner": captioner.__version__, "kind": kind, **config}


def write_config(folder: Path, kind: str, config: Mapping[str, Any]) -> None:
    """Write the config of a model, for :func:`read_whole`; it lists the parts that are there."""
    listed = {part: _described(folder / part) for part in PARTS.get(kind, ()) if (folder / part).is_file()}
    files.write_json(folder / CONFIG, {**whole_config(kind, config), FILES: listed})


def write_card(folder: Path, kind: str, config: Mapping[str, Any], name: str | Path, card: str = "") -> None:
    """Write the card of a model; by default the one that its config makes, with the name of the folder ``name``."""
    files.write_text(folder / CARD, card or cards.default(whole_config(kind, config), cards.name_of(name)))


@contextmanager
def replace(folder: str | Path, kind: str, config: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty folder to fill; at the end it gets its config and takes its place, completely or not at all.

    An existing folder of a model of this kind is replaced. On an exception everything stays as it was.

    Args:
        folder: its path.
        kind: of the model, for :func:`read_config`.
        config: the fields of ``config.json`` that are specific to the kind; more may be added before the end.

    Raises:
        CheckpointError: ``folder`` exists and is not such a model's.
        FileError: nothing can be written there, or the disk is full or fails meanwhile.
    """
    check_replaceable(folder, kind)
    with files.atomic_folder(folder) as temporary:
        yield temporary
        write_config(temporary, kind, config)
        for file in temporary.iterdir():
            file.chmod((temporary / CONFIG).stat().st_mode & 0o777)


def copy(source: Path, folder: str | Path, kind: str, *, card: str = "") -> Path:
    """Copy a model folder; an existing model of its kind is replaced.

    Args:
        source: the folder to copy.
        folder: the path of the copy.
        kind: of the model.
        card: the text of the model card; by default that of the source, or one written from its config.

    Raises:
        CheckpointError: the source is damaged, or ``folder`` exists and is not such a model's.
    """
    config = read_whole(source, kind)
    with replace(folder, kind, config) as temporary:
        for name in PARTS[kind]:
            shutil.copyfile(source / name, temporary / name)
        if not card and (source / CARD).is_file():
            shutil.copyfile(source / CARD, temporary / CARD)
        else:
            write_card(temporary, kind, config, folder, card)
    return Path(folder)


def check_replaceable(folder: str | Path, kind: str) -> None:
    """Check that a folder may be written as a model of a kind.

    Raises:
        CheckpointError: ``folder`` exists and is not such a model's.
        FileError: nothing can be written there.
    """
    folder = Path(folder)
    if folder.exists() and not _replaceable(folder, kind):
        raise CheckpointError(f"{folder}: exists and is not a model folder of captioner; give another name")
    files.check_place(folder)


def _replaceable(folder: Path, kind: str) -> bool:
    """Return whether a folder may be overwritten: it is empty, or a model of this kind that this program wrote."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        read_config(folder, kind)
    except CheckpointError:
        return False
    return True
