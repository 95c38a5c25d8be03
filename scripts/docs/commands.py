"""A hook of mkdocs that writes a page for each command from the program itself, and lists them in the navigation."""

from __future__ import annotations

import enum
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from mkdocs.structure.files import File
from typer.models import ArgumentInfo, ParamMeta
from typer.utils import get_params_from_function

from captioner.cli import commands

FOLDER, TITLE = "commands", "Commands"
UNTITLED = "Options"  # the group of options that have none


def on_config(config: Any) -> Any:
    """Fill the part for commands of the navigation."""
    for entry in config.nav:
        if TITLE in entry:
            entry[TITLE] = [f"{FOLDER}/index.md", *({name: page_of(name)} for name, *_ in all_commands())]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    pages = {page_of(name): page(name, call, examples) for name, call, examples in all_commands()}
    for uri, content in {f"{FOLDER}/index.md": index(), **pages}.items():
        files.append(File.generated(config, uri, content=content))
    return files


def page_of(name: str) -> str:
    """Return the name of a command's page."""
    return f"{FOLDER}/{name.replace(' ', '_')}.md"


def all_commands() -> Iterator[tuple[str, Any, list[str]]]:
    """Yield the name of every command, as ``data inspect``, with its function and its examples."""
    for name in commands.NAMES:
        for command in commands.load(name).registered_commands:
            full = name if command.name == name else f"{name} {command.name}"
            yield full, command.callback, re.findall(r"Example: (.+)", command.epilog or "")


def index() -> str:
    """Write the page that lists the commands, and the options that all of them have."""
    rows = [
        f"| [`captioner {name}`]({Path(page_of(name)).name}) | {_text(call)[0]} |" for name, call, _ in all_commands()
    ]
    common = _table(list(get_params_from_function(commands._options).values()))
    return "\n\n".join(
        [
            f"# {TITLE}",
            "These pages are written from the program; `captioner COMMAND --help` prints the same.",
            "\n".join(["| command | what it does |", "| --- | --- |", *rows]),
            "## Options of every command",
            common,
            "## Exit codes",
            "0: success. 1: an error, or something could not be read or printed. 2: wrong usage. 130: interrupted.\n",
        ]
    )


def page(name: str, call: Any, examples: list[str]) -> str:
    """Write the page of a command: description, arguments, options in groups, examples."""
    arguments: list[ParamMeta] = []
    groups: dict[str, list[ParamMeta]] = {UNTITLED: []}
    for each in get_params_from_function(call).values():
        if isinstance(each.default, ArgumentInfo):
            arguments.append(each)
        elif not each.default.hidden:
            groups.setdefault(each.default.rich_help_panel or UNTITLED, []).append(each)
    parts = [f"# captioner {name}", *_text(call)]
    if examples:
        parts.append("```sh\n" + "\n".join(examples) + "\n```")
    for title, members in {"Arguments": arguments, **groups}.items():
        if members:
            parts += [f"## {title}", _table(members)]
    parts.append("[Options of every command](index.md#options-of-every-command): `--quiet`, `--verbose`, `--import`.\n")
    return "\n\n".join(parts)


def _text(call: Any) -> list[str]:
    """Return the paragraphs of a command's description."""
    return [" ".join(part.split()) for part in inspect.cleandoc(call.__doc__).split("\n\n")]


def _table(parameters: list[ParamMeta]) -> str:
    kind = "argument" if isinstance(parameters[0].default, ArgumentInfo) else "option"
    rows = [f"| {kind} | values | default | meaning |", "| --- | --- | --- | --- |"]
    for each in parameters:
        cells = (_names(each), _values(each), _default(each), each.default.help or "")
        rows.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(['<div class="settings" markdown>', "", *rows, "", "</div>"])


def _names(parameter: ParamMeta) -> str:
    given = parameter.default
    if isinstance(given, ArgumentInfo):
        return f"`{(given.metavar or parameter.name.upper()).strip('[].')}`"
    names = [name for text in given.param_decls or () for name in text.split("/") if name.startswith("-")]
    return ", ".join(f"`{name}`" for name in names or [f"--{parameter.name.replace('_', '-')}"])


def _values(parameter: ParamMeta) -> str:
    given, annotation, several = parameter.default, parameter.annotation, ""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is list:
        (annotation,), several = get_args(annotation), "one or more"
    if annotation is bool:
        return ""
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{choice.value}`" for choice in annotation)
    named = None if isinstance(given, ArgumentInfo) else given.metavar
    kind = f"`{named}`" if named else {str: "text", Path: "path"}.get(annotation, annotation.__name__)
    limits = [f"{sign} {limit:g}" for sign, limit in (("≥", given.min), ("≤", given.max)) if limit is not None]
    return ", ".join(filter(None, (" ".join([kind, *limits[:1]]), *limits[1:], several)))


def _default(parameter: ParamMeta) -> str:
    value, shown = parameter.default.default, parameter.default.show_default
    if value is ...:
        return "required"
    if isinstance(shown, str):
        return shown
    return f"`{getattr(value, 'value', value)}`" if shown and value not in (None, False) else ""
