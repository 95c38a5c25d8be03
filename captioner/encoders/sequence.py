"""Encoders of text: from a sentence to a memory with one vector per word.

Tensor letters: B sentences, S words of the longest one, E features of a word's vector, H units of an LSTM in each
direction, D features, V words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

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
        final_state: layers and units of the final state in its memory; ``None`` if there is none.
    """

    Config: ClassVar[type[Settings]]
    features: int
    final_state: tuple[int, int] | None = None

    @abstractmethod
    def forward(self, tokens: Tensor) -> Memory:
        """Encode tokens (B, S), in each row at least one word, then padding, which is masked."""


TEXT_ENCODERS: Registry[type[TextEncoder]] = Registry("text encoder")


class SequenceConfig(Settings):
    """Sizes of the recurrent encoder."""

    embedding: int = Field(256, gt=0, description="E: size of a word's vector")
    hidden: int = Field(256, gt=0, description="H: LSTM units in each direction")
    direction: Literal["both", "forward", "backward"] = Field(
        "both",
        description="in which it reads the source: an LSTM in each direction, D = 2H (Bahdanau 2015), or one, D = H, "
        "from the first word to the last or from the last to the first (Sutskever 2014)",
    )
    layers: int = Field(1, ge=1, description="number of LSTM layers")
    dropout: float = Field(0.3, ge=0, lt=1, description="on the word vectors and between layers")


@TEXT_ENCODERS.register("sequence")
class SequenceEncoder(TextEncoder):
    """An LSTM over the source words: the encoder of seq2seq and of Bahdanau's attention.

    The vector of a word is the hidden state at the word. In both directions it is Bahdanau 2015's annotation (section
    3.2, https://arxiv.org/abs/1409.0473): the states of the forward and of the backward LSTM. The pooled vector is the
    last state of each; Bahdanau's decoder starts from that of the backward LSTM (appendix A.2.2).

    The final state has hidden state and cell of every layer after the last word that the LSTM reads. Sutskever 2014
    (https://arxiv.org/abs/1409.3215) starts the decoder from it, and reads the source backward, so the first word, with
    which the translation usually begins, is read last. In both directions a layer's final state is that of the forward
    LSTM followed by that of the backward LSTM, 2H units.

    Departures: backward, ``<eos>`` is read first, as the whole sequence is reversed. Bahdanau uses gated recurrent
    units; here all recurrent models are LSTMs. Neither paper uses dropout, which small data sets need.
    """

    Config: ClassVar[type[Settings]] = SequenceConfig

    def __init__(self, config: SequenceConfig, *, words: int) -> None:
        super().__init__()
        self.config = config
        self.features = config.hidden * (2 if config.direction == "both" else 1)
        self.final_state = config.layers, self.features
        self.embedding = nn.Embedding(words, config.embedding, padding_idx=PAD)
        self.dropout = Dropout(config.dropout)
        self.lstm = nn.LSTM(
            config.embedding,
            config.hidden,
            config.layers,
            batch_first=True,
            bidirectional=config.direction == "both",
            dropout=config.dropout if config.layers > 1 else 0.0,  # between layers; torch warns if there is only one
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
        """Encode tokens (B, S) to vectors (B, S, D), zero at padding, pooled (B, D) and the final state.

        Raises:
            RuntimeError: a sentence has no word.
        """
        mask, backward = tokens != PAD, self.config.direction == "backward"
        words = self.dropout(self.embedding(reverse(tokens, mask) if backward else tokens))
        packed = nn.utils.rnn.pack_padded_sequence(words, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        states, last = self.lstm(packed)
        vectors, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])
        # torch gives (layers * directions, B, H) for hidden state and cell.
        by_layer = torch.stack(last).unflatten(1, (self.config.layers, -1))
        final_state = by_layer.permute(3, 0, 1, 2, 4).flatten(3)
        return Memory(
            reverse(vectors, mask) if backward else vectors, final_state[:, 0, -1], mask, final_state=final_state
        )


def reverse(sentences: Tensor, mask: Tensor) -> Tensor:
    """Reverse the words of each sentence; the padding stays at the end.

    Args:
        sentences: (B, S, ...) tokens or vectors.
        mask: (B, S) bool, true at the words, which come before the padding.
    """
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    order = torch.where(mask, mask.sum(1, keepdim=True) - 1 - positions, positions)
    return sentences[torch.arange(len(mask), device=mask.device).unsqueeze(1), order]


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
