"""The config of a model's folder: its kind, its fields, and the files that it lists.

``config.json`` names the kind of the model and lists the size and the SHA-256 of each other part, to detect damage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import captioner
from captioner import files
from captioner.errors import CheckpointError

CONFIG = "config.json"
CAPTIONER, TRANSLATOR, DETECTOR = "captioner", "translator", "detector"
ONNX = "captioner in ONNX"  # exported, to run without torch
FORMAT = 1
WEIGHTS, VOCABULARY, CARD = "model.safetensors", "vocabulary.json", "README.md"
SOURCE_VOCABULARY = "source_vocabulary.json"  # of a translator: the words that it reads
GRAPHS = ("encoder.onnx", "start.onnx", "step.onnx")  # of an exported captioner, or of one that also has its weights
CONSENSUS = "consensus.safetensors"  # of a captioner, exported or not, that chooses captions by it
FILES = "files"  # the field with the size and the SHA-256 of each part
COPY = "copy the whole model folder again"
_MAX_BYTES, _MAX_DEPTH = 1 << 22, 64  # bytes of a config, and levels of its JSON
#: the files of a model's folder other than its config and its card, by kind
PARTS: dict[str, tuple[str, ...]] = {
    CAPTIONER: (WEIGHTS, VOCABULARY),
    TRANSLATOR: (WEIGHTS, VOCABULARY, SOURCE_VOCABULARY),
    DETECTOR: (WEIGHTS,),
    ONNX: (*GRAPHS, VOCABULARY),
}
NAMES = frozenset({CONFIG, CARD, CONSENSUS, *chain.from_iterable(PARTS.values())})  # of all files of models


def parts_of(kind: str, config: Mapping[str, Any], *, graphs: bool = True) -> tuple[str, ...]:
    """Return the files of a model's folder other than its config and its card; a captioner may have graphs and more.

    Args:
        kind: of the model.
        config: of the model.
        graphs: include graphs that are next to the weights.
    """
    graphs_of_model = GRAPHS if graphs and kind == CAPTIONER and has_graphs(config) else ()
    return (*PARTS[kind], *graphs_of_model, *([CONSENSUS] if has_consensus(config) else []))


def has_consensus(config: Mapping[str, Any]) -> bool:
    """Return whether a model has the file :data:`CONSENSUS`."""
    return CONSENSUS in config.get(FILES, {})


def has_graphs(config: Mapping[str, Any]) -> bool:
    """Return whether a model has the files :data:`GRAPHS`, by the description of them in its config."""
    return "graphs" in config


def kind_of(folder: Path) -> str:
    """Return the kind of a folder's model.

    A folder whose config cannot be read counts as a captioner: loading it reports the reason.
    """
    try:
        config = json.loads(_content(folder / CONFIG))
    except (CheckpointError, ValueError, RecursionError):
        return CAPTIONER
    return kind_in(config) if isinstance(config, dict) else CAPTIONER


def is_ours(path: Path) -> bool:
    """Return whether a config is that of a model of this program, of any version."""
    try:
        config = _read(path)
    except CheckpointError:
        return False
    return "captioner" in config and kind_in(config) in PARTS


def _content(path: Path) -> str:
    """Return the text of a config; it is read once as long as the file does not change.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        status = path.stat()
    except OSError:
        return _read_text(path, ())  # raises the error with its reason
    return _read_text(path, (status.st_mtime_ns, status.st_size, status.st_ino))


@lru_cache(maxsize=64)
def _read_text(path: Path, status: tuple[int, ...]) -> str:
    return files.read_text(path, error=CheckpointError, advice=COPY, max_bytes=_MAX_BYTES)


def _read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = files.parse_json(_content(path), dict, where=path, error=CheckpointError, advice=COPY)
    return config


_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    CAPTIONER: {"tuned_stages": (int,), "encoder_fingerprint": (str, type(None))},
    DETECTOR: {"classes": (list,)},
    ONNX: {"graphs": (dict,)},
}
_OPTIONAL: dict[str, tuple[type, ...]] = {"about": (dict,), "kind": (str,), FILES: (dict,), "graphs": (dict,)}


def kind_in(config: Mapping[str, Any]) -> str:
    """Return the kind of the model that a config describes."""
    return str(config.get("kind", CAPTIONER))


def read_config(folder: Path, kind: str = CAPTIONER) -> dict[str, Any]:
    """Read the config of a model folder and check its kind.

    Raises:
        CheckpointError: it is missing, damaged, foreign, of another kind, or newer than this program.
    """
    path = folder / CONFIG
    config = _read(path)
    _check_fields(path, config, {"format": (int,)}, {name: _OPTIONAL[name] for name in _OPTIONAL if name in config})
    if config["format"] < 1:
        raise CheckpointError(f"{path}: format: is {config['format']}, and the first is 1; {COPY}")
    if config["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: format {config['format']} is newer than this program reads ({FORMAT}); upgrade captioner"
        )
    found = kind_in(config)
    if found != kind:
        raise CheckpointError(f"{folder}: is a {found} and not a {kind}; give the folder of a {kind}")
    _check_fields(path, config, {"model": (dict,)}, _FIELDS.get(kind, {}))
    if _is_deeper(config, _MAX_DEPTH):
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


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether JSON has more levels than later code can process."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not levels or any(_is_deeper(each, levels - 1) for each in inner)


def read_whole(folder: Path, kind: str = CAPTIONER, *, unread: Iterable[str] = ()) -> dict[str, Any]:
    """Read the config of a model folder, and check that its parts are the files that the config lists.

    A config without a list is that of an older version; then the parts must only be there.

    Args:
        folder: of the model.
        kind: of the model.
        unread: files that are not needed.

    Raises:
        CheckpointError: a part is missing, damaged or another model's; or see :func:`read_config`.
    """
    config = read_config(folder, kind)
    if kind not in PARTS:
        raise CheckpointError(f"{folder}: is a {kind}, which is unknown to this version; upgrade captioner")
    for part in parts_of(kind, config):
        if part in unread:
            continue
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


def about(folder: Path) -> dict[str, Any]:
    """Return how a model was made, for another folder of it, whose weights may have other bits."""
    found = read_config(folder, kind_of(folder)).get("about") or {}
    return {field: value for field, value in found.items() if field not in ("bits", "encoder_bits")}


def whole_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a model with the fields that all kinds have."""
    return {"format": FORMAT, "captioner": captioner.__version__, "kind": kind, **config}


def write_config(folder: Path, kind: str, config: Mapping[str, Any]) -> None:
    """Write the config of a model, for :func:`read_whole`; it lists the parts that are there."""
    parts = (*parts_of(kind, config), CONSENSUS) if kind in PARTS else ()
    listed = {part: _described(folder / part) for part in dict.fromkeys(parts) if (folder / part).is_file()}
    files.write_json(folder / CONFIG, {**whole_config(kind, config), FILES: listed})
