"""Show, Attend and Tell (Xu et al. 2015, https://arxiv.org/abs/1502.03044), with soft or hard attention.

Tensor letters as in :mod:`captioner.decoders.unrolled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from captioner.decoders.decoder import DECODERS, DecoderConfig
from captioner.decoders.unrolled import AdvanceOutput, PreparedMemory, UnrolledDecoder
from captioner.layers.additive import Attend, Sampler
from captioner.layers.dropout import Dropout
from captioner.layers.gates import lstm_gates
from captioner.layers.kernels import at_least_float32
from captioner.layers.positions import Geometry
from captioner.layers.unroll import Affine, Maps, Products, autocast
from captioner.memory import Memory
from captioner.text.vocabulary import PAD


class ShowAttendTellConfig(DecoderConfig):
    """Sizes of the decoder; the letters are the paper's."""

    embedding: int = Field(512, gt=0, description="m: size of a word's vector and of the deep output layer")
    hidden: int = Field(512, gt=0, description="n: LSTM units")
    attention: int = Field(256, gt=0, description="units of the attention network's hidden layer")
    values: int = Field(
        512,
        ge=0,
        description="size to which features are projected before they are averaged; 0: no projection",
    )
    kind: Literal["soft", "hard"] = Field("soft", description="attend to all regions or cells, or to one (section 4)")
    expected: float = Field(
        0.5,
        ge=0,
        le=1,
        description="with hard attention, share of the captions in training that use the expected vector instead",
    )
    geometry: bool = Field(False, description="add the position of each region or cell in the image")
    gate: Literal["scalar", "vector"] = Field(
        "scalar", description="beta: one number per step (the paper's) or one per feature"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="on the features, the word vectors and the deep output layer")
    feature_dropout: float = Field(0.0, ge=0, lt=1, description="on the encoder's features before they are projected")


@DECODERS.register("show_attend_tell")
class ShowAttendTell(UnrolledDecoder):
    """An LSTM that attends to the image before every word.

    Equations: attention (4)-(6), with the additive network of Bahdanau 2015 in (4); the LSTM (1)-(3), whose first state
    is computed from the mean feature (section 3.1.2); the deep output (7), ``logits = L_o (E y_{t-1} + L_h h_t + L_z
    z_t)``; the gate beta of section 4.2.1. The doubly stochastic penalty is part of the objective
    (:mod:`captioner.training.cross_entropy`).

    Hard attention (section 4.1): training samples one region or cell from the weights, except for a share ``expected``
    of the captions, which use the expected vector; the objective adds REINFORCE and the entropy. Search uses the most
    probable one.

    Departures: features are first projected to ``values`` dimensions, as the paper's conv5_3 has only 512 and
    EfficientNet's last map 1280 (``values: 0`` is the paper's form). The two networks of the first state have one layer
    and a tanh, as in the paper's code. ``gate: vector`` is the elementwise gate of later implementations. ``geometry``
    adds a learned map of its box to each region or cell, since regions have no fixed order. REINFORCE has another
    baseline, see :class:`captioner.training.cross_entropy.CrossEntropy`.
    """

    Config: ClassVar[type[DecoderConfig]] = ShowAttendTellConfig
    attends: ClassVar[bool] = True
    reads_half = True
    packs = ("values", "keys", "first_hidden", "first_cell", "output_hidden", "output_context")
    exact = ("output",)  # rounding it would round the words' probabilities

    def __init__(self, config: ShowAttendTellConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.config = config
        values = config.values or features
        gates = 1 if config.gate == "scalar" else values
        self.feature_dropout = Dropout(config.feature_dropout)
        self.dropout = Dropout(config.dropout)
        self.geometry = Geometry(features) if config.geometry else None
        self.values = nn.Linear(features, values) if config.values else nn.Identity()
        self.keys = nn.Linear(features, config.attention, bias=False)
        self.query = nn.Linear(config.hidden, config.attention)
        self.score = nn.Parameter(torch.empty(config.attention))
        self.beta = nn.Linear(config.hidden, gates)
        self.embedding = nn.Embedding(words, config.embedding, padding_idx=PAD)
        self.lstm = nn.LSTMCell(config.embedding + values, config.hidden)
        self.first_hidden = nn.Linear(features, config.hidden)
        self.first_cell = nn.Linear(features, config.hidden)
        self.output_hidden = nn.Linear(config.hidden, config.embedding)
        self.output_context = nn.Linear(values, config.embedding, bias=False)
        self.output = nn.Linear(config.embedding, words)
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.uniform_(self.score, -(self.score.numel() ** -0.5), self.score.numel() ** -0.5)
        nn.init.orthogonal_(self.lstm.weight_hh)
        nn.init.zeros_(self.output.bias)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
            self.lstm.bias_ih[config.hidden : 2 * config.hidden].fill_(1.0)  # forget gates start open (Jozefowicz 2015)

    def prepare(self, memory: Memory) -> PreparedMemory:
        """Project the features a_i, and compute h_0 and c_0 (section 3.1.2)."""
        a = memory.vectors if self.geometry is None else memory.vectors + self.geometry(memory)
        a = autocast(self.feature_dropout(a))
        values = self.values(a)
        # One mask for all regions or cells of an image, so a feature is dropped in all of them.
        values = values * self.dropout(values.new_ones(values.shape[0], 1, values.shape[2]))
        h = torch.tanh(at_least_float32(self.first_hidden(memory.pooled)))
        c = torch.tanh(at_least_float32(self.first_cell(memory.pooled)))
        return PreparedMemory(values, self.keys(a), {"h": h.unsqueeze(1), "c": c.unsqueeze(1)})

    def word_gates(self, tokens: Tensor, times: Products) -> Tensor:
        """Return the part of E y_{t-1} in (1), with the biases."""
        (word,) = times["word"](self.dropout(self.embedding(tokens)))
        return word

    def advance(self, word: Tensor, past: Mapping[str, Tensor], attend: Attend, times: Products) -> AdvanceOutput:
        """Equations (1) to (6)."""
        hidden, query, beta = times["h"](past["h"])
        z, alpha, s = attend(query)  # (4)-(6), or section 4.1
        z = torch.sigmoid(at_least_float32(beta)) * z  # section 4.2.1
        (context,) = times["z"](z)
        h, c = lstm_gates(past["c"], word, hidden, context)  # (1)-(3)
        return AdvanceOutput({"h": h, "c": c}, alpha, (h, z), s)

    def logits(self, tokens: Tensor, *read: Tensor) -> Tensor:
        """Equation (7)."""
        h, z = (part.to(self.embedding.weight.dtype) for part in read)  # the recurrence has at least 32 bits
        deep = self.dropout(self.embedding(tokens)) + self.output_hidden(self.dropout(h)) + self.output_context(z)
        logits: Tensor = self.output(self.dropout(deep))
        return logits

    def maps(self) -> Maps:
        """Return the maps of ``times`` in :meth:`word_gates` and :meth:`advance`."""
        lstm, embedding = self.lstm, self.config.embedding
        of_word, of_context = lstm.weight_ih.split([embedding, lstm.input_size - embedding], dim=1)
        return {
            "word": [Affine(of_word, lstm.bias_ih + lstm.bias_hh)],
            "z": [Affine(of_context)],
            "h": [
                Affine(lstm.weight_hh),
                Affine(self.query.weight, self.query.bias),
                Affine(self.beta.weight, self.beta.bias),
            ],
        }

    def sampler(self, images: int, captions: int) -> Sampler | None:
        """Return the sampler of s_t in section 4.1, where -1 means the expected vector."""
        if self.config.kind == "soft":
            return None
        if not self.training:
            return lambda alpha: alpha.argmax(-1)
        expected = torch.rand(images, captions, device=self.score.device) < self.config.expected

        def sample(alpha: Tensor) -> Tensor:
            # The first index at which the cumulative sum exceeds a random share of the total.
            cumulative = alpha.cumsum(-1)
            share = torch.rand(*alpha.shape[:2], 1, device=alpha.device, dtype=alpha.dtype) * cumulative[..., -1:]
            index = (cumulative <= share).sum(-1).clamp(max=alpha.shape[-1] - 1)
            return index.masked_fill(expected[: len(alpha)], -1)

        return sample
