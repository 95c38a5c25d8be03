"""Settings: read from YAML, changed by ``key=value``, and validated; unknown keys are errors.

A part chosen by name, such as a decoder, is a mapping of its ``name`` and settings:
``decoder: {name: show_attend_tell, hidden: 512}``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from captioner import files
from captioner.errors import ConfigError
from captioner.registry import suggestion

M = TypeVar("M", bound=BaseModel)
_MAX_TEXT, _MAX_VALUES, _MAX_DEPTH = 1 << 17, 10_000, 50  # bytes, values and levels of a recipe
_UNDECODED = re.compile("[\ud800-\udfff]")  # a byte that is not UTF-8
MAX_NUMBER = 1_000_000  # of anything that is held at once: more is a mistake, and would fill the memory
DEFAULT_OBJECTIVE = "cross_entropy"  # the only part whose name may be left out


class Settings(BaseModel):
    """The base of all groups of settings: immutable, without unknown keys, infinities or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``on`` and ``off`` as numbers, which YAML and pydantic read as 1 and 0, and bytes not in UTF-8."""
        annotation: Any = cls.model_fields[info.field_name or ""].annotation
        kinds = _kinds(annotation)
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, bool) and bool not in kinds and kinds & {int, float}:
                raise ValueError("give a number, not on or off")
            if isinstance(each, str | Path) and _UNDECODED.search(str(each)):
                raise ValueError("is not in UTF-8, so it cannot be saved with the run; rename the file or folder")
        return value


def check_numbers(least: int = 1, **numbers: int) -> None:
    """Check numbers of images, threads and the like, named by their parameters.

    Raises:
        ConfigError: one is less than ``least`` or more than :data:`MAX_NUMBER`.
    """
    for name, number in numbers.items():
        if number < least:
            raise ConfigError(f"{name}: {number} is too small; give {least} or more")
        if number > MAX_NUMBER:
            raise ConfigError(f"{name}: {number} is too large; give {MAX_NUMBER:,} or fewer")


@cache
def _kinds(annotation: Any) -> frozenset[Any]:
    """Return the types of the values in an annotation such as ``int | None``."""
    inner = get_args(annotation)
    return frozenset().union(*map(_kinds, inner)) if inner else frozenset([annotation])


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping.
    """
    value = _parse(files.read_text(path, error=ConfigError, advice="give a YAML file", max_bytes=_MAX_TEXT), str(path))
    if not isinstance(value, dict):
        found = "empty" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path}: must be a mapping of settings, and is {found}")
    return value


def override(settings: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Apply ``a.b=value`` changes to a copy of nested settings; values are read as YAML.

    Another ``name`` of a part, such as a decoder, replaces the settings of the part; changes of names come first.

    Raises:
        ConfigError: a change does not have that form.
    """
    result = _copy(settings)
    for change in sorted(changes, key=lambda change: not change.partition("=")[0].endswith(".name")):
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"--set {change!r}: write it as key=value, for example --set optimiser.learning_rate=0.001"
            )
        try:
            value = _parse(text, "the value")
        except ConfigError as error:
            raise ConfigError(f"--set {_short(change)}: {error}; put text with special characters in quotes") from None
        if isinstance(value, str) and value == text.strip():  # YAML 1.1 reads 1e-3 as text; in quotes it is text
            with suppress(ValueError):
                value = float(value)
        *path, last = key.split(".")
        if len(path) > _MAX_DEPTH:
            raise ConfigError(f"--set {_short(change)}: there are no settings that deep")
        group = result
        for part in path:
            if group.get(part) is None:  # a part that the recipe leaves out
                group[part] = {}
            group = group[part]
            if not isinstance(group, dict):
                raise ConfigError(f"--set {change!r}: {part!r} is a value, not a group of settings")
        if last == "name" and names_another(group, value):
            group.clear()
        group[last] = value
    return result


def names_another(part: Mapping[str, Any], name: Any) -> bool:
    """Return whether a name differs from the name in a part's settings."""
    return bool(part) and part.get("name", DEFAULT_OBJECTIVE) != name


def _parse(text: str, where: str) -> Any:
    """Parse YAML within limits on its size and depth, with aliases expanded.

    Raises:
        ConfigError: it is too large, has a key twice, or is not YAML; ``where`` begins the message.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {}, where)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}: not readable as YAML{position}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date or a number that does not exist is a ValueError
        raise ConfigError(f"{where}: not readable as YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{where}: its YAML is nested too deeply") from None


def _measure(node: Any, sizes: dict[Any, int], where: str, depth: int = 0) -> int:
    """Return the number of values in a node, with aliases expanded.

    Args:
        node: a node of PyYAML.
        sizes: the sizes of visited nodes; 0 while a node is measured.
        where: begins the message.
        depth: depth of the node.

    Raises:
        ConfigError: it is too large or too deep, contains itself, or has a key twice.
    """
    from yaml import MappingNode, ScalarNode

    if node in sizes and not sizes[node]:
        raise ConfigError(f"{where}: an alias in its YAML contains itself")
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{where}: its YAML is nested too deeply")
    if node not in sizes:
        sizes[node] = 0
        parts = [] if isinstance(node, ScalarNode) else node.value
        if isinstance(node, MappingNode):
            keys = [key.value for key, _ in parts if isinstance(key, ScalarNode)]
            for key, count in Counter(keys).items():
                if count > 1:
                    raise ConfigError(f"{where}: has {key!r} twice; remove one of them")
            parts = [part for pair in parts for part in pair]
        sizes[node] = 1 + sum(_measure(part, sizes, where, depth + 1) for part in parts)
    if sizes[node] > _MAX_VALUES:
        raise ConfigError(f"{where}: its YAML has more than {_MAX_VALUES:,} values, with aliases expanded")
    return sizes[node]


def validate(kind: type[M], settings: Mapping[str, Any], *, where: str) -> M:
    """Validate ``settings`` as a config of a kind.

    Raises:
        ConfigError: keys are unknown (similar ones are suggested) or values are invalid.
    """
    try:
        return kind.model_validate(dict(settings))
    except RecursionError:
        raise ConfigError(f"{where}: is nested too deeply") from None
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(_explain(kind, entry) for entry in error.errors())) from None


def _explain(kind: type[BaseModel], entry: Any) -> str:
    path = [str(part) for part in entry["loc"]]
    name = ".".join(path)
    if entry["type"] == "extra_forbidden":
        known = _fields(kind, path[:-1])
        hint = suggestion(path[-1], known)
        return f"there is no setting {name!r}.{hint} Known: {', '.join(known)}"
    if not path:
        return str(entry["msg"]).removeprefix("Value error, ")
    message = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] in ("string_type", "path_type") and isinstance(entry["input"], int | float):
        message = f"is text; write it in quotes within quotes, such as --set {name}='\"{_short(entry['input'])}\"'"
    elif entry["type"] in ("string_type", "path_type") and entry["input"] is None:
        return f"{name}: is empty; give a value"
    elif entry["type"] in ("list_type", "tuple_type") and isinstance(entry["input"], str | int | float):
        message = f"is a list; write it in brackets, such as --set {name}='[{str(entry['input'])[:120]}]'"
    elif entry["type"] == "path_type":
        message = "is the path of a file or folder"
    elif entry["type"] in ("model_type", "dict_type"):
        example = f"name={entry['input'][:120]}" if isinstance(entry["input"], str) else "KEY=VALUE"
        message = f"is a group of settings; change them one by one, such as --set {name}.{example}"
    found = "" if isinstance(entry["input"], dict) else f" (it is {_short(entry['input'])})"
    return f"{name}: {message}{found}"


def _short(value: Any) -> str:
    """Return a value for an error message, shortened."""
    shown = Repr()
    shown.maxstring = shown.maxother = shown.maxlong = 120
    return shown.repr(value)


def _fields(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = kind.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        kind = field.annotation
    return list(kind.model_fields)


def _copy(value: Any) -> Any:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, dict) else value
