"""Tables and Markdown of all commands, brackets in help, and their first lines."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest
from rich.table import Column
from typer.main import get_command
from typer.testing import CliRunner

from captioner.cli import app, commands, console
from tests.cli.test_exit_codes import COMMANDS


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def screen(written: str) -> list[str]:
    """Return the lines on a terminal after this was written: cursor movements and erased lines are carried out."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[\??[\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\x1b[1A":
            row -= 1
        elif not part.startswith(("\x1b", "\r")):
            lines[row] += part
    return [line for line in lines if line.strip()]


def test_a_row_of_a_table_is_one_line_where_it_is_not_read_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table = console.table("name", "description", title="all of them")
    table.add_row("one", "word " * 50)
    console.show(table, table)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["all", "name", "─" * len(lines[2]), "one"]
    assert len(lines) == 9 and lines[3].count("word") == 50 and lines[5:] == lines[:4]


def test_markdown_on_a_terminal_has_the_tables_of_all_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "# A|B\n\n| model | BLEU-4 |\n| --- | ---: |\n| a\\|b | **21.3** [20.1, 22.4] |\n| c | 9.0 |\n"
    console.show_markdown(text)
    assert capsys.readouterr().out == text + "\n"
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    console.show_markdown(text)
    table = console.table("model", Column("BLEU-4", justify="right"))
    table.add_row("a|b", "21.3 [20.1, 22.4]")
    table.add_row("c", "9.0")
    shown = sys.stdout.getvalue()
    monkeypatch.setattr(sys, "stdout", Terminal())
    console.show(table)
    lines = [screen(written)[-4:] for written in (shown, sys.stdout.getvalue())]
    assert [line.rstrip() for line in lines[0]] == [line.rstrip() for line in lines[1]]
    assert screen(shown)[0].strip() == "A|B"


@pytest.mark.parametrize("show", [console.show_markdown, None])
def test_no_name_or_number_is_cut_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, show: Any) -> None:
    rows = ("show_attend_tell", "21.3"), ("show_attend_tell+show_tell", "109.5")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "12")
    if show:
        show("| model | CIDEr |\n| --- | ---: |\n" + "".join(f"| {name} | {value} |\n" for name, value in rows))
    else:
        table = console.table("model", "CIDEr")
        for row in rows:
            table.add_row(*row)
        console.show(table)
    lines = [line.ljust(12) for line in screen(sys.stdout.getvalue())[2:]]
    assert "".join(line.split()[0] for line in lines if line[0] != " ").endswith("".join(name for name, _ in rows))
    assert "…" not in sys.stdout.getvalue()


@pytest.mark.parametrize("name", COMMANDS)
def test_brackets_in_help_survive(name: str) -> None:
    words = name.split()
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "3000"}).output
    command = get_command(commands.load(words[0]))
    for word in words[1:]:
        command = command.commands[word]
    for part in (command, *command.params):
        for paragraph in (part.help or "").replace("\\[", "[").split("\n\n"):
            assert " ".join(paragraph.split()) in shown


def test_the_extras_are_named_in_help_and_in_wrong_usage(run) -> None:
    shown = CliRunner().invoke(app, ["bulk", "--help"], env={"COLUMNS": "200"}).output
    assert "captioner[bulk]" in shown and "captioner[ray]" in shown
    assert "x[bulk].txt: the name must end" in run("caption", "x.jpg", "-o", "x[bulk].txt").err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train none.yaml", "training none.yaml"),
        ("evaluate show_attend_tell none", "evaluating show_attend_tell on none"),
        ("features none -o store", "encoding the images of none"),
        ("benchmark --data none", "comparing captioners on none"),
    ],
)
def test_a_long_command_begins_with_what_it_does(run, line: str, words: str) -> None:
    result = run(line)
    assert result.code == 1 and result.err.splitlines()[0] == words and result.err.count("\n") == 2
    assert run(line + " --quiet").err.count("\n") == 1
