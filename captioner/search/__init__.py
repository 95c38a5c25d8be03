"""Searches, from a decoder and a memory to captions.

Settings and results are plain values. The searches need torch, so they are imported, and registered, when one of their
names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from captioner.search.config import Hypothesis, SearchConfig

if TYPE_CHECKING:
    from captioner.search.base import SEARCHES, choose_search
    from captioner.search.beam import beam
    from captioner.search.greedy import greedy

__all__ = ["SEARCHES", "Hypothesis", "SearchConfig", "beam", "choose_search", "greedy"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'captioner.search' has no attribute {name!r}")
    # All at once: importing a search leaves a module of its name here, which its function replaces.
    base, beam, greedy = (import_module(f"captioner.search.{module}") for module in ("base", "beam", "greedy"))
    globals().update(SEARCHES=base.SEARCHES, choose_search=base.choose_search, beam=beam.beam, greedy=greedy.greedy)
    return globals()[name]
