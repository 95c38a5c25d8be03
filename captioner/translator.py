"""Translation: the decoders that tell what a picture shows, on a memory of words instead of places.

An LSTM encoder with :class:`~captioner.decoders.show_tell.ShowTell` is seq2seq (Sutskever 2014), with
:class:`~captioner.decoders.show_attend_tell.ShowAttendTell` it is attention (Bahdanau 2015), and word vectors behind a Transformer refiner with the
Transformer decoder are the Transformer (Vaswani 2017).

Tensor letters: B texts, S pieces of the source, T pieces of the translation, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import torch
from pydantic import Field
from torch import Tensor, nn

from captioner import checkpoint
from captioner.config import Settings, validate
from captioner.data.parallel import collate
from captioner.decoders import Decoder
from captioner.device import choose_device
from captioner.encoders.sequence import TextEncoder, build_text_encoder
from captioner.errors import CheckpointError, ConfigError
from captioner.memory import Memory
from captioner.model import build_decoder
from captioner.search import SEARCHES, Hypothesis, SearchConfig
from captioner.text.subwords import Subwords
from captioner.text.vocabulary import EOS, SPECIAL

KIND = "translator"


class TextSearchConfig(SearchConfig):
    """How translations are looked for; words are pieces of words here."""

    max_words: int = Field(120, ge=1, description="a translation is ended after so many pieces")
    length_normalisation: float = Field(1.0, ge=0, description=str(SearchConfig.model_fields["length_normalisation"].description))


class TranslationConfig(Settings):
    """What a translation model is made of; the names stand in the registries."""

    source: str = Field("en", min_length=1, description="the language it reads, by the name that data files end with")
    target: str = Field("de", min_length=1, description="the language it writes")
    encoder: dict[str, Any] = Field(default_factory=lambda: {"name": "sequence"}, description="name and settings of the text encoder")
    refiner: dict[str, Any] | None = Field(None, description="name and settings of what works on the encoder's memory first; left out, nothing does")
    decoder: dict[str, Any] = Field(default_factory=lambda: {"name": "show_attend_tell"}, description="name and settings of the decoder")
    search: TextSearchConfig = Field(default_factory=TextSearchConfig, description="how translations are looked for unless one says otherwise")
    max_pieces: int = Field(200, ge=1, description="a longer source text is cut")


class TranslationModel(nn.Module):
    """Text encoder, decoder and a vocabulary for each language."""

    def __init__(self, config: TranslationConfig, source: Subwords, target: Subwords) -> None:
        super().__init__()
        self.config, self.source, self.target = config, source, target
        self.encoder: TextEncoder = build_text_encoder(config.encoder, words=len(source))
        self.decoder: Decoder = build_decoder(config.decoder, features=self.encoder.features, words=len(target), refiner=config.refiner)

    def read(self, text: str) -> list[int]:
        """Return the numbers of a source text as the encoder reads it: white space made one space, no ``<bos>``, cut after ``max_pieces``.

        ``<eos>`` is a place like any other, as in Bahdanau 2015: where a decoder looks when it is done.
        """
        return self.source.encode(" ".join(text.split()), max_words=self.config.max_pieces)[1:]

    def forward(self, tokens: Tensor) -> Memory:
        """Encode tokens (B, S), padded, to a memory of S places."""
        memory: Memory = self.encoder(tokens)
        return memory


@dataclass(frozen=True)
class Translation:
    """What a model makes of one text.

    Attributes:
        text: the translation.
        tokens: its T pieces as the model wrote them; one that begins a word begins with a space.
        source_tokens: the S pieces that the model read, ``<eos>`` at the end; fewer than the text has if it was too long for the model.
        log_probability: the sum over the pieces and the end, in nats.
        attention: (T, S) float32, the weight of every source piece for every piece written, each row summing to one; ``None`` if the model does not
            attend.
        others: the next best translations, best first.
    """

    text: str
    tokens: list[str]
    source_tokens: list[str]
    log_probability: float
    attention: Tensor | None = None
    others: list[Translation] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text

    def words(self) -> tuple[list[str], list[str], Tensor | None]:
        """Return the written words, the read words and the attention between them.

        A word is a piece that begins with a space and those after it up to the next such. What a read word gets is the sum over its pieces, what a
        written word gives is the mean over its own, so that rows still sum to one.
        """
        written, rows = _join(self.tokens)
        read, columns = _join(self.source_tokens)
        if self.attention is None:
            return written, read, None
        wide = self.attention.new_zeros(len(self.tokens), len(read)).index_add(1, torch.tensor(columns, dtype=torch.long), self.attention)
        row = torch.tensor(rows, dtype=torch.long)
        sums = wide.new_zeros(len(written), len(read)).index_add(0, row, wide)
        return written, read, sums / torch.bincount(row, minlength=len(written)).unsqueeze(1)

    def to_dict(self, *, attention: bool = False) -> dict[str, Any]:
        """Return the translation as plain values for JSON; the attention matrix and the source's pieces only if asked for."""
        value: dict[str, Any] = {"translation": self.text, "tokens": self.tokens, "log_probability": round(self.log_probability, 4)}
        if self.others:
            value["others"] = [{"translation": other.text, "log_probability": round(other.log_probability, 4)} for other in self.others]
        if attention and self.attention is not None:
            value["source_tokens"] = self.source_tokens
            value["attention"] = [[round(weight, 6) for weight in row] for row in self.attention.tolist()]
        return value


def _join(pieces: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the words that pieces make, and for every piece the number of its word."""
    words: list[str] = []
    numbers = []
    for piece in pieces:
        if piece.startswith(" ") or piece == SPECIAL[EOS] or not words:
            words.append(piece.removeprefix(" "))
        else:
            words[-1] += piece
        numbers.append(len(words) - 1)
    return words, numbers


class Translator:
    """Translates texts, one sentence each, and shows which words it looked at for every word it wrote.

        translator = Translator.from_pretrained("runs/multi30k_attention/best")
        print(translator("Two dogs run through the snow.").text)

    Args:
        model: the model; it is moved and put into eval mode.
        device: a torch device, or ``auto``.
        search: settings that differ from the model's own, for example ``width=1``.
    """

    def __init__(self, model: TranslationModel, *, device: str = "auto", **search: Any) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.search = validate(TextSearchConfig, {**model.config.search.model_dump(), **search}, where="search")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, device: str = "auto", **search: Any) -> Translator:
        """Load a shipped model by name, a model folder, or ``user/model`` from the Hugging Face hub.

        Raises:
            CheckpointError: there is no such model, or it is damaged.
        """
        return cls(load_translator(name_or_path), device=device, **search)

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write the model to a folder that :meth:`from_pretrained` reads."""
        return save_translator(folder, self.model, card=card)

    @overload
    def __call__(self, texts: str, *, batch_size: int = ...) -> Translation: ...
    @overload
    def __call__(self, texts: list[str] | tuple[str, ...], *, batch_size: int = ...) -> list[Translation]: ...
    def __call__(self, texts: str | list[str] | tuple[str, ...], *, batch_size: int = 32) -> Translation | list[Translation]:
        """Translate one text, or a list of them; a text without a word is translated by nothing.

        Args:
            texts: best a sentence each, as the models learn from sentences.
            batch_size: texts of like length that are searched at once.
        """
        if isinstance(texts, str):
            return self([texts])[0]
        sources = [self.model.read(text) for text in texts]
        results: list[Translation | None] = [Translation("", [], [], 0.0) if source == [EOS] else None for source in sources]
        order = sorted((index for index, result in enumerate(results) if result is None), key=lambda index: len(sources[index]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for index, translation in zip(chosen, self._translate([sources[index] for index in chosen]), strict=True):
                results[index] = translation
        return [result for result in results if result is not None]

    @torch.inference_mode()
    def _translate(self, sources: list[list[int]]) -> list[Translation]:
        memory = self.model(collate(sources).to(self.device))
        search = SEARCHES["greedy" if self.search.width == 1 else "beam"]
        return [self._translation(found, source) for found, source in zip(search(self.model.decoder, memory, self.search), sources, strict=True)]

    def _translation(self, hypotheses: list[Hypothesis], source: list[int]) -> Translation:
        read = self.model.source.decode(source) + [SPECIAL[EOS]] * (source[-1] == EOS)
        translations = [
            Translation(
                text=self.model.target.sentence(hypothesis.words),
                tokens=self.model.target.decode(hypothesis.words),
                source_tokens=read,
                log_probability=hypothesis.log_probability,
                attention=None if hypothesis.attention is None else hypothesis.attention[:, : len(source)],
            )
            for hypothesis in hypotheses
        ]
        translations[0].others.extend(translations[1:])
        return translations[0]


def save_translator(
    folder: str | Path, model: TranslationModel, *, card: str = "", about: dict[str, Any] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Write a model folder, whole or not at all; one that is there is replaced. See :func:`captioner.checkpoint.save_model`.

    Raises:
        CheckpointError: ``folder`` exists and is not a translator's.
    """
    return checkpoint.write_folder(
        folder,
        KIND,
        weights=model.state_dict(),
        config={"model": model.config.model_dump(mode="json"), "about": about or {}},
        vocabularies={checkpoint.VOCABULARY: model.target, checkpoint.SOURCE_VOCABULARY: model.source},
        card=card,
        dtype=dtype,
    )


def load_translator(name_or_path: str | Path) -> TranslationModel:
    """Read a model in eval mode, float32, on the CPU; see :func:`captioner.checkpoint.locate` for what it may be called.

    Raises:
        CheckpointError: it is missing, damaged, foreign, no translator, or newer than this program.
    """
    folder = checkpoint.locate(name_or_path, kind=KIND)
    config = checkpoint.read_config(folder, KIND)
    source, target = (Subwords.load(folder / name) for name in (checkpoint.SOURCE_VOCABULARY, checkpoint.VOCABULARY))
    try:
        model = TranslationModel(validate(TranslationConfig, config["model"], where=f"{folder / checkpoint.CONFIG}"), source, target)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: its config is not one of this program ({error})") from None
    checkpoint.put_weights(model, checkpoint.read_weights(folder), folder)
    return model.eval()
