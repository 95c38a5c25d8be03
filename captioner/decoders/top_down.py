"""The top-down attention of Bottom-Up and Top-Down Attention (Anderson et al. 2018, https://arxiv.org/abs/1707.07998, section 3.2)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from captioner.decoders.base import DECODERS, Decoder, DecoderConfig, DecoderOutput, State, Step
from captioner.layers.additive import Keys, Look, additive_attention, attend
from captioner.layers.dropout import Dropout
from captioner.layers.kernels import wide
from captioner.layers.packing import Packing
from captioner.layers.positions import Geometry
from captioner.layers.recurrence import Product, lstm_gates, products, recurrent_products
from captioner.memory import Memory
from captioner.text.vocabulary import PAD


class TopDownConfig(DecoderConfig):
    """Sizes of the decoder; the letters are the paper's."""

    embedding: int = Field(512, gt=0, description="E: size of a word's vector (the paper's: 1000)")
    hidden: int = Field(512, gt=0, description="M: units of each of the two LSTMs (the paper's: 1000)")
    attention: int = Field(256, gt=0, description="H: units of the attention network's hidden layer (the paper's: 512)")
    values: int = Field(
        512,
        ge=0,
        description="size to which the places' features are projected first; 0 leaves them as they are, like the paper",
    )
    positions: bool = Field(False, description="tell where in the picture each place is")
    dropout: float = Field(
        0.5, ge=0, lt=1, description="on the places, the word vectors and the language LSTM's output"
    )


class _Past(NamedTuple):
    """What the attention LSTM (1) and the language LSTM (2) remember: hidden states and cells, (B, K, H) each, at least 32 bits."""

    h1: Tensor
    c1: Tensor
    h2: Tensor
    c2: Tensor

    @classmethod
    def nothing(cls, like: Tensor, *shape: int) -> _Past:
        """Return zeros of a shape."""
        return cls(*(like.new_zeros(shape) for _ in cls._fields))


class _Products(NamedTuple):
    """What multiplies at every step: h2 and h1 for the attention LSTM's gates, h1 for the query, [z, h1] and h2 for the language LSTM's gates."""

    said: Product
    attended: Product
    query: Product
    seen: Product
    spoken: Product


@DECODERS.register("top_down")
class TopDown(Decoder):
    """Two LSTMs: one decides where to look, the other what to say.

    Equations of the paper: the attention LSTM (1) reads x1_t = [h2_{t-1}, v_bar, W_e Pi_t] (2); a_{i,t} = w_a .
    tanh(W_va v_i + W_ha h1_t) (3), alpha_t = softmax(a_t) (4), v_hat_t = sum_i alpha_{i,t} v_i (5); the language LSTM
    reads x2_t = [v_hat_t, h1_t] (6); the next word's probabilities are softmax(W_p h2_t + b_p) (7). Of the attention
    LSTM's input weights, the part for h2_{t-1} is ``attention_lstm.weight_ih``, those for v_bar and the word are
    ``mean`` and ``word``: the latter two do not depend on the step before. v_bar is the memory's pooled vector.

    The paper does not say how the LSTMs start; as in the authors' code their states are zero and their forget gates
    open, and neither words nor features pass through a ReLU.

    Departures: places and v_bar are first projected to ``values`` features, by one linear layer, so that v_bar stays
    the mean of the places (the paper's regions go in with all their 2048 features; set ``values: 0`` for its form);
    dropout, which the paper does not use; with ``positions`` places (not v_bar) are told where they are.
    """

    Config: ClassVar[type[DecoderConfig]] = TopDownConfig
    attends: ClassVar[bool] = True

    def __init__(self, config: TopDownConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.config = config
        units, values = config.hidden, config.values or features
        self.dropout = Dropout(config.dropout)
        self.geometry = Geometry(features) if config.positions else None
        self.values = nn.Linear(features, values) if config.values else nn.Identity()
        self.keys = nn.Linear(values, config.attention, bias=False)
        self.query = nn.Linear(units, config.attention, bias=False)
        self.score = nn.Parameter(torch.empty(config.attention))
        self.embedding = nn.Embedding(words, config.embedding, padding_idx=PAD)
        self.word = nn.Linear(config.embedding, 4 * units, bias=False)
        self.mean = nn.Linear(values, 4 * units, bias=False)
        self.attention_lstm = nn.LSTMCell(units, units)
        self.language_lstm = nn.LSTMCell(values + units, units)
        self.output = nn.Linear(units, words)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.uniform_(self.score, -(self.score.numel() ** -0.5), self.score.numel() ** -0.5)
        nn.init.zeros_(self.output.bias)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
            for lstm in (self.attention_lstm, self.language_lstm):
                nn.init.orthogonal_(lstm.weight_hh)
                # Remember at first: forget gates start open (Jozefowicz 2015).
                lstm.bias_ih[self.config.hidden : 2 * self.config.hidden].fill_(1.0)

    def _look(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Do what is done once an image: values (B, N, D), keys (B, N, A), what v_bar adds to the attention LSTM's gates (B, 4H)."""
        values = self.values(memory.vectors if self.geometry is None else memory.vectors + self.geometry(memory))
        mean = self.values(memory.pooled)
        # One mask for all places of an image and for their mean: what is hidden from the decoder stays hidden wherever
        # it looks.
        kept = self.dropout(torch.ones_like(mean))
        values = values * kept.unsqueeze(1)
        return values, self.keys(values), wide(self.mean(mean * kept))

    def _word_gates(self, tokens: Tensor) -> Tensor:
        """Return what words (...,) add to the attention LSTM's gates (..., 4H), biases included.

        Training calls this once for every distinct word of a batch, so that all its occurrences share one dropout mask.
        """
        bias = self.attention_lstm.bias_ih + self.attention_lstm.bias_hh
        return wide(F.linear(self.dropout(self.embedding(tokens)), self.word.weight, bias))

    def _weights(self) -> list[Tensor]:
        """Return the weights of a step's products, in the order of :class:`_Products`."""
        attending, speaking = self.attention_lstm, self.language_lstm
        return [attending.weight_ih, attending.weight_hh, self.query.weight, speaking.weight_ih, speaking.weight_hh]

    def _advance(self, words: Tensor, mean: Tensor, past: _Past, look: Look, maps: _Products) -> tuple[Tensor, _Past]:
        """Go one word further: words (B, K, 4H) and v_bar (B, 4H) as gates -> alpha (B, K, N) and the new states."""
        gates = words + mean.unsqueeze(1) + maps.said(past.h2) + maps.attended(past.h1)
        h1, c1 = lstm_gates(gates, past.c1)  # (1), (2)
        context, alpha, _ = look(maps.query(h1))  # (3)-(5)
        gates = maps.seen(torch.cat([context, h1], dim=-1)) + maps.spoken(past.h2)
        h2, c2 = lstm_gates(gates + self.language_lstm.bias_ih + self.language_lstm.bias_hh, past.c2)  # (6)
        return alpha, _Past(h1, c1, h2, c2)

    def _tell(self, hidden: Tensor) -> Tensor:
        """Equation (7): h2 (..., H) -> logits (..., V)."""
        logits: Tensor = self.output(self.dropout(hidden.to(self.output.weight.dtype)))
        return logits

    def start(self, memory: Memory) -> State:
        """Prepare one hypothesis an image; see :meth:`Decoder.start`."""
        values, keys, mean = self._look(memory)
        images = {"values": values, "keys": Keys.of(keys).units_first, "mean": mean}
        if memory.mask is not None:
            images["mask"] = memory.mask
        return State(_Past.nothing(mean, len(memory), 1, self.config.hidden)._asdict(), images)

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        images = state.images
        look = partial(attend, keys=images["keys"], values=images["values"], v=self.score, mask=images.get("mask"))
        alpha, past = self._advance(
            self._word_gates(tokens),
            images["mean"],
            _Past(**state.hypotheses),
            look,
            _Products(*products(self._weights())),
        )
        return Step(self._tell(past.h2), alpha, State(past._asdict(), images))

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Score whole captions (B, K, T); see :meth:`Decoder.forward`."""
        k = tokens.shape[1]
        packing = Packing.of(tokens)
        memory = memory[packing.order]
        values, keys, mean = self._look(memory)
        distinct, words = packing.words.unique(return_inverse=True)
        rows = [images * k for images in packing.active]
        gates = F.embedding(words, self._word_gates(distinct)).split(rows)
        maps = recurrent_products(self._weights(), rows)
        looks = additive_attention(keys, values, self.score, mask=memory.mask, active=packing.active, captions=k)
        past = _Past.nothing(mean, len(memory), k, self.config.hidden)
        hidden, attention = [], []
        for images, word, look, step in zip(packing.active, gates, looks, maps, strict=True):
            past = _Past(*(part[:images] for part in past))
            alpha, past = self._advance(word.view(images, k, -1), mean[:images], past, look, _Products(*step))
            hidden.append(past.h2.flatten(0, 1))
            attention.append(alpha.flatten(0, 1))
        return DecoderOutput(self._tell(torch.cat(hidden)[packing.rows]), torch.cat(attention)[packing.rows])
