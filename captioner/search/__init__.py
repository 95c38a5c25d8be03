"""Searches, from a decoder and a memory to captions. Importing this package registers every search."""

from captioner.search.base import SEARCHES, Hypothesis, SearchConfig, choose_search
from captioner.search.beam import beam
from captioner.search.greedy import greedy

__all__ = ["SEARCHES", "Hypothesis", "SearchConfig", "beam", "choose_search", "greedy"]
