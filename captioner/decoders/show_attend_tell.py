"""Show, Attend and Tell with soft or hard attention (Xu et al. 2015, https://arxiv.org/abs/1502.03044)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from captioner.decoders.base import DECODERS, Decoder, DecoderConfig, DecoderOutput, State, Step
from captioner.layers.additive import Attend, Glimpse, Keys, Sampler, additive_attention, attend
from captioner.layers.dropout import Dropout
from captioner.layers.kernels import wide
from captioner.layers.packing import Packing
from captioner.layers.positions import Geometry, rename_positions
from captioner.layers.recurrence import Product, Recurrent, lstm_gates, recurrent_products
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
        description="size to which the places' features are projected before they are averaged; 0: no projection",
    )
    kind: Literal["soft", "hard"] = Field("soft", description="attend to all places at once, or to one (section 4)")
    expected: float = Field(
        0.5,
        ge=0,
        le=1,
        description="with hard attention, share of the captions in training that use the expected vector instead",
    )
    geometry: bool = Field(False, description="tell where in the picture each place is")
    gate: Literal["scalar", "vector"] = Field(
        "scalar", description="beta: one number per step (the paper's) or one per feature"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="on the places, the word vectors and the deep output layer")
    feature_dropout: float = Field(0.0, ge=0, lt=1, description="on the encoder's features before they are projected")

    _rename_positions = model_validator(mode="before")(rename_positions)


class _Past(NamedTuple):
    """The LSTM's hidden state and cell, (B, K, H) each, at least 32 bits."""

    h: Tensor
    c: Tensor


class _Products(NamedTuple):
    """The products of every step.

    Attributes:
        hidden: of h_{t-1}, for the LSTM's gates.
        context: of the gated context, for the LSTM's gates.
        query: of h_{t-1}, for the attention network.
        beta: of h_{t-1}, for the gate of the context.
    """

    hidden: Product
    context: Product
    query: Product
    beta: Product


@DECODERS.register("show_attend_tell")
class ShowAttendTell(Recurrent, Decoder):
    """An LSTM that, before every word, averages the places with weights that depend on the words so far.

    Equations of the paper: the attention network (4)-(6) with the additive form of Bahdanau 2015; the LSTM (1)-(3); its
    first state from the mean feature (section 3.1.2); the deep output (7), ``logits = L_o (E y_{t-1} + L_h h_t + L_z
    z_t)``; the gate beta of section 4.2.1, computed from h_{t-1}. The doubly stochastic penalty is part of the
    objective (:mod:`captioner.training.cross_entropy`).

    Hard attention (section 4.1): in training a place is drawn from the weights, or for a share ``expected`` of the
    captions the expected vector is used; the objective does the rest (REINFORCE, its baseline, the entropy). In
    captioning the most probable place is used.

    Departures: places are first projected to ``values`` features (the paper's conv5_3 has only 512, EfficientNet's last
    map 1280; set ``values: 0`` for the paper's form); the two initial-state networks have one layer and a tanh, as in
    the paper's code; ``gate: vector`` is the elementwise gate of later implementations; ``geometry`` adds a learned map
    of its box to each place.
    """

    Config: ClassVar[type[DecoderConfig]] = ShowAttendTellConfig
    attends: ClassVar[bool] = True
    plain: ClassVar[tuple[str, ...]] = ("query", "beta")

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
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        nn.init.uniform_(self.score, -(self.score.numel() ** -0.5), self.score.numel() ** -0.5)
        nn.init.orthogonal_(self.lstm.weight_hh)
        nn.init.zeros_(self.output.bias)
        with torch.no_grad():  # forget gates start open (Jozefowicz 2015)
            self.lstm.bias_ih[self.config.hidden : 2 * self.config.hidden].fill_(1.0)

    def _prepare(self, memory: Memory) -> tuple[Tensor, Tensor, _Past]:
        """Compute, once per image, values (B, N, D), keys (B, N, A) and the first state, (B, 1, H) each."""
        vectors = self.feature_dropout(
            memory.vectors if self.geometry is None else memory.vectors + self.geometry(memory)
        )
        values, keys = self.values(vectors), self.keys(vectors)
        # One dropout mask for all places of an image: a dropped feature stays dropped wherever the decoder attends.
        values = values * self.dropout(values.new_ones(values.shape[0], 1, values.shape[2]))
        first = (
            torch.tanh(wide(network(memory.pooled))).unsqueeze(1) for network in (self.first_hidden, self.first_cell)
        )
        return values, keys, _Past(*first)

    def _word_gates(self, tokens: Tensor) -> Tensor:
        """Return the words' (...,) part of the LSTM's gates (..., 4H), biases included.

        Training calls this once for every distinct word of a batch, so that all its occurrences share one dropout mask.
        """
        embedded = self.dropout(self.embedding(tokens))
        bias = self.lstm.bias_ih + self.lstm.bias_hh
        return self.products()[-1](embedded) + bias

    def _deep_output(self, tokens: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Deep output, equation (7): words (...,), hidden (..., H), context (..., D) -> logits (..., V)."""
        dtype = self.embedding.weight.dtype  # the recurrence has at least 32 bits, a model may have 16
        hidden, context = hidden.to(dtype), context.to(dtype)
        deep = (
            self.dropout(self.embedding(tokens))
            + self.output_hidden(self.dropout(hidden))
            + self.output_context(context)
        )
        logits: Tensor = self.output(self.dropout(deep))
        return logits

    def _sampler(self, images: int, captions: int) -> Sampler | None:
        """Return the function that chooses places for (images, captions); ``None`` if attention is soft."""
        if self.config.kind == "soft":
            return None
        if not self.training:
            return lambda alpha: alpha.argmax(-1)
        expected = torch.rand(images, captions, device=self.score.device) < self.config.expected

        def sample(alpha: Tensor) -> Tensor:
            # The first place at which the cumulative sum exceeds a random share of the total.
            cumulative = alpha.cumsum(-1)
            share = torch.rand(*alpha.shape[:2], 1, device=alpha.device, dtype=alpha.dtype) * cumulative[..., -1:]
            place = (cumulative <= share).sum(-1).clamp(max=alpha.shape[-1] - 1)
            return place.masked_fill(expected[: len(alpha)], -1)

        return sample

    def search_weights(self) -> list[Tensor]:
        """See :meth:`Recurrent.search_weights`; the last is the words', for the LSTM's gates."""
        return [*self._weights(), self.lstm.weight_ih[:, : self.config.embedding]]

    def _weights(self) -> list[Tensor]:
        """Return the weights of a step's products, in the order of :class:`_Products`."""
        return [
            self.lstm.weight_hh,
            self.lstm.weight_ih[:, self.config.embedding :],
            self.query.weight,
            self.beta.weight,
        ]

    def _advance(self, words: Tensor, past: _Past, attend: Attend, times: _Products) -> tuple[Glimpse, _Past]:
        """Advance by a word, its part (B, K, 4H) of the gates -> the glimpse with its context gated, the new state."""
        glimpse = attend(times.query(past.h) + self.query.bias)  # (4)-(6)
        beta = torch.sigmoid(times.beta(past.h) + self.beta.bias)  # section 4.2.1
        context = beta * glimpse.context
        gates = words + times.hidden(past.h) + times.context(context)  # (1)
        return glimpse._replace(context=context), _Past(*lstm_gates(gates, past.c))  # (2), (3)

    def start(self, memory: Memory) -> State:
        """Prepare one hypothesis per image; see :meth:`Decoder.start`."""
        values, keys, past = self._prepare(memory)
        images = {"values": values, "keys": Keys.of(keys).units_first}
        if memory.mask is not None:
            images["mask"] = memory.mask
        return State(past._asdict(), images)

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        images = state.images
        attend_once = partial(
            attend,
            keys=images["keys"],
            values=images["values"],
            v=self.score,
            mask=images.get("mask"),
            sampler=self._sampler(*tokens.shape),
        )
        *times, _ = self.products()
        glimpse, past = self._advance(
            self._word_gates(tokens), _Past(**state.hypotheses), attend_once, _Products(*times)
        )
        return Step(self._deep_output(tokens, past.h, glimpse.context), glimpse.alpha, State(past._asdict(), images))

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Score whole captions (B, K, T); see :meth:`Decoder.forward`."""
        b, k, _ = tokens.shape
        packing = Packing.of(tokens)
        memory = memory[packing.order]
        values, keys, past = self._prepare(memory)
        distinct, words = packing.words.unique(return_inverse=True)
        rows = [images * k for images in packing.active]
        gates = F.embedding(words, self._word_gates(distinct)).split(rows)
        steps = additive_attention(
            keys, values, self.score, mask=memory.mask, active=packing.active, captions=k, sampler=self._sampler(b, k)
        )
        past = _Past(*(part.expand(-1, k, -1) for part in past))
        multiply = recurrent_products(self._weights(), rows)
        hidden, context, attention, sampled = [], [], [], []
        for images, words_t, attend_t, times_t in zip(packing.active, gates, steps, multiply, strict=True):
            past = _Past(*(part[:images] for part in past))
            glimpse, past = self._advance(words_t.view(images, k, -1), past, attend_t, _Products(*times_t))
            hidden.append(past.h.flatten(0, 1))
            context.append(glimpse.context.flatten(0, 1))
            attention.append(glimpse.alpha.flatten(0, 1))
            if glimpse.sampled is not None:
                sampled.append(glimpse.sampled.flatten())
        h, z, alpha = (torch.cat(part).index_select(0, packing.rows) for part in (hidden, context, attention))
        logits = self._deep_output(tokens[tokens != PAD], h, z)
        return DecoderOutput(logits, alpha, torch.cat(sampled)[packing.rows] if sampled else None)
