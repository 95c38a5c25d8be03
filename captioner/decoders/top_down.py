"""Top-down attention (Anderson et al. 2018, https://arxiv.org/abs/1707.07998, section 3.2)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from captioner.decoders.base import DECODERS, Decoder, DecoderConfig, DecoderOutput, State, Step
from captioner.layers.additive import Attend, Keys, additive_attention, attend
from captioner.layers.dropout import Dropout
from captioner.layers.kernels import wide
from captioner.layers.packing import Packing
from captioner.layers.positions import Geometry, rename_positions
from captioner.layers.recurrence import Product, Recurrent, lstm_gates, recurrent_products
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
        description="size to which the places' features are projected first; 0: no projection, as in the paper",
    )
    geometry: bool = Field(False, description="tell where in the picture each place is")
    dropout: float = Field(
        0.5, ge=0, lt=1, description="on the places, the word vectors and the language LSTM's output"
    )

    _rename_positions = model_validator(mode="before")(rename_positions)


class _Past(NamedTuple):
    """Hidden states and cells of the attention LSTM (1) and the language LSTM (2).

    They are (B, K, H) each, at least 32 bits.
    """

    h1: Tensor
    c1: Tensor
    h2: Tensor
    c2: Tensor

    @classmethod
    def zeros(cls, like: Tensor, *shape: int) -> _Past:
        """Return the first state: zeros of a shape."""
        return cls(*(like.new_zeros(shape) for _ in cls._fields))


class _Products(NamedTuple):
    """The products of every step.

    Attributes:
        language_to_attention: of h2_{t-1}, for the attention LSTM's gates.
        attention_recurrent: of h1_{t-1}, for the attention LSTM's gates.
        query: of h1_t, for the attention network.
        input_to_language: of [v_hat_t, h1_t], for the language LSTM's gates.
        language_recurrent: of h2_{t-1}, for the language LSTM's gates.
    """

    language_to_attention: Product
    attention_recurrent: Product
    query: Product
    input_to_language: Product
    language_recurrent: Product


@DECODERS.register("top_down")
class TopDown(Recurrent, Decoder):
    """Two LSTMs: one controls the attention, the other predicts the words.

    Equations of the paper: the attention LSTM (1) reads x1_t = [h2_{t-1}, v_bar, W_e Pi_t] (2); a_{i,t} = w_a .
    tanh(W_va v_i + W_ha h1_t) (3), alpha_t = softmax(a_t) (4), v_hat_t = sum_i alpha_{i,t} v_i (5); the language LSTM
    reads x2_t = [v_hat_t, h1_t] (6); the next word's probabilities are softmax(W_p h2_t + b_p) (7). Of the attention
    LSTM's input weights, the part for h2_{t-1} is ``attention_lstm.weight_ih``, those for v_bar and the word are
    ``mean`` and ``word``: the latter two do not depend on the previous step. v_bar is the memory's pooled vector.

    The paper does not say how the LSTMs start; as in the authors' code their states are zero and their forget gates
    open, and neither words nor features pass through a ReLU.

    Departures: places and v_bar are first projected to ``values`` features, by one linear layer, so that v_bar stays
    the mean of the places (the paper uses all 2048 features of its regions; set ``values: 0`` for its form); dropout,
    which the paper does not use; ``geometry`` adds a learned map of its box to each place (not to v_bar).
    """

    Config: ClassVar[type[DecoderConfig]] = TopDownConfig
    attends: ClassVar[bool] = True
    plain: ClassVar[tuple[str, ...]] = ("query", "word")

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
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.uniform_(self.score, -(self.score.numel() ** -0.5), self.score.numel() ** -0.5)
        nn.init.zeros_(self.output.bias)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
            for lstm in (self.attention_lstm, self.language_lstm):
                nn.init.orthogonal_(lstm.weight_hh)
                # Forget gates start open (Jozefowicz 2015).
                lstm.bias_ih[self.config.hidden : 2 * self.config.hidden].fill_(1.0)

    def _prepare(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Compute, once per image, values (B, N, D), keys (B, N, A) and v_bar's part of the gates (B, 4H)."""
        values = self.values(memory.vectors if self.geometry is None else memory.vectors + self.geometry(memory))
        mean = self.values(memory.pooled)
        # One dropout mask for all places of an image and for their mean: a dropped feature stays dropped wherever the
        # decoder attends.
        kept = self.dropout(torch.ones_like(mean))
        values = values * kept.unsqueeze(1)
        return values, self.keys(values), wide(self.mean(mean * kept))

    def _word_gates(self, tokens: Tensor) -> Tensor:
        """Return the words' (...,) part of the attention LSTM's gates (..., 4H), biases included.

        Training calls this once for every distinct word of a batch, so that all its occurrences share one dropout mask.
        """
        bias = self.attention_lstm.bias_ih + self.attention_lstm.bias_hh
        return self.products()[-1](self.dropout(self.embedding(tokens))) + bias

    def search_weights(self) -> list[Tensor]:
        """See :meth:`Recurrent.search_weights`; the last is the words', for the attention LSTM's gates."""
        return [*self._weights(), self.word.weight]

    def _weights(self) -> list[Tensor]:
        """Return the weights of a step's products, in the order of :class:`_Products`."""
        attention, language = self.attention_lstm, self.language_lstm
        return [attention.weight_ih, attention.weight_hh, self.query.weight, language.weight_ih, language.weight_hh]

    def _advance(
        self, words: Tensor, mean: Tensor, past: _Past, attend: Attend, times: _Products
    ) -> tuple[Tensor, _Past]:
        """Advance by one word.

        Args:
            words: (B, K, 4H) the word's part of the attention LSTM's gates.
            mean: (B, 4H) v_bar's part of them.
            past: the states before the step.
            attend: the attention of this step.
            times: the products of this step.

        Returns:
            alpha (B, K, N) and the new states.
        """
        gates = words + mean.unsqueeze(1) + times.language_to_attention(past.h2) + times.attention_recurrent(past.h1)
        h1, c1 = lstm_gates(gates, past.c1)  # (1), (2)
        v_hat, alpha, _ = attend(times.query(h1))  # (3)-(5)
        gates = times.input_to_language(torch.cat([v_hat, h1], dim=-1)) + times.language_recurrent(past.h2)
        h2, c2 = lstm_gates(gates + self.language_lstm.bias_ih + self.language_lstm.bias_hh, past.c2)  # (6)
        return alpha, _Past(h1, c1, h2, c2)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Equation (7): h2 (..., H) -> logits (..., V)."""
        logits: Tensor = self.output(self.dropout(hidden.to(self.embedding.weight.dtype)))
        return logits

    def start(self, memory: Memory) -> State:
        """Prepare one hypothesis per image; see :meth:`Decoder.start`."""
        values, keys, mean = self._prepare(memory)
        images = {"values": values, "keys": Keys.of(keys).units_first, "mean": mean}
        if memory.mask is not None:
            images["mask"] = memory.mask
        return State(_Past.zeros(mean, len(memory), 1, self.config.hidden)._asdict(), images)

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        images = state.images
        attend_once = partial(
            attend, keys=images["keys"], values=images["values"], v=self.score, mask=images.get("mask")
        )
        *times, _ = self.products()
        alpha, past = self._advance(
            self._word_gates(tokens),
            images["mean"],
            _Past(**state.hypotheses),
            attend_once,
            _Products(*times),
        )
        return Step(self._logits(past.h2), alpha, State(past._asdict(), images))

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Score whole captions (B, K, T); see :meth:`Decoder.forward`."""
        k = tokens.shape[1]
        packing = Packing.of(tokens)
        memory = memory[packing.order]
        values, keys, mean = self._prepare(memory)
        distinct, words = packing.words.unique(return_inverse=True)
        rows = [images * k for images in packing.active]
        gates = F.embedding(words, self._word_gates(distinct)).split(rows)
        multiply = recurrent_products(self._weights(), rows)
        steps = additive_attention(keys, values, self.score, mask=memory.mask, active=packing.active, captions=k)
        past = _Past.zeros(mean, len(memory), k, self.config.hidden)
        hidden, attention = [], []
        for images, words_t, attend_t, times_t in zip(packing.active, gates, steps, multiply, strict=True):
            past = _Past(*(part[:images] for part in past))
            alpha, past = self._advance(words_t.view(images, k, -1), mean[:images], past, attend_t, _Products(*times_t))
            hidden.append(past.h2.flatten(0, 1))
            attention.append(alpha.flatten(0, 1))
        h2, alpha = (torch.cat(part).index_select(0, packing.rows) for part in (hidden, attention))
        return DecoderOutput(self._logits(h2), alpha)
