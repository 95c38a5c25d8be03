"""Show, Attend and Tell with soft or hard attention (Xu et al. 2015, https://arxiv.org/abs/1502.03044)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from captioner.decoders.base import DECODERS, Decoder, DecoderConfig, State, Step, Taught
from captioner.layers.dropout import Dropout
from captioner.layers.kernels import wide
from captioner.layers.packing import Packing
from captioner.layers.positions import Geometry
from captioner.layers.recurrence import Draw, Keys, attend, attending_lstm, focus, lstm_gates
from captioner.memory import Memory
from captioner.text.vocabulary import PAD


class ShowAttendTellConfig(DecoderConfig):
    """Sizes of the decoder; the letters are the paper's."""

    embedding: int = Field(512, gt=0, description="m: size of a word's vector and of the deep output layer")
    hidden: int = Field(512, gt=0, description="n: LSTM units")
    attention: int = Field(256, gt=0, description="units of the attention network's hidden layer")
    values: int = Field(512, ge=0, description="size to which the places' features are projected before they are averaged; 0 leaves them as they are")
    kind: Literal["soft", "hard"] = Field("soft", description="look at all places at once, or at one (section 4)")
    expected: float = Field(
        0.5, ge=0, le=1, description="with hard attention, share of the captions in training that look at the expected place instead"
    )
    positions: bool = Field(False, description="tell where in the picture each place is")
    gate: Literal["scalar", "vector"] = Field("scalar", description="beta: one number a step (the paper's) or one a feature")
    dropout: float = Field(0.5, ge=0, lt=1, description="on the places, the word vectors and the deep output layer")
    feature_dropout: float = Field(0.0, ge=0, lt=1, description="on the encoder's features before they are projected")


@DECODERS.register("show_attend_tell")
class ShowAttendTell(Decoder):
    """An LSTM that, before every word, averages the places of the picture with weights that depend on what it has said.

    Equations of the paper: the attention network (4)-(6) with the additive form of Bahdanau 2015; the LSTM (1)-(3); its first state from the mean
    feature (section 3.1.2); the deep output (7), ``logits = L_o (E y_{t-1} + L_h h_t + L_z z_t)``; the gate beta of section 4.2.1, computed from
    h_{t-1}. The doubly stochastic penalty is part of the objective (:mod:`captioner.training.cross_entropy`).

    Hard attention (section 4.1): in training a place is drawn from the weights, or for a share ``expected`` of the captions their expected vector is used;
    the objective has the rest (REINFORCE, its baseline, the entropy). Captioning looks at the most probable place.

    Departures: places are first projected to ``values`` features (the paper's conv5_3 has 512 already, EfficientNet's last map 1280; set ``values: 0``
    for the paper's form); the two initial-state networks have one layer and a tanh, as in the paper's code; ``gate: vector`` is the elementwise gate of
    later implementations.
    """

    Config: ClassVar[type[DecoderConfig]] = ShowAttendTellConfig
    attends: ClassVar[bool] = True

    def __init__(self, config: ShowAttendTellConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.config = config
        values = config.values or features
        gates = 1 if config.gate == "scalar" else values
        self.feature_dropout = Dropout(config.feature_dropout)
        self.dropout = Dropout(config.dropout)
        self.geometry = Geometry(features) if config.positions else None
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
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        nn.init.uniform_(self.score, -(self.score.numel() ** -0.5), self.score.numel() ** -0.5)
        nn.init.orthogonal_(self.lstm.weight_hh)
        nn.init.zeros_(self.output.bias)
        with torch.no_grad():  # Remember at first: forget gates start open (Jozefowicz 2015).
            self.lstm.bias_ih[self.config.hidden : 2 * self.config.hidden].fill_(1.0)

    def _look(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Do what is done once an image: values (B, N, D), keys (B, N, A), h_0 and c_0 (B, H)."""
        vectors = self.feature_dropout(memory.vectors if self.geometry is None else memory.vectors + self.geometry(memory))
        values, keys = self.values(vectors), self.keys(vectors)
        # One mask for all places of an image: what is hidden from the decoder stays hidden wherever it looks.
        values = values * self.dropout(values.new_ones(values.shape[0], 1, values.shape[2]))
        h, c = torch.tanh(self.first_hidden(memory.pooled)), torch.tanh(self.first_cell(memory.pooled))
        return values, keys, h, c

    def _word_gates(self, tokens: Tensor) -> Tensor:
        """Return what words (...,) add to the LSTM's gates (..., 4H), biases included.

        Training calls this once for every distinct word of a batch, so that all its occurrences share one dropout mask.
        """
        embedded = self.dropout(self.embedding(tokens))
        bias = self.lstm.bias_ih + self.lstm.bias_hh
        return F.linear(embedded, self.lstm.weight_ih[:, : self.config.embedding], bias)

    def _tell(self, tokens: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Deep output, equation (7): words (...,), hidden (..., H), context (..., D) -> logits (..., V)."""
        deep = self.dropout(self.embedding(tokens)) + self.output_hidden(self.dropout(hidden)) + self.output_context(context)
        logits: Tensor = self.output(self.dropout(deep))
        return logits

    def _draw(self, images: int, captions: int) -> Draw | None:
        """Return what draws the places of some captions, if attention is hard."""
        if self.config.kind == "soft":
            return None
        if not self.training:
            return lambda alpha: alpha.argmax(-1)
        at_all = torch.rand(images, captions, device=self.score.device) < self.config.expected

        def draw(alpha: Tensor) -> Tensor:
            # The first place at which the running sum passes a random share of the whole.
            up_to = alpha.cumsum(-1)
            share = torch.rand(*alpha.shape[:2], 1, device=alpha.device, dtype=alpha.dtype) * up_to[..., -1:]
            return (up_to <= share).sum(-1).clamp(max=alpha.shape[-1] - 1).masked_fill(at_all[: len(alpha)], -1)

        return draw

    def start(self, memory: Memory) -> State:
        """Prepare one hypothesis an image; see :meth:`Decoder.start`."""
        values, keys, h, c = self._look(memory)
        images = {"values": values, "keys": Keys.of(keys).units_first}
        if memory.mask is not None:
            images["mask"] = memory.mask
        return State({"h": h.unsqueeze(1), "c": c.unsqueeze(1)}, images)

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        h, c = state.hypotheses["h"], state.hypotheses["c"]
        values = state.images["values"]
        alpha = attend(state.images["keys"], self.query(h), self.score, state.images.get("mask"), compiled=False).to(values.dtype)
        draw = self._draw(*tokens.shape)
        context = torch.sigmoid(self.beta(h)) * torch.bmm(focus(alpha, None if draw is None else draw(alpha)), values)
        gates = self._word_gates(tokens) + F.linear(context, self.lstm.weight_ih[:, self.config.embedding :]) + F.linear(h, self.lstm.weight_hh)
        h, c, _ = lstm_gates(gates, c)
        return Step(self._tell(tokens, h, context), alpha, State({"h": h, "c": c}, state.images))

    def forward(self, memory: Memory, tokens: Tensor) -> Taught:
        """Score whole captions (B, K, T); see :meth:`Decoder.forward`."""
        b, k, _ = tokens.shape
        packing = Packing.of(tokens)
        memory = memory[packing.order]
        distinct, words = packing.words.unique(return_inverse=True)
        values, keys, h, c = self._look(memory)
        told = attending_lstm(
            wide(self._word_gates(distinct)),
            words,
            wide(h).unsqueeze(1).expand(b, k, -1).contiguous(),
            wide(c).unsqueeze(1).expand(b, k, -1).contiguous(),
            keys=wide(keys),
            values=wide(values),
            w_hidden=torch.cat([self.lstm.weight_hh, self.query.weight, self.beta.weight]),
            b_attention=torch.cat([self.query.bias, self.beta.bias]),
            w_context=self.lstm.weight_ih[:, self.config.embedding :],
            v=self.score,
            mask=memory.mask,
            active=packing.active,
            draw=self._draw(b, k),
            compiled=tokens.device.type == "cpu" and torch.is_grad_enabled() and keys.dtype != torch.float64,
        )
        rows = packing.rows
        dtype = values.dtype  # the recurrence has at least 32 bits, a model may have 16
        logits = self._tell(tokens[tokens != PAD], told.hidden[rows].to(dtype), told.context[rows].to(dtype))
        return Taught(logits, told.attention[rows], None if told.drawn is None else told.drawn[rows])
