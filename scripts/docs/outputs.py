"""Run the examples of the README and the documentation, and compare their outputs with those on the page.

Example: python scripts/docs/outputs.py --write docs/quickstart.md

An example is a fenced block: ``console``, where a line ``$ COMMAND`` stands before its output, or ``pycon``, a Python
session. The examples of a page run one after the other in a temporary folder with ``assets/`` and ``photo.jpg``, the
dog of the example images; ``localhost:8000`` is a server of the page and the API. Numbers that are nearly equal count
as equal, because processors round differently. Without ``--write``, an output that differs is an error.
"""

from __future__ import annotations

import argparse
import difflib
import doctest
import io
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PHOTO = "dog.jpg"
SERVER = "localhost:8000"
BLOCK = re.compile(r"^```(console|pycon)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def pages() -> list[Path]:
    """Return the README and the pages that have examples."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in every if BLOCK.search(path.read_text(encoding="utf-8"))]


def rewritten(text: str) -> str:
    """Return a page with the outputs of its examples; an output that is nearly equal stays."""
    names: dict[str, Any] = {}
    with _folder(), _server(SERVER in text) as address:
        return BLOCK.sub(
            lambda match: (
                f"```{match[1]}\n"
                f"{_console(match[2], address) if match[1] == 'console' else _session(match[2], address, names)}```"
            ),
            text,
        )


def nearly_equal(one: str, other: str) -> bool:
    """Whether two outputs have the same text, and numbers within 10 % or 0.1."""
    if NUMBER.sub("0", one) != NUMBER.sub("0", other):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=0.1, abs_tol=0.1) for a, b in pairs)


def _console(block: str, address: str) -> str:
    text, *rest = COMMAND.split(block)
    for command, output in zip(rest[::2], rest[1::2], strict=True):
        done = subprocess.run(
            ["bash", "-c", command.replace(SERVER, address)],
            env=_environment(),
            capture_output=True,
            encoding="utf-8",
        )
        if done.returncode:
            raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        text += f"$ {command}\n{_chosen(output, done.stdout)}"
    return text


def _session(block: str, address: str, names: dict[str, Any]) -> str:
    text = ""
    for example in doctest.DocTestParser().get_examples(block):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(example.source.replace(SERVER, address), "<example>", "single"), names)
        first, *more = example.source.splitlines()
        text += f">>> {first}\n" + "".join(f"... {line}".rstrip() + "\n" for line in more)
        text += "...\n" if more and first.endswith(":") else ""
        text += _chosen(example.want, printed.getvalue())
    return text


def _chosen(before: str, output: str) -> str:
    """Return the output, as it stood on the page if that is nearly equal."""
    output = "".join(line.rstrip() + "\n" for line in output.splitlines())
    return before if nearly_equal(before, output) else output


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}


@contextmanager
def _folder() -> Iterator[None]:
    """Work in a temporary folder with the files that the examples name."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "assets").symlink_to(ROOT / "assets")
        shutil.copy(ROOT / "assets" / "examples" / PHOTO, Path(name) / "photo.jpg")
        os.chdir(name)
        try:
            yield
        finally:
            os.chdir(before)


@contextmanager
def _server(needed: bool) -> Iterator[str]:
    """Serve the page and the API on a free port, if an example needs it; give the address."""
    if not needed:
        yield SERVER
        return
    command = [sys.executable, "-m", "captioner", "serve", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(), encoding="utf-8"
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip().removeprefix("http://").rstrip("/")
        finally:
            server.terminate()


def main() -> None:
    """Read the command line and compare or rewrite the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="*", help="pages; all that have examples if none is given")
    parser.add_argument("--write", action="store_true", help="write outputs that differ")
    arguments = parser.parse_args()
    failed = False
    for path in [page.resolve() for page in arguments.pages] or pages():
        before = path.read_text(encoding="utf-8")
        after = rewritten(before)
        if after == before:
            continue
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
        sys.stdout.writelines(
            difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), name, name, n=1)
        )
        if arguments.write:
            path.write_text(after, encoding="utf-8")
        failed = not arguments.write
    sys.exit(failed)


if __name__ == "__main__":
    main()
