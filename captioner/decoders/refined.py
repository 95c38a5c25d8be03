"""A decoder that looks at a memory which a refiner has worked on first."""

from __future__ import annotations

from torch import Tensor, nn

from captioner.decoders.base import Decoder, State, Step, Taught
from captioner.memory import Memory


class Refined(Decoder):
    """Any decoder behind any refiner, trained together; to searches and to the training loop they are one decoder.

    Args:
        refiner: a module from memory to memory that keeps its places, for example the Transformer's encoder.
        decoder: what looks at the refined memory.
    """

    def __init__(self, refiner: nn.Module, decoder: Decoder) -> None:
        nn.Module.__init__(self)
        self.refiner, self.decoder = refiner, decoder
        self.attends = decoder.attends  # type: ignore[misc]

    def _refine(self, memory: Memory) -> Memory:
        refined: Memory = self.refiner(memory)
        return refined

    def start(self, memory: Memory) -> State:
        """Prepare one hypothesis an image; see :meth:`Decoder.start`."""
        return self.decoder.start(self._refine(memory))

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        return self.decoder.step(tokens, state)

    def forward(self, memory: Memory, tokens: Tensor) -> Taught:
        """Score whole captions (B, K, T); see :meth:`Decoder.forward`."""
        taught: Taught = self.decoder(self._refine(memory), tokens)
        return taught
