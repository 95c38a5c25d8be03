"""Top-down attention (Anderson et al. 2018, https://arxiv.org/abs/1707.07998, section 3.2).

Tensor letters as in :mod:`captioner.decoders.unrolled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from captioner.decoders.decoder import DECODERS, DecoderConfig
from captioner.decoders.unrolled import AdvanceOutput, PreparedMemory, UnrolledDecoder
from captioner.layers.additive import Attend
from captioner.layers.dropout import Dropout
from captioner.layers.gates import lstm_gates
from captioner.layers.kernels import at_least_float32
from captioner.layers.positions import Geometry
from captioner.layers.unroll import Affine, Maps, Products
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
        description="size to which features are projected first; 0: no projection, as in the paper",
    )
    geometry: bool = Field(False, description="add the position of each region or cell in the image")
    dropout: float = Field(
        0.5, ge=0, lt=1, description="on the features, the word vectors and the language LSTM's output"
    )


@DECODERS.register("top_down")
class TopDown(UnrolledDecoder):
    """Two LSTMs: one controls the attention, the other predicts the words.

    Equations: the attention LSTM (1) reads x1_t = [h2_{t-1}, v_bar, W_e Pi_t] (2); a_{i,t} = w_a . tanh(W_va v_i + W_ha
    h1_t) (3), alpha_t = softmax(a_t) (4), v_hat_t = sum_i alpha_{i,t} v_i (5); the language LSTM reads x2_t = [v_hat_t,
    h1_t] (6); the next word has the probabilities softmax(W_p h2_t + b_p) (7). v_bar is the memory's pooled vector. The
    input weights of the attention LSTM are three: ``attention_lstm.weight_ih`` for h2_{t-1}, and ``mean`` and ``word``,
    whose products do not depend on the previous step.

    The paper does not give the first states. As in the authors' code they are zero, forget gates start open, and
    neither words nor features pass through a ReLU.

    Departures: features and v_bar are first projected to ``values`` dimensions by one linear layer, so v_bar stays the
    mean. The paper uses all 2048 features of its regions (``values: 0``); fewer keep the LSTMs small. Dropout, which
    the paper does not mention, is for small data sets. ``geometry`` adds a learned map of its box to each region or
    cell, but not to v_bar.
    """

    Config: ClassVar[type[DecoderConfig]] = TopDownConfig
    attends: ClassVar[bool] = True
    reads_half = True
    packs = ("values", "keys", "mean")
    exact = ("output",)  # rounding it would round the words' probabilities

    def __init__(self, config: TopDownConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.config = config
        units, values = config.hidden, config.values or features
        self.dropout = Dropout(config.dropout)
        self.geometry = Geometry(features) if config.geometry else None
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
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.uniform_(self.score, -(self.score.numel() ** -0.5), self.score.numel() ** -0.5)
        nn.init.zeros_(self.output.bias)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
            for lstm in (self.attention_lstm, self.language_lstm):
                nn.init.orthogonal_(lstm.weight_hh)
                lstm.bias_ih[units : 2 * units].fill_(1.0)  # forget gates start open (Jozefowicz 2015)

    def prepare(self, memory: Memory) -> PreparedMemory:
        """Project the features v_i and their mean."""
        v = self.values(memory.vectors if self.geometry is None else memory.vectors + self.geometry(memory))
        v_bar = self.values(memory.pooled)
        # One mask for v_bar and all v_i of an image, so a feature is dropped in all of them.
        kept = self.dropout(torch.ones_like(v_bar))
        v = v * kept.unsqueeze(1)
        mean = at_least_float32(self.mean(v_bar * kept))
        zeros = mean.new_zeros(len(memory), 1, self.config.hidden)
        return PreparedMemory(v, self.keys(v), dict.fromkeys(("h1", "c1", "h2", "c2"), zeros), mean)

    def word_gates(self, tokens: Tensor, times: Products) -> Tensor:
        """Return the part of W_e Pi_t in (2), with the biases of (1)."""
        (word,) = times["word"](self.dropout(self.embedding(tokens)))
        return word

    def advance(self, word: Tensor, past: Mapping[str, Tensor], attend: Attend, times: Products) -> AdvanceOutput:
        """Equations (1) to (6)."""
        h2_to_attention, h2_to_language = times["h2"](past["h2"])
        (h1_to_attention,) = times["previous h1"](past["h1"])
        h1, c1 = lstm_gates(past["c1"], word, h2_to_attention, h1_to_attention)  # (1), (2)
        (query,) = times["h1"](h1)
        v_hat, alpha, _ = attend(query)  # (3)-(5)
        (x2_to_language,) = times["x2"](torch.cat([v_hat, h1], dim=-1))  # (6)
        h2, c2 = lstm_gates(past["c2"], x2_to_language, h2_to_language)  # (1)
        return AdvanceOutput({"h1": h1, "c1": c1, "h2": h2, "c2": c2}, alpha, (h2,))

    def logits(self, tokens: Tensor, *read: Tensor) -> Tensor:
        """Equation (7)."""
        (h2,) = read
        logits: Tensor = self.output(self.dropout(h2.to(self.embedding.weight.dtype)))
        return logits

    def maps(self) -> Maps:
        """Return the maps of ``times`` in :meth:`word_gates` and :meth:`advance`."""
        attention, language = self.attention_lstm, self.language_lstm
        return {
            "word": [Affine(self.word.weight, attention.bias_ih + attention.bias_hh)],
            "h2": [Affine(attention.weight_ih), Affine(language.weight_hh, language.bias_ih + language.bias_hh)],
            "previous h1": [Affine(attention.weight_hh)],
            "h1": [Affine(self.query.weight)],
            "x2": [Affine(language.weight_ih)],
        }
