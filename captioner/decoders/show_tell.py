"""Show and Tell, the Neural Image Caption generator (Vinyals et al. 2015, https://arxiv.org/abs/1411.4555)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from captioner.decoders.decoder import DECODERS, Decoder, DecoderConfig, DecoderOutput, State, Step
from captioner.layers.dropout import Dropout
from captioner.layers.gates import lstm_gates
from captioner.layers.kernels import at_least_float32
from captioner.layers.unroll import Affine, Maps, Recurrent
from captioner.memory import Memory
from captioner.text.vocabulary import PAD


class ShowTellConfig(DecoderConfig):
    """Sizes of the decoder."""

    embedding: int = Field(512, gt=0, description="size of a word's vector, to which the image is projected as well")
    hidden: int = Field(512, gt=0, description="LSTM units")
    dropout: float = Field(0.5, ge=0, lt=1, description="on the image, the word vectors and the LSTM's output")
    feature_dropout: float = Field(
        0.0, ge=0, lt=1, description="on the encoder's pooled feature before it is projected"
    )
    from_state: bool = Field(
        False,
        description="start from the final state and cell of a translator's `sequence` encoder (Sutskever 2014), which "
        "must have `hidden` units, instead of reading the pooled feature before the first word",
    )

    @model_validator(mode="after")
    def _no_feature_to_drop(self) -> ShowTellConfig:
        if self.from_state and self.feature_dropout:
            raise ValueError("feature_dropout: from_state reads no pooled feature; set one of them to 0 or false")
        return self


@DECODERS.register("show_tell")
class ShowTell(Recurrent, Decoder):
    """An LSTM that reads the image once, before the first word.

    Equations: x_{-1} = CNN(I), projected (10); x_t = W_e S_t (11); p_{t+1} = LSTM(x_t) (12).

    With ``from_state`` it is the decoder of seq2seq (Sutskever 2014, https://arxiv.org/abs/1409.3215): instead of (10)
    it starts from the final hidden state and cell of the encoder's LSTM.

    Departures: the LSTM's output is o * tanh(c), as in the paper's released code; the paper's (8) has no tanh. With
    ``from_state`` it has one layer and dropout, where Sutskever 2014 has four layers without, for data sets that are a
    few hundred times smaller.
    """

    Config: ClassVar[type[DecoderConfig]] = ShowTellConfig
    attends: ClassVar[bool] = False
    reads_half = True
    packs = ("image",)
    exact = ("output",)  # rounding it would round the words' probabilities

    def __init__(self, config: ShowTellConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.config = config
        self.feature_dropout = Dropout(config.feature_dropout)
        self.dropout = Dropout(config.dropout)
        if config.from_state:
            self.first_state = 1, config.hidden
        else:
            self.image = nn.Linear(features, config.embedding)
        self.embedding = nn.Embedding(words, config.embedding, padding_idx=PAD)
        self.lstm = nn.LSTM(config.embedding, config.hidden, batch_first=True)
        self.output = nn.Linear(config.hidden, words)
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.zeros_(self.output.bias)
        lstm: Any = self.lstm
        nn.init.orthogonal_(lstm.weight_hh_l0)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
            lstm.bias_ih_l0[config.hidden : 2 * config.hidden].fill_(1.0)  # forget gates start open (Jozefowicz 2015)

    def start(self, memory: Memory) -> State:
        """Equation (10), or the encoder's final state."""
        if self.config.from_state:
            h, c = at_least_float32(_final_state(memory)).unbind(1)  # (B, 1, H), one layer and W = 1
            return State({"h": h, "c": c})
        x = self.dropout(self._image_input(memory)).unsqueeze(1)
        zeros = at_least_float32(x.new_zeros(len(memory), 1, self.config.hidden))
        return self._advance(x, zeros, zeros)

    def step(self, tokens: Tensor, state: State) -> Step:
        """Equations (11) and (12)."""
        after = self._advance(self.dropout(self.embedding(tokens)), **state.hypotheses)
        hidden = after.hypotheses["h"].to(self.embedding.weight.dtype)
        return Step(self.output(self.dropout(hidden)), None, after)

    def _image_input(self, memory: Memory) -> Tensor:
        """Return x_{-1} (B, E) of (10), before dropout."""
        x: Tensor = self.image(self.feature_dropout(memory.pooled))
        return x

    def _advance(self, x: Tensor, h: Tensor, c: Tensor) -> State:
        """Advance the LSTM by the input x (B, W, E), from hidden state and cell (B, W, H)."""
        times = self.products()
        h, c = lstm_gates(c, *times["x"](x), *times["h"](h))
        return State({"h": h, "c": c})

    def maps(self) -> Maps:
        """Return the maps of ``times`` in :meth:`_advance`."""
        lstm: Any = self.lstm
        return {"x": [Affine(lstm.weight_ih_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0)], "h": [Affine(lstm.weight_hh_l0)]}

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Run torch's LSTM over whole captions (B, K, T)."""
        b, k, _ = tokens.shape
        real = tokens != PAD
        tokens, lengths = tokens.flatten(0, 1), real.sum(-1).flatten()
        inputs, first = self.embedding(tokens), None  # (11)
        if self.config.from_state:
            of_captions = _final_state(memory).repeat_interleave(k, dim=0).to(inputs.dtype)  # (B K, 2, 1, H)
            h, c = of_captions.permute(1, 2, 0, 3).contiguous()
            first = h, c
        else:
            image = self._image_input(memory).unsqueeze(1).expand(b, k, -1).reshape(b * k, 1, -1)
            inputs, lengths = torch.cat([image, inputs], dim=1), lengths + 1  # (10)
        inputs = self.dropout(inputs)
        packed = nn.utils.rnn.pack_padded_sequence(
            inputs,
            lengths.clamp(min=1).cpu(),  # torch needs lengths above zero: of an absent caption, one padding is read
            batch_first=True,
            enforce_sorted=False,
        )
        outputs, _ = nn.utils.rnn.pad_packed_sequence(
            self.lstm(packed, first)[0], batch_first=True, total_length=inputs.shape[1]
        )  # (12)
        outputs = outputs[:, -tokens.shape[1] :]  # without the output at the image
        return DecoderOutput(self.output(self.dropout(outputs[real.flatten(0, 1)])), None)


def _final_state(memory: Memory) -> Tensor:
    """Return the final state (B, 2, 1, H) of the encoder's LSTM."""
    if memory.final_state is None:
        raise ValueError("the memory has no final_state; from_state needs a translator's sequence encoder")
    return memory.final_state
