"""Encoder and decoder blocks of the Transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

Tensor letters: B images, K captions per image, T steps, L words so far, M real (not padding) words of a batch, Q
queries, N keys (places, or words so far), S model size, H heads, E = S / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from captioner.layers.dropout import Dropout
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
    activation: Literal["relu", "gelu"] = Field("relu", description="of the feed-forward network's hidden layer")

    @model_validator(mode="after")
    def _heads_share_the_size(self) -> BlockConfig:
        if self.size % self.heads:
            raise ValueError(f"size ({self.size}) must be a multiple of heads ({self.heads})")
        return self


class Attention(nn.Module):
    """Multi-head attention, section 3.2.2: ``softmax(Q K^T / sqrt(E)) V`` (1) in every head.

    One linear map of the concatenated heads follows. As in the paper the maps have no bias (a bias of the keys would
    have no effect, since softmax ignores a constant added to all scores of a query), and there is no dropout on the
    weights.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size, bias=False)
        self.key_value = nn.Linear(size, 2 * size, bias=False)
        self.output = nn.Linear(size, size, bias=False)
        for linear in (self.query, self.key_value, self.output):
            nn.init.xavier_uniform_(linear.weight)

    def split(self, key_value: Tensor) -> Tensor:
        """Split keys and values (..., N, 2S) into heads: (..., 2, H, N, E)."""
        return key_value.unflatten(-1, (2, self.heads, -1)).movedim(-4, -2)

    def attend(self, query: Tensor, keys_values: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Average the values in every head.

        Args:
            query: (B, Q, S), already projected.
            keys_values: (B, 2, H, N, E).
            mask: (B, 1, 1, N), true where a key may be attended to.
            causal: query q attends to the keys up to q only.

        Returns:
            (B, Q, S) the concatenated heads.
        """
        if query.device.type == "cpu":  # where torch's own kernel is slow on few keys, above all its backward pass
            if causal:
                q, k = query.shape[1], keys_values.shape[-2]
                mask = torch.ones(q, k, dtype=torch.bool).tril(k - q)
            return self.average(self.weights(query, keys_values, mask=mask), keys_values)
        keys, values = keys_values.unbind(1)
        heads = F.scaled_dot_product_attention(self._heads(query), keys, values, attn_mask=mask, is_causal=causal)
        return heads.transpose(1, 2).flatten(2)

    def weights(self, query: Tensor, keys_values: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the weights of :meth:`attend`, which its kernel does not return: (B, H, Q, N), at least 32 bits."""
        query = query * (query.shape[-1] / self.heads) ** -0.5
        scores = self._heads(query) @ keys_values[:, 0].transpose(-1, -2)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return torch.softmax(scores if mask is None else scores.masked_fill(~mask, float("-inf")), dim=-1)

    def average(self, weights: Tensor, keys_values: Tensor) -> Tensor:
        """Return what :meth:`attend` does, (B, Q, S), for weights (B, H, Q, N) that are known."""
        values = keys_values[:, 1]
        return (weights.to(values.dtype) @ values).transpose(1, 2).flatten(2)

    def _heads(self, query: Tensor) -> Tensor:
        return query.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """The position-wise feed-forward network, section 3.3 (2)."""

    def __init__(self, config: BlockConfig) -> None:
        first, second = nn.Linear(config.size, config.feed_forward), nn.Linear(config.feed_forward, config.size)
        super().__init__(first, nn.ReLU() if config.activation == "relu" else nn.GELU(), second)
        for linear in (first, second):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)


class Residual(nn.Module):
    """The residual connection around a sub-layer: ``LayerNorm(x + dropout(sublayer(x)))`` (section 3.1).

    With norm ``pre`` it is ``x + dropout(sublayer(LayerNorm(x)))``.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.norm = nn.LayerNorm(config.size)
        self.dropout = Dropout(config.dropout)

    def before(self, x: Tensor) -> Tensor:
        """Return the input of the sub-layer."""
        return self.norm(x) if self.pre else x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the sub-layer's output ``y`` to ``x``."""
        x = x + self.dropout(y)
        return x if self.pre else self.norm(x)


class EncoderBlock(nn.Module):
    """Self-attention over all places, then the feed-forward network."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.attention = Attention(config.size, config.heads)
        self.around_attention = Residual(config)
        self.feed_forward = FeedForward(config)
        self.around_feed_forward = Residual(config)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Refine places (B, N, S); mask (B, 1, 1, N) is true where one may be attended to (see :func:`key_mask`)."""
        y = self.around_attention.before(x)
        # Room for Transformer-XL: the previous segment's y would precede this one among the keys and values (with
        # relative positions).
        keys_values = self.attention.split(self.attention.key_value(y))
        y = self.attention.output(self.attention.attend(self.attention.query(y), keys_values, mask=mask))
        x = self.around_attention.after(x, y)
        # Room for Conformer: its convolution module would be one more sub-layer here, with its own residual.
        return self.around_feed_forward.after(x, self.feed_forward(self.around_feed_forward.before(x)))


@dataclass(frozen=True)
class Rows:
    """Where the real words of a batch of captions, packed as rows, lie in the padded tensor.

    Everything but attention works on single words, so padding, which can be half of a batch, is left out there.

    Attributes:
        shape: (B, K, T).
        index: (M,) the position of each row in the flattened padded tensor; ``None`` if there is no padding.
    """

    shape: tuple[int, int, int]
    index: Tensor | None = None

    def spread(self, x: Tensor) -> Tensor:
        """Unpack rows (M, S) to (B, K, T, S), zeros at padding."""
        if self.index is not None:
            b, k, t = self.shape
            x = x.new_zeros(b * k * t, x.shape[-1]).index_copy(0, self.index, x)
        return x.view(*self.shape, -1)

    def pack(self, x: Tensor) -> Tensor:
        """Pack the padded tensor, (B * K, T, ...) or (B, K * T, ...), to rows (M, ...)."""
        x = x.flatten(0, 1)
        return x if self.index is None else x[self.index]


class Decoded(NamedTuple):
    """The output of a decoder block.

    Attributes:
        x: (M, S) the words' vectors.
        cache: (B, K, 2, H, L, E) self-attention's keys and values of all words so far, for later steps.
        weights: (M, H, N) each head's attention to the places; ``None`` unless requested.
    """

    x: Tensor
    cache: Tensor
    weights: Tensor | None


class DecoderBlock(nn.Module):
    """Causal self-attention over a caption's words, cross-attention to its image's places, the feed-forward network."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config.size, config.heads)
        self.around_self_attention = Residual(config)
        self.cross_attention = Attention(config.size, config.heads)
        self.around_cross_attention = Residual(config)
        self.feed_forward = FeedForward(config)
        self.around_feed_forward = Residual(config)

    def places(self, vectors: Tensor) -> Tensor:
        """Return the keys and values (B, 2, H, N, E) of places (B, N, S), all that this block needs of them."""
        return self.cross_attention.split(self.cross_attention.key_value(vectors))

    def forward(
        self,
        x: Tensor,
        rows: Rows,
        places: Tensor,
        mask: Tensor | None = None,
        *,
        cache: Tensor | None = None,
        weights: bool = False,
    ) -> Decoded:
        """Apply the block to words.

        Args:
            x: (M, S) their vectors.
            rows: where they lie among captions and steps.
            places: see :meth:`places`. All captions and steps of an image are queries to one copy of them.
            mask: (B, 1, 1, N), true where a place may be attended to.
            cache: (B, K, 2, H, L, E) keys and values of earlier words, when T = 1 word is added to each caption;
                ``None`` when whole captions are given.
            weights: whether to return each head's attention to the places.
        """
        own, cross = self.self_attention, self.cross_attention
        y = self.around_self_attention.before(x)
        query, keys_values = rows.spread(own.query(y)), own.split(rows.spread(own.key_value(y)))
        if cache is not None:
            keys_values = torch.cat([cache, keys_values], dim=-2)
        # Padding follows a caption's words, so causal attention never sees it.
        context = own.attend(query.flatten(0, 1), keys_values.flatten(0, 1), causal=cache is None)
        x = self.around_self_attention.after(x, own.output(rows.pack(context)))

        query = rows.spread(cross.query(self.around_cross_attention.before(x))).flatten(1, 2)
        attention = cross.weights(query, places, mask=mask) if weights else None
        context = cross.attend(query, places, mask=mask) if attention is None else cross.average(attention, places)
        x = self.around_cross_attention.after(x, cross.output(rows.pack(context)))

        x = self.around_feed_forward.after(x, self.feed_forward(self.around_feed_forward.before(x)))
        return Decoded(x, keys_values, None if attention is None else rows.pack(attention.transpose(1, 2)))


def projection(features: int, size: int) -> nn.Module:
    """Return a projection of features to the blocks' size, a linear map and a layer norm; the identity if they have it.

    The paper has only words, whose vectors are learned; the features of a picture can have any scale.
    """
    return nn.Identity() if features == size else nn.Sequential(nn.Linear(features, size), nn.LayerNorm(size))


def last_norm(config: BlockConfig) -> nn.Module:
    """Return the layer norm after the last block, whose residual sums still need one with norm ``pre``."""
    return nn.LayerNorm(config.size) if config.norm == "pre" else nn.Identity()


def key_mask(mask: Tensor | None) -> Tensor | None:
    """Turn a memory's mask (B, N) into one for attention (B, 1, 1, N).

    In an image without a real place all are attended to, so that its softmax does not become NaN.
    """
    return None if mask is None else (mask | ~mask.any(1, keepdim=True))[:, None, None]
