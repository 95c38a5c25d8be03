"""Refiners transform a memory before a decoder attends to it.

The only one is the encoder of the Transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

Tensor letters: B images, N regions, cells or words, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import Dropout

from captioner.errors import ConfigError
from captioner.layers.positions import Geometry, sinusoidal
from captioner.layers.segments import Context, SegmentEncoderBlock, with_context
from captioner.layers.transformer import EncoderBlock, EncoderBlockConfig, key_mask, last_norm, projection
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.settings import Settings


class Refiner(nn.Module, ABC):
    """Transforms the vectors of a memory, not their boxes or grid. Built as ``Refiner(config, features=D)``.

    Attributes:
        features: D of its output.
        reads_half: whether its packed copy (:mod:`captioner.layers.linear`) accepts a memory in 16 bits; a subclass
            does not inherit it.
    """

    Config: ClassVar[type[Settings]]
    reads_half: ClassVar[bool] = False
    features: int

    @abstractmethod
    def forward(self, memory: Memory) -> Memory:
        """Refine a memory."""


class Identity(Refiner):
    """Leaves the memory as it is; the refiner of a model without one."""

    def __init__(self, *, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, memory: Memory) -> Memory:
        return memory


REFINERS: Registry[type[Refiner]] = Registry("refiner")


class TransformerRefinerConfig(EncoderBlockConfig):
    """Sizes of the refiner."""

    geometry: bool = Field(True, description="add the position of each region or cell in the image")
    order: bool = Field(
        False, description="add the sinusoidal encoding of a word's position, for memories of words (section 3.5)"
    )


@REFINERS.register("transformer")
class TransformerRefiner(Refiner):
    """Self-attention over all regions or cells of an image.

    The encoder of section 3.1, on the vectors of a memory. ``geometry`` adds a learned map of its box to each vector,
    ``order`` the sinusoidal encoding of its position in the sentence (section 3.5). The pooled vector is the mean.

    Departures: features of another size are projected and normalised first. The layer norm comes before each sub-layer,
    for training without a long warm-up (Xiong 2020, https://arxiv.org/abs/2002.04745); ``norm: post`` is
    the paper's form. The blocks can have the relative positions and the convolution of later papers
    (:class:`EncoderBlock`); with ``axes: 2`` both need a grid.
    """

    Config: ClassVar[type[Settings]] = TransformerRefinerConfig
    reads_half = True

    def __init__(self, config: TransformerRefinerConfig, *, features: int) -> None:
        super().__init__()
        self.config, self.features = config, config.size
        self.project = projection(features, config.size)
        self.geometry = Geometry(config.size) if config.geometry else None
        self.dropout = Dropout(config.dropout)
        block = SegmentEncoderBlock if self.reads_context else EncoderBlock
        self.blocks: Any = nn.ModuleList(block(config) for _ in range(config.blocks))
        self.norm = last_norm(config)

    @property
    def reads_context(self) -> bool:
        """Whether it can attend to the words of previous lines: it needs relative positions of words, and no others."""
        return self.config.relative and self.config.axes == 1 and not self.config.order

    def forward(self, memory: Memory, context: Context | None = None) -> Memory:
        """Refine a memory; masked vectors have no influence on the others, and their output is undefined.

        With a context, the vectors are the words of lines, which also attend to previous lines.
        """
        return self._refine(memory, context)

    def states(self, memory: Memory, context: Context | None = None) -> tuple[Memory, Tensor]:
        """Refine a memory; return also the input of each block, (blocks, B, N, S): the context of later lines."""
        inputs: list[Tensor] = []
        return self._refine(memory, context, inputs), torch.stack(inputs)

    def _refine(self, memory: Memory, context: Context | None, inputs: list[Tensor] | None = None) -> Memory:
        # Between the blocks, vectors keep the weights' precision under autocast, as they are sums of many terms.
        x: Tensor = self.project(memory.vectors).to(self.blocks[0].around_attention.norm.weight.dtype)
        mask, shape = key_mask(with_context(memory.mask, context, memory.n_vectors)), self._shape(memory)
        if self.geometry is not None:
            x = x + self.geometry(memory).to(x.dtype)
        if self.config.order:
            x = x + sinusoidal(memory.n_vectors, self.features, device=x.device).to(x.dtype)
        x = self.dropout(x)
        for number, block in enumerate(self.blocks):
            if inputs is not None:
                inputs.append(x.detach())
            x = block(x, mask, shape) if context is None else block(x, mask, shape, context.block_input(number, x))
        x = self.norm(x)
        return replace(memory, vectors=x, pooled=_mean(x, memory.mask))

    def _shape(self, memory: Memory) -> tuple[int, ...]:
        """Return the argument ``shape`` of the blocks."""
        config = self.config
        if config.axes == 1 or not (config.relative or config.convolution):
            return (memory.n_vectors,)
        if memory.grid is None:
            raise ConfigError(
                f"refiner: {'relative' if config.relative else 'convolution'}: needs a grid; leave it out for regions, "
                "or set axes to 1 for words"
            )
        return memory.grid


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (B, D) over the real vectors of x (B, N, D); zero if there are none."""
    if mask is None:
        return x.mean(1)
    return (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
