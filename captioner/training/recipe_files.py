"""Recipe files: finding them, reading their settings with those of their bases, and importing code that they list.

This module does not import torch, so a command can check its recipe before torch is loaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from captioner.data.hub import is_on_hub
from captioner.errors import ConfigError
from captioner.registry import import_code, suggestion
from captioner.settings import names_another, override, read_yaml

OWN_DATA = "own_photos"  # the recipe for a data set given instead of a recipe
IMPORT = "import"  # the setting that lists code to import

_MAX_RECIPE_BYTES = 1 << 16  # bytes of a recipe in JSON; a longer file is data
_SETTING = re.compile(rb"^(?:data|base):(?:\s|$)", re.MULTILINE)


def recipes() -> dict[str, Path]:
    """Return the files of the shipped recipes, by name."""
    return {name: file for name, file in _shipped().items() if not name.startswith("_")}


def recipe_bases() -> dict[str, Path]:
    """Return the files that are only bases of recipes, by name."""
    return {name: file for name, file in _shipped().items() if name.startswith("_")}


def _shipped() -> dict[str, Path]:
    return {file.stem: file for file in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def is_data(name_or_path: str | Path) -> bool:
    """Return whether a data set is named instead of a recipe: a folder, a file that is not a recipe, or one on the hub.

    A recipe is a shipped one, by its name, or a YAML file. A file with another ending is a recipe if it has a setting
    that every recipe has, such as the JSON that ``captioner recipes NAME --json`` prints.
    """
    path = Path(name_or_path)
    if is_on_hub(name_or_path):
        return True
    if str(name_or_path) in recipes():
        return False
    if path.suffix.lower() in (".yaml", ".yml") or not os.path.isfile(path):  # False for a name that no file can have
        return os.path.isdir(path)
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_RECIPE_BYTES)
    except OSError:
        return True  # reading it as data reports the cause
    if not text.lstrip().startswith(b"{"):
        return _SETTING.search(text) is None
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return True
    return not isinstance(settings.get("data"), dict) and not isinstance(settings.get("base"), str)


def find_recipe(name_or_path: str | Path) -> Path:
    """Return the file of a training recipe: a shipped one by its name, or a YAML file.

    Raises:
        ConfigError: there is no shipped recipe of that name.
    """
    path, name, known = Path(name_or_path), str(name_or_path), recipes()
    if name in known:  # also if a folder, such as that of a run, has this name
        return known[name]
    exists = os.path.exists(path)  # unlike pathlib's, False for a name that no file can have
    if path.suffix.lower() not in ("", ".yaml", ".yml") and not exists:
        raise ConfigError(f"{path}: there is no such file; give the name of a recipe, a YAML file or a data set")
    if path.suffix or exists:
        return path
    hint = suggestion(name, list(known))
    raise ConfigError(f"recipe {name!r} does not exist.{hint} Known: {', '.join(known)}; or give a YAML file")


def read_settings(name_or_path: str | Path) -> dict[str, Any]:
    """Read a recipe's settings, merged with those of its ``base`` if it names one.

    Groups of settings are merged; a part chosen by name replaces the base's if the names differ. The files under
    ``import`` are made absolute, those of the base first. A data set instead of a recipe (:func:`is_data`) is trained
    on with the recipe :data:`OWN_DATA`.

    Raises:
        ConfigError: there is no such recipe or file, or the bases form a circle.
    """
    if is_data(name_or_path):
        return _merged(read_settings(OWN_DATA), {"data": {"path": str(name_or_path)}})
    files = [find_recipe(name_or_path)]
    layers = [_read(files[0])]
    while (base := layers[-1].pop("base", None)) is not None:
        if not isinstance(base, str):
            raise ConfigError(f"{files[-1]}: base: name a recipe or a YAML file, not {base!r}")
        file = files[-1].parent / base if Path(base).suffix else recipe_bases().get(base) or find_recipe(base)
        if os.path.realpath(file) in map(os.path.realpath, files):
            raise ConfigError(f"{files[-1]}: its base {base!r} is based on it; remove one of the two lines")
        files.append(file)
        layers.append(_read(file))
    settings: dict[str, Any] = {}
    for layer in reversed(layers):
        code = [*settings.get(IMPORT, []), *layer.get(IMPORT, [])]
        settings = _merged(settings, layer) | ({IMPORT: code} if code else {})
    return settings


def _read(file: Path) -> dict[str, Any]:
    settings = read_yaml(file)
    if IMPORT in settings:
        settings[IMPORT] = _code(settings[IMPORT], file.parent, where=file)
    return settings


def _code(value: Any, folder: Path, *, where: str | Path) -> list[str]:
    """Return the entries of an ``import`` setting; paths of files are relative to ``folder``."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise ConfigError(f"{where}: {IMPORT}: give the path of a Python file or a list of paths, not {value!r:.80}")
    return [str((folder / each).absolute()) if each.endswith(".py") else each for each in listed]


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    if "name" in changes and names_another(base, changes["name"]):
        return changes
    both = {
        key: _merged(base[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **changes, **both}


def read_recipe(name_or_path: str | Path, changes: Iterable[str] = ()) -> dict[str, Any]:
    """Read a recipe's settings, apply ``key=value`` changes, and import the code listed under ``import``.

    Raises:
        ConfigError: there is no such recipe or file, a change has another form, or the code fails.
    """
    settings = override(read_settings(name_or_path), changes)
    if IMPORT in settings:
        settings[IMPORT] = _code(settings[IMPORT], Path(), where=name_or_path)
        for source in settings[IMPORT]:
            import_code(source, where=f"{name_or_path}: {IMPORT}")
    return settings


def is_translation(settings: Mapping[str, Any]) -> bool:
    """Return whether a recipe trains a translator: its model has a source or target language, or a text encoder."""
    from captioner.encoders.sequence import TEXT_ENCODERS

    model = settings.get("model")
    if not isinstance(model, dict):
        return False
    encoder = model.get("encoder")
    return not model.keys().isdisjoint(("source", "target")) or (
        isinstance(encoder, dict) and encoder.get("name") in TEXT_ENCODERS
    )


def summary(file: Path) -> str:
    """Return the comment at the top of a recipe's file."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)
