"""Completion in the shell: names that come with the program, in addition to files.

Imports only the standard library, which keeps completion fast. Where a function returns nothing, the shell completes
files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from captioner import store


def models(incomplete: str) -> list[str]:
    """Complete the name of a shipped captioner, or a folder; after a + the name of the next member of an ensemble."""
    return _joined(incomplete, store.shipped(store.CAPTIONER))


def translators(incomplete: str) -> list[str]:
    """Complete the name of a shipped translator, or a folder."""
    return _or_files(incomplete, store.shipped(store.TRANSLATOR))


def scored(incomplete: str) -> list[str]:
    """Complete the name of a shipped model that can be evaluated, a captioner or a translator, or a file."""
    return _joined(incomplete, [*store.shipped(store.CAPTIONER), *store.shipped(store.TRANSLATOR)])


def recipes(incomplete: str) -> list[str]:
    """Complete the name of a shipped recipe, or a file."""
    from captioner.training.recipe_files import recipes

    return _or_files(incomplete, recipes())


def data_sets(incomplete: str) -> list[str]:
    """Complete the name of a data set that can be downloaded."""
    from captioner.data.download.catalog import CATALOG

    return _starting(incomplete, CATALOG)


def languages(incomplete: str) -> list[str]:
    """Complete a language that a shipped translator writes."""
    from captioner.store import translators

    return _starting(incomplete, translators())


def devices(incomplete: str) -> list[str]:
    """Complete a device. GPUs are counted by their device files, since importing torch would take seconds."""
    gpus = sum(file.name[len("nvidia") :].isdecimal() for file in Path("/dev").glob("nvidia*"))
    names = ["auto", "cpu", *["cuda"] * bool(gpus), *(f"cuda:{number}" for number in range(gpus) if gpus > 1)]
    return _starting(incomplete, [*names, *["mps"] * (sys.platform == "darwin")])


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def _joined(incomplete: str, names: Iterable[str]) -> list[str]:
    """Complete the name after the last +, if there is one."""
    before, plus, last = incomplete.rpartition("+")
    return [f"{before}{plus}{name}" for name in (_starting(last, names) if plus else _or_files(incomplete, names))]


def _or_files(incomplete: str, names: Iterable[str]) -> list[str]:
    """Complete names, and files with the same start as well; without such a name, leave files to the shell."""
    found = _starting(incomplete, names)
    if not found or os.sep in incomplete:
        return found
    with suppress(OSError):  # a folder that must not be read
        entries = [f"{entry.name}{os.sep * entry.is_dir()}" for entry in os.scandir(".")]
        found += _starting(incomplete, (name for name in entries if incomplete or not name.startswith(".")))
    return found
