"""The states of torch's random generators: saved, restored, and replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def generator_states() -> dict[str, Tensor]:
    """Return the states of this process's random generators, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generator_states(states: Mapping[str, Tensor]) -> None:
    """Set the random generators to saved states; a state of a GPU is ignored without one.

    Raises:
        KeyError, RuntimeError, TypeError: the states are incomplete or damaged.
    """
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def replayed(states: Mapping[str, Tensor]) -> Iterator[None]:
    """Draw the random numbers that followed saved states once more; the generators are as before afterwards."""
    now = generator_states()
    set_generator_states(states)
    try:
        yield
    finally:
        set_generator_states(now)
