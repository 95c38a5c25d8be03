"""The decoder of the Transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

Further tensor letters: S model size, H heads, E = S / H, L words so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from captioner.decoders.base import DECODERS, Decoder, DecoderConfig, DecoderOutput, State, Step
from captioner.errors import ConfigError
from captioner.layers.dropout import Dropout
from captioner.layers.linear import PackedLinear
from captioner.layers.positions import Geometry, sinusoidal
from captioner.layers.segments import Context, Past
from captioner.layers.transformer import BlockConfig, DecoderBlock, Rows, key_mask, last_norm, projection
from captioner.memory import Memory
from captioner.text.vocabulary import PAD


class TransformerConfig(BlockConfig, DecoderConfig):
    """Sizes of the decoder."""

    positions: Literal["sinusoidal", "learned", "relative"] = Field(
        "sinusoidal",
        description="encoding of a word's position in the caption; relative is none, but attention that knows how far "
        "apart two words are (Dai 2019)",
    )
    max_words: int = Field(64, ge=1, description="longest caption with learned positions; the others have no limit")
    tie_output: bool = Field(
        True, description="score words with the word vectors themselves (section 3.4), or with separate weights"
    )
    geometry: bool = Field(
        False, description="tell where in the picture each place is; unnecessary after a refiner that does so"
    )
    train_attention: bool = Field(
        False, description="return attention in training as well, for objectives that use it; costs time and memory"
    )


@DECODERS.register("transformer")
class Transformer(Decoder):
    """Blocks of causal self-attention over the words so far and of cross-attention to the places of the picture.

    Section 3.1's decoder with section 3.4's embeddings (times the square root of S; shared with the output layer, which
    then has no bias) and section 3.5's positions. The attention that it returns is the mean of the cross-attention's
    weights over blocks and heads; :meth:`cross_attention` returns each separately.

    Departures: the memory is any encoder's; one of another size is projected and normalised first. The layer norm
    comes before each sub-layer (``norm: post`` for the paper's form), because such a stack trains without a long
    warm-up (Xiong 2020, https://arxiv.org/abs/2002.04745). Learned positions, which the paper found equally good, are
    initialised to the sinusoidal ones. ``geometry`` adds a learned map of its box to each place.

    With relative positions (Transformer-XL, Dai 2019, https://arxiv.org/abs/1901.02860) words are told apart by their
    distance, and those of a line can attend to the words of the lines before, its context (segment recurrence, see
    :mod:`captioner.layers.segments`). That paper's model has no cross-attention; here it remains with the places of the
    line that is being written.
    """

    Config: ClassVar[type[DecoderConfig]] = TransformerConfig
    attends: ClassVar[bool] = True
    reads_half = True
    exact = ("output",)  # its rounding would be that of the words' probabilities

    def __init__(self, config: TransformerConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.config = config
        self._tied: PackedLinear | None = None
        self.project = projection(features, config.size)
        self.geometry = Geometry(config.size) if config.geometry else None
        self.embedding = nn.Embedding(words, config.size, padding_idx=PAD)
        # <bos> precedes up to max_words words.
        self.positions = (
            nn.Parameter(sinusoidal(config.max_words + 1, config.size).float())
            if config.positions == "learned"
            else None
        )
        self.dropout = Dropout(config.dropout)
        relative = config.positions == "relative"
        self.blocks: Any = nn.ModuleList(DecoderBlock(config, relative=relative) for _ in range(config.blocks))
        self.norm = last_norm(config)
        self.output = None if config.tie_output else nn.Linear(config.size, words)
        nn.init.normal_(self.embedding.weight, std=config.size**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        if self.output is not None:
            nn.init.zeros_(self.output.bias)

    def _places(self, memory: Memory) -> list[Tensor]:
        """Compute, once per image, each block's keys and values of the places (B, 2, H, N, E)."""
        vectors = self.project(memory.vectors)
        if self.geometry is not None:
            vectors = vectors + self.geometry(memory)
        return [block.places(vectors) for block in self.blocks]

    @property
    def reads_context(self) -> bool:
        """Whether it can attend to the words of lines before."""
        return self.config.positions == "relative"

    def _positions(self, steps: int) -> Tensor:
        """Return the encodings of the first positions, (T, S)."""
        weight = self.embedding.weight
        if self.positions is None:
            return sinusoidal(steps, self.config.size, device=weight.device).to(weight.dtype)
        if steps > len(self.positions):
            raise ConfigError(
                f"transformer: its learned positions end after {self.config.max_words} words, and a caption has "
                f"{steps - 1}; train with a larger max_words or with sinusoidal positions, or write shorter captions"
            )
        return self.positions[:steps]

    def _embed(self, tokens: Tensor, steps: int, at: Tensor | int) -> Tensor:
        """Return the vectors (M, S) of words (M,), whose positions are ``at`` of the first ``steps``."""
        x = self.embedding(tokens) * self.config.size**0.5
        return self.dropout(x if self.config.positions == "relative" else x + self._positions(steps)[at])

    def _logits(self, x: Tensor) -> Tensor:
        """Return logits (M, V) for x (M, S)."""
        x = self.norm(x)
        if self.output is not None:
            return self.output(x)
        if self._tied is not None:
            return self._tied(x)
        weight = self.embedding.weight
        if torch.is_grad_enabled():  # padding's vector is zero and must stay so: no gradient from here either
            weight = weight.index_fill(0, torch.tensor([PAD], device=weight.device), 0.0)
        return F.linear(x, weight)

    def pack(self, dtype: torch.dtype) -> None:
        """See :meth:`Packable.pack`."""
        if self.output is None:
            self._tied = PackedLinear(self.embedding.weight, None, torch.float32)

    def start(self, memory: Memory, past: Past | None = None) -> State:
        """Prepare one hypothesis per image; see :meth:`Decoder.start`.

        Args:
            memory: of B images or lines.
            past: what the lines before them say, with relative positions; see :meth:`states`.
        """
        places = self._places(memory)
        images = {f"places.{i}": keys_values.contiguous() for i, keys_values in enumerate(places)}
        mask = key_mask(memory.mask)
        if mask is not None:
            images["mask"] = mask
        if past is not None:
            images["context"] = past.mask
            caches = [block.words(past.states[i]).unsqueeze(1) for i, block in enumerate(self.blocks)]
        else:
            b, _, heads, _, size = places[0].shape
            caches = [keys_values.new_empty(b, 1, 2, heads, 0, size) for keys_values in places]
        return State({f"cache.{i}": cache for i, cache in enumerate(caches)}, images)

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        b, w = tokens.shape
        cache, rows = dict(state.hypotheses), Rows((b, w, 1))
        x = self._embed(tokens.flatten(), cache["cache.0"].shape[-2] + 1, -1)
        mask, context = state.images.get("mask"), state.images.get("context")
        attentions = []
        for i, block in enumerate(self.blocks):
            places, name = state.images[f"places.{i}"], f"cache.{i}"
            x, cache[name], weights = block(x, rows, places, mask, cache=cache[name], context=context, weights=True)
            attentions.append(weights.mean(1))
        attention = torch.stack(attentions).mean(0)
        return Step(self._logits(x).view(b, w, -1), attention.view(b, w, -1), State(cache, state.images))

    def _run_blocks(
        self,
        memory: Memory,
        tokens: Tensor,
        keep: Callable[[Tensor], Tensor] | None,
        context: Context | None = None,
        read: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the blocks over whole captions (B, K, T).

        Args:
            memory: of B images.
            tokens: see :meth:`Decoder.forward`.
            keep: maps a block's weights (M, H, N) to what is kept of them; ``None`` does not compute weights at all.
            context: of lines, see :meth:`forward`.
            read: gets what each block reads, (B, K, T, S).

        Returns:
            The words' vectors (M, S), and for each block what was kept of its weights.
        """
        real = tokens != PAD
        steps = max(1, int(real.sum(-1).max()))
        index = real[..., :steps].flatten().nonzero().squeeze(1)
        rows, mask = Rows((tokens.shape[0], tokens.shape[1], steps), index), key_mask(memory.mask)
        x = self._embed(tokens[real], steps, index % steps)
        kept, cache, seen = [], None, None if context is None else context.mask
        for number, (block, places) in enumerate(zip(self.blocks, self._places(memory), strict=True)):
            if read is not None:
                read.append(rows.spread(x).detach())
            if context is not None:
                cache = block.words(context.before(number, rows.spread(x)[:, 0])).unsqueeze(1)
            x, _, weights = block(x, rows, places, mask, cache=cache, context=seen, weights=keep is not None)
            if keep is not None:
                kept.append(keep(weights))
        return x, kept

    def forward(self, memory: Memory, tokens: Tensor, context: Context | None = None) -> DecoderOutput:
        """Score whole captions (B, K, T); see :meth:`Decoder.forward`.

        In training there is no attention unless ``train_attention`` is set.

        Args:
            memory: of B images or lines.
            tokens: their words.
            context: with relative positions, and one translation (K = 1) of each line: what they attend to besides.
        """
        attends = not self.training or self.config.train_attention
        x, kept = self._run_blocks(memory, tokens, (lambda weights: weights.mean(1)) if attends else None, context)
        return DecoderOutput(self._logits(x), torch.stack(kept).mean(0) if attends else None)

    def states(self, memory: Memory, tokens: Tensor, context: Context | None = None) -> Tensor:
        """Return what each block reads of the words (B, T) of lines, (blocks, B, T, S): the past of lines to come."""
        read: list[Tensor] = []
        self._run_blocks(memory, tokens.unsqueeze(1), None, context, read)
        return torch.stack(read).squeeze(2)

    def cross_attention(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Return each head's attention at the real words of captions (B, K, T), in their order: (M, blocks, H, N)."""
        return torch.stack(self._run_blocks(memory, tokens, lambda weights: weights)[1], dim=1)
