"""Finds the commands in the documentation and parses them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from typer.main import get_command

from captioner.cli import app


def shell_lines(text: str) -> Iterator[str]:
    """Yield the commands of a Markdown text, without comments, continued lines joined.

    Commands stand in blocks of ``sh``, behind ``$`` in blocks of ``console``, in indented blocks, and in the cells of a
    table whose column is headed ``command``.
    """
    fenced = None
    in_table = False
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = line[3:].strip() if fenced is None else None
        elif fenced == "sh" or (fenced is None and line.startswith("    ")):
            yield line.partition("  #")[0].strip()
        elif fenced == "console" and line.startswith("$ "):
            yield line[2:]
        elif fenced is None and line.startswith("|"):
            in_table = in_table or "| command |" in line
            if in_table and (command := re.search(r"\| `([^`]+)` \|", line)):
                yield command[1]
        else:
            in_table = False


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every ``captioner ...`` in the shell lines of a Markdown text."""
    found = []
    for line in shell_lines(text):
        for part in re.split(r"&&|\||>", line):
            words = shlex.split(part)
            if words[:1] == ["captioner"]:
                found.append(words[1:])
    return found


def parse(words: list[str]) -> None:
    """Parse a command without running it; an unknown command, option or value is an error."""
    command = get_command(app)
    if words[0] == "--import":  # the reader has this file
        words = words[2:]
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context(command.name, list(words), resilient_parsing=False)
    assert context.params
