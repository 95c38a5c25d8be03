"""Encoder and decoder blocks of the Transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

Tensor letters: B images, K captions per image, T steps, L words so far, M real (not padding) words of a batch, Q
queries, N keys (regions, cells or words), S model size, H heads, E = S / H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from captioner.layers.attention import Attention
from captioner.layers.conformer import ConvolutionModule
from captioner.layers.dropout import Dropout
from captioner.layers.linear import Packable
from captioner.layers.relative import RelativeAttention
from captioner.settings import Settings


class BlockConfig(Settings):
    """Sizes of a stack of blocks; the defaults are the paper's base model."""

    blocks: int = Field(6, ge=1, description="number of blocks")
    size: int = Field(512, gt=0, description="size of the vectors between the blocks, divided among the heads")
    heads: int = Field(8, gt=0, description="heads of each attention")
    feed_forward: int = Field(2048, gt=0, description="units of the feed-forward network's hidden layer")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="on the input of the first block and on the output of each sub-layer"
    )
    norm: Literal["pre", "post"] = Field(
        "pre", description="layer norm before each sub-layer, or after the residual sum (the paper's)"
    )
    activation: Literal["relu", "gelu", "silu"] = Field(
        "relu",
        description="of the feed-forward network's hidden layer; silu is also called Swish, and the default with "
        "half_steps",
    )

    @model_validator(mode="after")
    def _heads_share_the_size(self) -> BlockConfig:
        if self.size % self.heads:
            raise ValueError(f"size ({self.size}) must be a multiple of heads ({self.heads})")
        return self


class EncoderBlockConfig(BlockConfig):
    """Options of an encoder's blocks from papers after the Transformer."""

    relative: bool = Field(
        False, description="relative positions in self-attention (Dai 2019): the distance of two regions or cells"
    )
    convolution: int = Field(
        0, ge=0, description="side of the kernel of the Conformer's convolution module (Gulati 2020), odd; 0 for none"
    )
    half_steps: bool = Field(
        False,
        description="two feed-forward networks of half weight, the first before self-attention, the second last, and a "
        "layer norm after them; their activation is silu unless another is given (Gulati 2020)",
    )
    axes: Literal[1, 2] = Field(
        2,
        description="axes of relative positions and convolution: 1 for the words of a sentence, 2 for the rows and "
        "columns of a grid",
    )

    @model_validator(mode="before")
    @classmethod
    def _half_steps_have_swish(cls, given: Any) -> Any:
        """Take Swish, the Conformer's activation (Gulati 2020, section 2.3), unless another one is given."""
        return {"activation": "silu", **given} if isinstance(given, dict) and given.get("half_steps") else given

    @field_validator("convolution")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel and kernel % 2 == 0:
            raise ValueError(f"the kernel's side must be odd; give {kernel - 1} or {kernel + 1}")
        return kernel


_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class FeedForward(nn.Sequential, Packable):
    """The position-wise feed-forward network, section 3.3 (2)."""

    packs = ("0", "2")

    def __init__(self, config: BlockConfig) -> None:
        first, second = nn.Linear(config.size, config.feed_forward), nn.Linear(config.feed_forward, config.size)
        super().__init__(first, _ACTIVATIONS[config.activation](), second)
        for linear in (first, second):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)


class Residual(nn.Module):
    """The residual connection around a sub-layer (section 3.1).

    It is ``x + dropout(sublayer(LayerNorm(x)))`` with norm ``pre``, and the paper's ``LayerNorm(x +
    dropout(sublayer(x)))`` with ``post``.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.norm = nn.LayerNorm(config.size)
        self.dropout = Dropout(config.dropout)

    def sublayer_input(self, x: Tensor) -> Tensor:
        """Return the input of the sub-layer."""
        return self.norm(x) if self.pre else x

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply the sub-layer to x (..., S)."""
        if self.pre:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


class EncoderBlock(nn.Module):
    """Self-attention, then the feed-forward network.

    With ``relative`` self-attention has relative positions (Dai 2019), with ``convolution`` the Conformer's module
    follows it. With ``half_steps`` the block has the Conformer's form (Gulati 2020, equation 1): a feed-forward network
    of half weight, self-attention, the convolution, another feed-forward network of half weight, and a layer norm.
    Swish is then the default activation.

    Departures from Gulati 2020: relative positions are a separate setting, for ablations, and there is no dropout
    inside the feed-forward networks, as in the Transformer.
    """

    def __init__(self, config: EncoderBlockConfig) -> None:
        super().__init__()
        self.step = 0.5 if config.half_steps else 1.0
        self.first_feed_forward = FeedForward(config) if config.half_steps else None
        self.around_first_feed_forward = Residual(config) if config.half_steps else None
        self.attention = (
            RelativeAttention(config.size, config.heads, axes=config.axes)
            if config.relative
            else Attention(config.size, config.heads)
        )
        self.around_attention = Residual(config)
        self.convolution = (
            ConvolutionModule(config.size, config.convolution, axes=config.axes) if config.convolution else None
        )
        self.around_convolution = Residual(config) if config.convolution else None
        self.feed_forward = FeedForward(config)
        self.around_feed_forward = Residual(config)
        self.norm = nn.LayerNorm(config.size) if config.half_steps else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None, shape: tuple[int, ...] | None = None) -> Tensor:
        """Apply the block to the vectors of regions, cells or words.

        Args:
            x: (B, N, S).
            mask: (B, 1, 1, N), true where a vector may be attended to (see :func:`key_mask`).
            shape: (rows, columns) of a grid, or by default (N,); for relative positions and the convolution.
        """
        shape = shape or (x.shape[1],)
        return self.sublayers(x, lambda y: self.attend(y, y, mask, shape), mask, shape)

    def sublayers(
        self, x: Tensor, attend: Callable[[Tensor], Tensor], mask: Tensor | None, shape: tuple[int, ...]
    ) -> Tensor:
        """Apply all sub-layers, with ``attend`` as self-attention; the other arguments are those of :meth:`forward`."""
        x = self.around_attention(self.half_step(x), attend)
        if self.convolution is not None and self.around_convolution is not None:
            convolution = self.convolution
            real = None if mask is None else mask[:, 0, 0, -x.shape[1] :].unsqueeze(-1)
            x = self.around_convolution(x, lambda y: convolution(y, shape, real))
        x = self.around_feed_forward(x, lambda y: self.step * self.feed_forward(y))
        return self.norm(x)

    def half_step(self, x: Tensor) -> Tensor:
        """Apply the first feed-forward network of half weight, if the block has one."""
        first = self.first_feed_forward
        if first is None or self.around_first_feed_forward is None:
            return x
        return self.around_first_feed_forward(x, lambda y: self.step * first(y))

    def attend(self, y: Tensor, sequence: Tensor, mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """Attend from vectors (B, N, S), the last N of ``sequence`` (B, L, S), to the whole sequence."""
        attention = self.attention
        query, bias = attention.add_positions(attention.query(y), shape)
        keys_values = attention.split(attention.key_value(sequence))
        return attention.output(attention.attend(query, keys_values, mask=mask, bias=bias))

    def weights(self, x: Tensor, mask: Tensor | None = None, shape: tuple[int, ...] | None = None) -> Tensor:
        """Return the weights (B, H, N, N) of self-attention; the arguments are those of :meth:`forward`."""
        attention, y = self.attention, self.around_attention.sublayer_input(self.half_step(x))
        query, bias = attention.add_positions(attention.query(y), shape or (x.shape[1],))
        return attention.weights(query, attention.split(attention.key_value(y)), mask=mask, bias=bias)


@dataclass(frozen=True)
class Rows:
    """The real words of a batch of captions as rows, and their positions in the padded tensor.

    Only attention needs the padded form; all other layers skip padding, which can be half of a batch.

    Attributes:
        shape: (B, K, T).
        index: (M,) the position of each row in the flattened padded tensor; ``None`` if there is no padding.
    """

    shape: tuple[int, int, int]
    index: Tensor | None = None

    def unpack(self, x: Tensor) -> Tensor:
        """Unpack rows (M, S) to (B, K, T, S), zeros at padding."""
        if self.index is not None:
            b, k, t = self.shape
            x = x.new_zeros(b * k * t, x.shape[-1]).index_copy(0, self.index, x)
        return x.view(*self.shape, -1)

    def pack(self, x: Tensor) -> Tensor:
        """Pack the padded tensor, (B * K, T, ...) or (B, K * T, ...), to rows (M, ...)."""
        x = x.flatten(0, 1)
        return x if self.index is None else x[self.index]


class BlockOutput(NamedTuple):
    """The output of a decoder block.

    Attributes:
        x: (M, S) the words' vectors.
        cache: (B, K, 2, H, L, E) self-attention's keys and values of all words so far, for later steps.
        weights: (M, H, N) each head's cross-attention; ``None`` unless requested.
    """

    x: Tensor
    cache: Tensor
    weights: Tensor | None


class DecoderBlock(nn.Module):
    """Causal self-attention over a caption's words, cross-attention to its image, the feed-forward network.

    With ``relative`` self-attention has relative positions (Dai 2019).
    """

    def __init__(self, config: BlockConfig, *, relative: bool = False) -> None:
        super().__init__()
        self.self_attention = (RelativeAttention if relative else Attention)(config.size, config.heads)
        self.around_self_attention = Residual(config)
        self.cross_attention = Attention(config.size, config.heads)
        self.around_cross_attention = Residual(config)
        self.feed_forward = FeedForward(config)
        self.around_feed_forward = Residual(config)

    def memory(self, vectors: Tensor) -> Tensor:
        """Return cross-attention's keys and values (B, 2, H, N, E) of a memory's vectors (B, N, S)."""
        return self.cross_attention.split(self.cross_attention.key_value(vectors))

    def words(self, x: Tensor) -> Tensor:
        """Return self-attention's keys and values (B, 2, H, L, E) of words (B, L, S), for a ``cache``."""
        attention = self.self_attention
        return attention.split(attention.key_value(self.around_self_attention.sublayer_input(x)))

    def forward(
        self,
        x: Tensor,
        rows: Rows,
        memory: Tensor,
        mask: Tensor | None = None,
        *,
        cache: Tensor | None = None,
        word_mask: Tensor | None = None,
        weights: bool = False,
    ) -> BlockOutput:
        """Apply the block to words.

        Args:
            x: (M, S) their vectors.
            rows: their captions and steps.
            memory: from :meth:`memory`; the captions of an image share one copy.
            mask: (B, 1, 1, N), true where the memory may be attended to.
            cache: (B, K, 2, H, L, E) keys and values of earlier words.
            word_mask: (B * K, 1, 1, L + T), true where a word may be attended to; ``None``: everywhere.
            weights: whether to return each head's cross-attention.
        """
        to_words, to_memory = self.self_attention, self.cross_attention
        attention: Tensor | None = None

        def attend_to_words(y: Tensor) -> Tensor:
            nonlocal cache
            added = to_words.split(rows.unpack(to_words.key_value(y)))
            cache = added if cache is None else torch.cat([cache, added], dim=-2)
            query, bias = to_words.add_positions(rows.unpack(to_words.query(y)).flatten(0, 1), (cache.shape[-2],))
            # Padding follows a caption's words, so causal attention excludes it.
            heads = to_words.attend(query, cache.flatten(0, 1), mask=word_mask, bias=bias, causal=rows.shape[2] > 1)
            return to_words.output(rows.pack(heads))

        def attend_to_memory(y: Tensor) -> Tensor:
            nonlocal attention
            query = rows.unpack(to_memory.query(y)).flatten(1, 2)
            if not weights:
                return to_memory.output(rows.pack(to_memory.attend(query, memory, mask=mask)))
            attention = to_memory.weights(query, memory, mask=mask)
            return to_memory.output(rows.pack(to_memory.average(attention, memory)))

        x = self.around_self_attention(x, attend_to_words)
        x = self.around_cross_attention(x, attend_to_memory)
        x = self.around_feed_forward(x, self.feed_forward)
        assert cache is not None
        return BlockOutput(x, cache, None if attention is None else rows.pack(attention.transpose(1, 2)))

    def weights(self, x: Tensor) -> Tensor:
        """Return the weights (B, H, T, T) of self-attention over whole captions (B, T, S)."""
        attention, y = self.self_attention, self.around_self_attention.sublayer_input(x)
        query, bias = attention.add_positions(attention.query(y), (x.shape[1],))
        return attention.weights(query, self.words(x), bias=bias, causal=True)


class Projection(nn.Sequential, Packable):
    """A linear map of features (..., D) to the blocks' size (..., S), and a layer norm.

    The paper has no such layer: its input is words, whose vectors are learned. An image's features can have any scale.
    """

    packs = ("0",)

    def __init__(self, features: int, size: int) -> None:
        super().__init__(nn.Linear(features, size), nn.LayerNorm(size))


def projection(features: int, size: int) -> nn.Module:
    """Return a :class:`Projection`; the identity if the features have the blocks' size."""
    return nn.Identity() if features == size else Projection(features, size)


def last_norm(config: BlockConfig) -> nn.Module:
    """Return the layer norm after the last block; the identity with norm ``post``, whose blocks end with one."""
    return nn.LayerNorm(config.size) if config.norm == "pre" else nn.Identity()


def key_mask(mask: Tensor | None) -> Tensor | None:
    """Turn a memory's mask (B, N) into one for attention (B, 1, 1, N).

    An all-false mask becomes all true, as the softmax of that image would be NaN.
    """
    return None if mask is None else (mask | ~mask.any(1, keepdim=True))[:, None, None]
