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
from captioner.layers.positions import Geometry, sinusoidal
from captioner.layers.transformer import BlockConfig, DecoderBlock, Rows, key_mask, last_norm, projection
from captioner.memory import Memory
from captioner.text.vocabulary import PAD


class TransformerConfig(BlockConfig, DecoderConfig):
    """Sizes of the decoder."""

    positions: Literal["sinusoidal", "learned"] = Field(
        "sinusoidal", description="how a word is told where in the caption it stands"
    )
    max_words: int = Field(
        64, ge=1, description="longest caption that learned positions can tell; sinusoidal ones have no end"
    )
    tie_output: bool = Field(
        True, description="score words with the word vectors themselves (section 3.4), or with weights of their own"
    )
    geometry: bool = Field(
        False,
        description="add a learned map of its box to each place; for a memory that no refiner has told where its places lie",
    )
    train_attention: bool = Field(
        False, description="return attention in training as well, for objectives that use it; costs time and memory"
    )


@DECODERS.register("transformer")
class Transformer(Decoder):
    """Blocks of causal self-attention over the words so far and of attention to the places of the picture.

    Section 3.1's decoder with section 3.4's embeddings (times the square root of S; shared with the output layer, which
    then has no bias) and section 3.5's positions. The attention that it returns is the mean over blocks and heads of
    the weights with which they looked at the places; :meth:`cross_attention` has each by itself.

    Departures: the memory is any encoder's; one of another size is projected and normalised first. The layer norm
    stands before each sub-layer (``norm: post`` for the paper's form), because such a stack learns without a long
    warm-up (Xiong 2020, https://arxiv.org/abs/2002.04745). Learned positions, which the paper found as good, start as
    the sinusoidal ones.
    """

    Config: ClassVar[type[DecoderConfig]] = TransformerConfig
    attends: ClassVar[bool] = True

    def __init__(self, config: TransformerConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.config = config
        self.project = projection(features, config.size)
        self.geometry = Geometry(config.size) if config.geometry else None
        self.embedding = nn.Embedding(words, config.size, padding_idx=PAD)
        # A word of <bos> stands in front of max_words others.
        self.positions = (
            nn.Parameter(sinusoidal(config.max_words + 1, config.size).float())
            if config.positions == "learned"
            else None
        )
        self.dropout = Dropout(config.dropout)
        self.blocks: Any = nn.ModuleList(DecoderBlock(config) for _ in range(config.blocks))
        self.norm = last_norm(config)
        self.output = None if config.tie_output else nn.Linear(config.size, words)
        nn.init.normal_(self.embedding.weight, std=config.size**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        if self.output is not None:
            nn.init.zeros_(self.output.bias)

    def _places(self, memory: Memory) -> list[Tensor]:
        """Do what is done once an image: for each block keys and values (B, 2, H, N, E)."""
        vectors = self.project(memory.vectors)
        if self.geometry is not None:
            vectors = vectors + self.geometry(memory)
        return [block.places(vectors) for block in self.blocks]

    def _positions(self, steps: int) -> Tensor:
        """Return the vectors of the first positions, (T, S)."""
        weight = self.embedding.weight
        if self.positions is None:
            return sinusoidal(steps, self.config.size, device=weight.device).to(weight.dtype)
        if steps > len(self.positions):
            raise ConfigError(
                f"transformer: its learned positions end after {self.config.max_words} words, and a caption has {steps - 1}; "
                "train with a larger max_words or with sinusoidal positions, or write shorter captions"
            )
        return self.positions[:steps]

    def _read(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the vectors (M, S) of words (M,) at positions (M, S) or (S,)."""
        return self.dropout(self.embedding(tokens) * self.config.size**0.5 + positions)

    def _tell(self, x: Tensor) -> Tensor:
        """Score words: x (M, S) -> logits (M, V)."""
        x = self.norm(x)
        if self.output is not None:
            return self.output(x)
        weight = self.embedding.weight
        if torch.is_grad_enabled():  # The vector of padding is zero and must stay so: no gradient from here either.
            weight = weight.index_fill(0, torch.tensor([PAD], device=weight.device), 0.0)
        return F.linear(x, weight)

    def start(self, memory: Memory) -> State:
        """Prepare one hypothesis an image; see :meth:`Decoder.start`."""
        places = self._places(memory)
        images = {f"places.{i}": keys_values.contiguous() for i, keys_values in enumerate(places)}
        mask = key_mask(memory.mask)
        if mask is not None:
            images["mask"] = mask
        b, _, heads, _, size = places[0].shape
        return State(
            {f"said.{i}": keys_values.new_empty(b, 1, 2, heads, 0, size) for i, keys_values in enumerate(places)},
            images,
        )

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        b, w = tokens.shape
        said, rows = dict(state.hypotheses), Rows((b, w, 1))
        x = self._read(tokens.flatten(), self._positions(said["said.0"].shape[-2] + 1)[-1])
        looked = []
        for i, block in enumerate(self.blocks):
            places, name = state.images[f"places.{i}"], f"said.{i}"
            x, said[name], weights = block(x, rows, places, state.images.get("mask"), past=said[name], weights=True)
            looked.append(weights.mean(1))
        attention = torch.stack(looked).mean(0)
        return Step(self._tell(x).view(b, w, -1), attention.view(b, w, -1), State(said, state.images))

    def _teach(
        self, memory: Memory, tokens: Tensor, keep: Callable[[Tensor], Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the blocks over whole captions (B, K, T).

        Args:
            memory: of B images.
            tokens: see :meth:`Decoder.forward`.
            keep: what to keep of a block's weights (M, H, N); ``None`` to have none computed.

        Returns:
            The words' vectors (M, S) and what was kept of each block.
        """
        real = tokens != PAD
        steps = max(1, int(real.sum(-1).max()))
        index = real[..., :steps].flatten().nonzero().squeeze(1)
        rows, mask = Rows((tokens.shape[0], tokens.shape[1], steps), index), key_mask(memory.mask)
        x = self._read(tokens[real], self._positions(steps)[index % steps])
        kept = []
        for block, places in zip(self.blocks, self._places(memory), strict=True):
            x, _, weights = block(x, rows, places, mask, weights=keep is not None)
            if keep is not None:
                kept.append(keep(weights))
        return x, kept

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Score whole captions (B, K, T); see :meth:`Decoder.forward`. In training there is no attention unless ``train_attention`` is set."""
        wanted = not self.training or self.config.train_attention
        x, kept = self._teach(memory, tokens, (lambda weights: weights.mean(1)) if wanted else None)
        return DecoderOutput(self._tell(x), torch.stack(kept).mean(0) if wanted else None)

    def cross_attention(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Return where each head of each block looked at the real words of captions (B, K, T), in their order: (M, blocks, H, N)."""
        return torch.stack(self._teach(memory, tokens, lambda weights: weights)[1], dim=1)
