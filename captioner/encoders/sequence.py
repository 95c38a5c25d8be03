"""Encoders of text: from a sentence to a memory with one vector per word.

Tensor letters: B sentences, S words of the longest one, E features of a word's vector, H units of an LSTM in each
direction, D features, V words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from captioner.layers.dropout import Dropout
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.settings import Settings, validate
from captioner.text.vocabulary import PAD


class TextEncoder(nn.Module, ABC):
    """Turns sentences into a memory with one vector per word.

    A subclass has a ``Config`` and is built as ``TextEncoder(config, words=V)``.

    Attributes:
        features: D.
    """

    Config: ClassVar[type[Settings]]
    features: int

    @abstractmethod
    def forward(self, tokens: Tensor) -> Memory:
        """Encode tokens (B, S), in each row at least one word, then padding, which is masked."""


TEXT_ENCODERS: Registry[type[TextEncoder]] = Registry("text encoder")


class SequenceConfig(Settings):
    """Sizes of the recurrent encoder."""

    embedding: int = Field(256, gt=0, description="E: size of a word's vector")
    hidden: int = Field(256, gt=0, description="H: LSTM units in each direction; D is twice as many")
    layers: int = Field(1, ge=1, description="number of LSTM layers")
    dropout: float = Field(0.3, ge=0, lt=1, description="on the word vectors and between layers")


@TEXT_ENCODERS.register("sequence")
class SequenceEncoder(TextEncoder):
    """A bidirectional LSTM over the source words: the encoder of seq2seq and of Bahdanau's attention.

    The vector of a word is Bahdanau 2015's annotation (section 3.2, https://arxiv.org/abs/1409.0473): the states of the
    forward and of the backward LSTM at the word. The pooled vector, from which a decoder starts, is the last state of
    each.

    A decoder that sees only the pooled vector is seq2seq (Sutskever 2014, https://arxiv.org/abs/1409.3215). Its encoder
    reads the source in reverse and passes on its last state: the backward half of the pooled vector, from which
    Bahdanau's decoder starts too (appendix A.2.2). A setting to reverse the source would be redundant.

    Departures: the forward half is included. Bahdanau uses gated recurrent units. Sutskever's four layers pass hidden
    state and cell to the four layers of the decoder; the decoders here learn one linear map of the pooled vector.
    Dropout is newer than both papers.
    """

    Config: ClassVar[type[Settings]] = SequenceConfig

    def __init__(self, config: SequenceConfig, *, words: int) -> None:
        super().__init__()
        self.config, self.features = config, 2 * config.hidden
        self.embedding = nn.Embedding(words, config.embedding, padding_idx=PAD)
        self.dropout = Dropout(config.dropout)
        self.lstm = nn.LSTM(
            config.embedding,
            config.hidden,
            config.layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.layers > 1 else 0.0,  # between layers only; torch warns if there is one
        )
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight_hh"):
                nn.init.orthogonal_(parameter)
            elif name.startswith("bias_ih"):  # forget gates start open (Jozefowicz 2015)
                with torch.no_grad():
                    parameter[config.hidden : 2 * config.hidden].fill_(1.0)

    def forward(self, tokens: Tensor) -> Memory:
        """Encode tokens (B, S) to vectors (B, S, 2H), zero at padding, and pooled (B, 2H).

        Raises:
            RuntimeError: a sentence has no word.
        """
        mask = tokens != PAD
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(self.embedding(tokens)), mask.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, (last, _) = self.lstm(packed)
        vectors, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])
        # The last states of the top layer's two directions.
        return Memory(vectors, torch.cat([last[-2], last[-1]], dim=-1), mask)


class WordConfig(Settings):
    """Sizes of the encoder without context."""

    embedding: int = Field(256, gt=0, description="D: size of a word's vector")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="on the word vectors; the Transformer refiner has its own, on their sum with the positions",
    )


@TEXT_ENCODERS.register("words")
class WordEncoder(TextEncoder):
    """Word vectors alone, as the input of a refiner such as the Transformer's encoder.

    Vaswani 2017 (https://arxiv.org/abs/1706.03762), section 3.4: word vectors times the square root of D. The refiner
    adds positions (section 3.5); without a refiner the order of the words is lost. The pooled vector is the mean.
    """

    Config: ClassVar[type[Settings]] = WordConfig

    def __init__(self, config: WordConfig, *, words: int) -> None:
        super().__init__()
        self.config, self.features = config, config.embedding
        self.embedding = nn.Embedding(words, config.embedding, padding_idx=PAD)
        self.dropout = Dropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=config.embedding**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()

    def forward(self, tokens: Tensor) -> Memory:
        """Encode tokens (B, S) to vectors (B, S, D), zero at padding, and pooled (B, D)."""
        mask = tokens != PAD
        vectors = self.dropout(self.embedding(tokens) * self.features**0.5) * mask.unsqueeze(-1)
        return Memory(vectors, vectors.sum(1) / mask.sum(1, keepdim=True), mask)


def build_text_encoder(part: dict[str, Any], *, words: int) -> TextEncoder:
    """Build a text encoder with new weights.

    Args:
        part: its ``name`` (``sequence`` by default) and settings.
        words: V, the size of the source's vocabulary.

    Raises:
        ConfigError: the name or a setting is unknown.
    """
    settings = {"name": "sequence"} | part
    kind: Any = TEXT_ENCODERS[str(settings.pop("name"))]
    encoder: TextEncoder = kind(validate(kind.Config, settings, where="encoder"), words=words)
    return encoder
