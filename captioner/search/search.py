"""Greedy or beam search, by the beam width."""

from __future__ import annotations

from captioner.memory import Encoded
from captioner.search.beam import beam
from captioner.search.config import Hypothesis, SearchConfig
from captioner.search.constraints import StepwiseDecoder
from captioner.search.greedy import greedy


def search(
    decoder: StepwiseDecoder, memory: Encoded, config: SearchConfig, count: int | None = None
) -> list[list[Hypothesis]]:
    """Search for captions of each image, greedily with a beam width of 1, otherwise by :func:`beam`."""
    return greedy(decoder, memory, config) if config.width == 1 else beam(decoder, memory, config, count)
