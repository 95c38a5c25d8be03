"""The settings of a recipe as YAML, each with its description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from captioner.decoders import DECODERS
from captioner.encoders import ENCODERS, REFINERS
from captioner.encoders.sequence import TEXT_ENCODERS
from captioner.registry import Registry
from captioner.settings import validate
from captioner.training.objective import OBJECTIVES

_REGISTRIES: dict[str, tuple[Registry[Any], ...]] = {
    "encoder": (ENCODERS, TEXT_ENCODERS),
    "refiner": (REFINERS,),
    "decoder": (DECODERS,),
    "objective": (OBJECTIVES,),
}


def commented_yaml(settings: BaseModel) -> str:
    """Return settings as YAML, each with its description as a comment.

    A part chosen by name is printed with all settings of that name.
    """
    return "\n".join(_lines(settings, "")) + "\n"


def _lines(settings: BaseModel, indent: str, name: str | None = None) -> Iterator[str]:
    if name is not None:
        yield f"{indent}name: {name}"
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        comment = f"  # {field.description}" if field.description else ""
        name, group = _part(key, value) if isinstance(value, dict) and key in _REGISTRIES else (None, value)
        if isinstance(group, BaseModel):
            yield f"{indent}{key}:{comment}"
            yield from _lines(group, indent + "  ", name)
        else:
            plain = settings.model_dump(mode="json", include={key})[key]
            yield f"{indent}{key}: {json.dumps(plain, ensure_ascii=False)}{comment}"


def _part(key: str, value: dict[str, Any]) -> tuple[str, BaseModel]:
    name = value["name"]
    registry = next(registry for registry in _REGISTRIES[key] if name in registry)
    rest = {setting: each for setting, each in value.items() if setting != "name"}
    return name, validate(registry[name].Config, rest, where=key)
