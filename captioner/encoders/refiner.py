"""Refiners work on a memory before a decoder looks at it.

The one there is, is the encoder of the Transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

Tensor letters: B images, N places, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import Dropout

from captioner.layers.positions import Geometry, sinusoidal
from captioner.layers.transformer import BlockConfig, EncoderBlock, key_mask, last_norm, projection
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.settings import Settings


class Refiner(nn.Module, ABC):
    """Works on a memory before a decoder looks at it, and keeps its places. StoreReport as ``Refiner(config, features=D)``.

    Attributes:
        features: D of the memories it gives.
    """

    Config: ClassVar[type[Settings]]
    features: int

    @abstractmethod
    def forward(self, memory: Memory) -> Memory:
        """Refine a memory."""


REFINERS: Registry[type[Refiner]] = Registry("refiner")


class TransformerRefinerConfig(BlockConfig):
    """Sizes of the refiner."""

    positions: Literal["geometry", "order", "none"] = Field(
        "geometry",
        description="how the blocks know where a place is: by its box in the picture, by its number in the sentence, or not",
    )


@REFINERS.register("transformer")
class TransformerRefiner(Refiner):
    """Self-attention over all places of a picture, so that each vector knows what is around it.

    The encoder of the paper, section 3.1, on the vectors of a memory. A place of a picture is known by a learned map of
    its box, a place of a sentence (``positions: order``) by the sinusoidal encoding of section 3.5. The pooled vector
    is the mean of the refined ones.

    Departures: features of another size are projected and normalised first; the layer norm stands before each sub-layer
    (``norm: post`` for the paper's form), because such a stack learns without a long warm-up (Xiong 2020,
    https://arxiv.org/abs/2002.04745).
    """

    Config: ClassVar[type[Settings]] = TransformerRefinerConfig

    def __init__(self, config: TransformerRefinerConfig, *, features: int) -> None:
        super().__init__()
        self.config, self.features = config, config.size
        self.project = projection(features, config.size)
        self.geometry = Geometry(config.size) if config.positions == "geometry" else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.blocks))
        self.norm = last_norm(config)

    def forward(self, memory: Memory) -> Memory:
        """Refine a memory; masked places neither matter nor mean anything."""
        # Between the blocks autocast has the precision of the memory, as a sum of many terms needs it.
        x: Tensor = self.project(memory.vectors).to(memory.vectors.dtype)
        mask = key_mask(memory.mask)
        if self.geometry is not None:
            x = x + self.geometry(memory).to(x.dtype)
        elif self.config.positions == "order":
            x = x + sinusoidal(memory.places, self.features, device=x.device).to(x.dtype)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        return replace(memory, vectors=x, pooled=_mean(x, memory.mask))


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (B, D) over the real ones of places (B, N, D); zero if there are none."""
    if mask is None:
        return x.mean(1)
    return (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
