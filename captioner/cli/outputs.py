"""Output files of commands, checked before any work is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import typer

from captioner import files
from captioner.errors import CaptionerError, FileError


def writable(path: Path | None) -> Path | None:
    """Check, before any work is done, that the file or folder of an option can be written; a callback of options.

    Raises:
        typer.BadParameter: it cannot.
    """
    if path is not None:
        try:
            files.check_place(path)
        except FileError as error:
            raise typer.BadParameter(str(error)) from None
    return path


def endings(formats: Sequence[str]) -> str:
    """Return the endings of formats for a sentence: ``.json or .csv``."""
    *most, last = (f".{format}" for format in formats)
    return f"{', '.join(most)} or {last}"


def ends_in(*formats: str) -> Callable[[Path | None], Path | None]:
    """Return a callback that checks the format in an output file's name, and that the file can be written."""

    def check(path: Path | None) -> Path | None:
        if path is not None and files.format_of(path) not in formats:
            raise typer.BadParameter(f"{path}: the name must end in {endings(formats)}")
        return writable(path)

    return check


def check_outputs(inputs: Iterable[str | Path], **outputs: Path | None) -> None:
    """Check that no output file, named by its parameter, would overwrite an input or another output.

    Raises:
        CaptionerError: an output is one of the inputs.
        typer.BadParameter: two outputs are the same.
    """
    written: dict[str, str] = {}
    for name, path in outputs.items():
        if path is None:
            continue
        for given in inputs:
            with suppress(OSError, ValueError):
                if os.path.samefile(path, given):
                    raise CaptionerError(f"{path}: is also an input, which would be overwritten; give another name")
        option = f"--{name.replace('_', '-')}"
        if (other := written.setdefault(os.path.realpath(path), option)) != option:
            raise typer.BadParameter(f"{path} is that of {other} too; give another", param_hint=option)
