"""A hook of mkdocs that writes the tables of settings from the settings themselves.

In a page, a comment ``settings: captioner.search.config.SearchConfig`` becomes the table of that class.
"""

from __future__ import annotations

import re
import types
from importlib import import_module
from inspect import get_annotations
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

MARK = re.compile(r"<!-- settings: ([\w.]+)\.(\w+) -->")
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "a multiple of"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write the tables of a page."""

    def write(match: re.Match[str]) -> str:
        rows = table(getattr(import_module(match[1]), match[2]))
        return f'<div class="settings" markdown>\n\n{rows}\n\n</div>'

    return MARK.sub(write, markdown)


def table(kind: type[BaseModel]) -> str:
    """Return the settings of a class, without those of its bases, each with its values, its default and its meaning."""
    rows = ["| setting | values | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in kind.model_fields.items():
        if name not in get_annotations(kind):  # a base's
            continue
        cells = (f"`{name}`", values(field), default(field), field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def values(field: FieldInfo) -> str:
    """Return the allowed values of a setting."""
    limits = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in SIGNS.items()
        if getattr(limit, name, None) is not None
    ]
    return " ".join(filter(None, (_of(field.annotation), ", ".join(limits))))


def _of(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_of(argument) for argument in arguments)
    if annotation is type(None):
        return "`null`"
    if origin is tuple:
        return f"{len(arguments)} × {_of(arguments[0])}"
    if origin is list:
        return f"list of {_of(arguments[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "settings"
    return str(getattr(annotation, "__name__", annotation)).lower()


def default(field: FieldInfo) -> str:
    """Return a setting's default."""
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, dict):
        return f"`{value['name']}`"
    return "`null`" if value is None else f"`{value}`"
