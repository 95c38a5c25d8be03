"""The decoder of the Transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

Further tensor letters: S model size, H heads, E = S / H, L words so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from captioner.decoders.decoder import DECODERS, Decoder, DecoderConfig, DecoderOutput, State, Step
from captioner.errors import ConfigError
from captioner.layers.dropout import Dropout
from captioner.layers.linear import PackedLinear
from captioner.layers.positions import Geometry, sinusoidal
from captioner.layers.transformer import BlockConfig, BlockOutput, DecoderBlock, Rows, key_mask, last_norm, projection
from captioner.memory import Memory
from captioner.text.vocabulary import PAD


class TransformerDecoderConfig(BlockConfig, DecoderConfig):
    """Settings that the Transformer's decoders share."""

    tie_output: bool = Field(
        True, description="score words with the word vectors themselves (section 3.4), or with separate weights"
    )
    geometry: bool = Field(
        False, description="add the position of each region or cell in the image; not needed if the refiner does"
    )
    train_attention: bool = Field(
        False, description="return attention in training too, for objectives that use it; costs time and memory"
    )


class TransformerConfig(TransformerDecoderConfig):
    """Sizes of the decoder."""

    positions: Literal["sinusoidal", "learned"] = Field(
        "sinusoidal", description="encoding of a word's position in the caption"
    )
    max_words: int = Field(64, ge=1, description="longest caption with learned positions; the others have no limit")


# Applies block ``number``: (number, x, rows, memory, mask, weights), see :meth:`DecoderBlock.forward`.
_Apply: TypeAlias = Callable[[int, Tensor, Rows, Tensor, "Tensor | None", bool], BlockOutput]


@DECODERS.register("transformer")
class Transformer(Decoder):
    """Blocks of causal self-attention over the words so far and of cross-attention to the memory.

    The decoder of section 3.1, with the embeddings of section 3.4 (times the square root of S; shared with the output
    layer, which then has no bias) and the positions of section 3.5. One block is
    :meth:`~captioner.layers.transformer.DecoderBlock.forward`. The attention returned is the mean of the
    cross-attention over blocks and heads; :meth:`cross_attention` returns each separately.

    Departures: a memory of another size is projected and normalised first. The layer norm comes before each sub-layer,
    for training without a long warm-up (Xiong 2020, https://arxiv.org/abs/2002.04745); ``norm: post`` is
    the paper's form. Learned positions, which the paper found equally good, start as the sinusoidal ones. ``geometry``
    adds a learned map of its box to each region or cell.

    Attributes:
        relative: whether self-attention has relative positions; words then have no absolute ones.
    """

    Config: ClassVar[type[DecoderConfig]] = TransformerConfig
    attends: ClassVar[bool] = True
    reads_half = True
    exact = ("output",)  # rounding it would round the words' probabilities
    relative: ClassVar[bool] = False

    def __init__(self, config: TransformerDecoderConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.config = config
        self._tied: PackedLinear | None = None
        self.project = projection(features, config.size)
        self.geometry = Geometry(config.size) if config.geometry else None
        self.embedding = nn.Embedding(words, config.size, padding_idx=PAD)
        self.positions = None
        if isinstance(config, TransformerConfig) and config.positions == "learned":
            # <bos> precedes up to max_words words.
            self.positions = nn.Parameter(sinusoidal(config.max_words + 1, config.size).float())
        self.dropout = Dropout(config.dropout)
        self.blocks: Any = nn.ModuleList(DecoderBlock(config, relative=self.relative) for _ in range(config.blocks))
        self.norm = last_norm(config)
        self.output = None if config.tie_output else nn.Linear(config.size, words)
        nn.init.normal_(self.embedding.weight, std=config.size**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        if self.output is not None:
            nn.init.zeros_(self.output.bias)

    def _keys_values(self, memory: Memory) -> list[Tensor]:
        """Compute each block's cross-attention keys and values (B, 2, H, N, E), once per image."""
        vectors = self.project(memory.vectors)
        if self.geometry is not None:
            vectors = vectors + self.geometry(memory)
        return [block.memory(vectors) for block in self.blocks]

    def _positions(self, steps: int) -> Tensor:
        """Return the encodings of the first positions, (T, S)."""
        weight = self.embedding.weight
        if self.positions is None:
            return sinusoidal(steps, self.config.size, device=weight.device).to(weight.dtype)
        if steps > len(self.positions):
            raise ConfigError(
                f"transformer: its learned positions end after {len(self.positions) - 1} words, and a caption has "
                f"{steps - 1}; train with a larger max_words or with sinusoidal positions, or write shorter captions"
            )
        return self.positions[:steps]

    def _embed(self, tokens: Tensor, steps: int, at: Tensor | int) -> Tensor:
        """Return the vectors (M, S) of words (M,) at the positions ``at``, below ``steps``."""
        x = self.embedding(tokens) * self.config.size**0.5
        return self.dropout(x if self.relative else x + self._positions(steps)[at])

    def _logits(self, x: Tensor) -> Tensor:
        """Return logits (M, V) for x (M, S)."""
        x = self.norm(x)
        if self.output is not None:
            return self.output(x)
        if self._tied is not None:
            return self._tied(x)
        weight = self.embedding.weight
        if torch.is_grad_enabled():  # the vector of padding must stay zero, so it gets no gradient
            weight = weight.index_fill(0, torch.tensor([PAD], device=weight.device), 0.0)
        return F.linear(x, weight)

    def pack(self, dtype: torch.dtype) -> None:
        """Pack the word vectors as the tied output layer."""
        if self.output is None:
            self._tied = PackedLinear(self.embedding.weight, None, torch.float32)

    def start(self, memory: Memory) -> State:
        """Compute the keys and values of the memory, and empty caches for those of the words."""
        all_keys_values = self._keys_values(memory)
        images = {f"places.{i}": keys_values.contiguous() for i, keys_values in enumerate(all_keys_values)}
        mask = key_mask(memory.mask)
        if mask is not None:
            images["mask"] = mask
        b, _, heads, _, size = all_keys_values[0].shape
        empty = (b, 1, 2, heads, 0, size)
        return State({f"cache.{i}": each.new_empty(empty) for i, each in enumerate(all_keys_values)}, images)

    def step(self, tokens: Tensor, state: State) -> Step:
        """Run the blocks on one word per hypothesis, with the cached keys and values of its earlier words."""
        b, w = tokens.shape
        cache, rows = dict(state.hypotheses), Rows((b, w, 1))
        length = cache["cache.0"].shape[-2] + 1
        x = self._embed(tokens.flatten(), length, -1)
        mask, word_mask = state.images.get("mask"), self._word_mask(state, rows, length)
        attentions = []
        for i, block in enumerate(self.blocks):
            memory, name = state.images[f"places.{i}"], f"cache.{i}"
            x, cache[name], weights = block(x, rows, memory, mask, cache=cache[name], word_mask=word_mask, weights=True)
            attentions.append(weights.mean(1))
        attention = torch.stack(attentions).mean(0)
        return Step(self._logits(x).view(b, w, -1), attention.view(b, w, -1), State(cache, state.images))

    def _word_mask(self, state: State, rows: Rows, length: int) -> Tensor | None:
        """Return the argument ``word_mask`` of the blocks for a cache of ``length`` words."""
        return None

    def _block(
        self, number: int, x: Tensor, rows: Rows, memory: Tensor, mask: Tensor | None, weights: bool
    ) -> BlockOutput:
        decoded: BlockOutput = self.blocks[number](x, rows, memory, mask, weights=weights)
        return decoded

    def _run_blocks(
        self, memory: Memory, tokens: Tensor, apply: _Apply, *, weights: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the blocks over whole captions (B, K, T).

        Args:
            memory: of B images.
            tokens: as in :meth:`Decoder.forward`.
            apply: applies one block.
            weights: whether to return the cross-attention.

        Returns:
            The words' vectors (M, S), and with ``weights`` each block's (M, H, N).
        """
        real = tokens != PAD
        steps = max(1, int(real.sum(-1).max()))
        index = real[..., :steps].flatten().nonzero().squeeze(1)
        rows, mask = Rows((tokens.shape[0], tokens.shape[1], steps), index), key_mask(memory.mask)
        x = self._embed(tokens[real], steps, index % steps)
        kept = []
        for number, keys_values in enumerate(self._keys_values(memory)):
            decoded = apply(number, x, rows, keys_values, mask, weights)
            x = decoded.x
            if decoded.weights is not None:
                kept.append(decoded.weights)
        return x, kept

    def _scored(self, memory: Memory, tokens: Tensor, apply: _Apply) -> DecoderOutput:
        attends = not self.training or self.config.train_attention
        x, weights = self._run_blocks(memory, tokens, apply, weights=attends)
        attention = torch.stack([each.mean(1) for each in weights]).mean(0) if attends else None
        return DecoderOutput(self._logits(x), attention)

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Score all words of captions (B, K, T) at once; in training, attention needs ``train_attention``."""
        return self._scored(memory, tokens, self._block)

    def cross_attention(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Return each head's attention at the real words of captions (B, K, T), in their order: (M, blocks, H, N)."""
        return torch.stack(self._run_blocks(memory, tokens, self._block, weights=True)[1], dim=1)
