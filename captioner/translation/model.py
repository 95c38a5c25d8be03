"""Translation models: the decoders of captioning, on a memory of words instead of regions or cells.

An LSTM encoder with :class:`~captioner.decoders.show_tell.ShowTell` that starts from its final state is seq2seq
(Sutskever 2014), with :class:`~captioner.decoders.show_attend_tell.ShowAttendTell` it is the attention model (Bahdanau
2015), and word vectors behind a Transformer refiner with the Transformer decoder are the Transformer (Vaswani 2017).

Tensor letters: B texts, S pieces of the source, D features.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from captioner import store
from captioner.decoders import DECODERS, Decoder
from captioner.encoders import REFINERS, Refiner
from captioner.encoders.sequence import TEXT_ENCODERS, TextEncoder, build_text_encoder
from captioner.errors import CheckpointError, ConfigError
from captioner.memory import Memory
from captioner.model import build_decoder, build_refiner, check_part
from captioner.registry import Registry
from captioner.search.config import MAX_WORDS, SearchConfig
from captioner.settings import Settings, validate
from captioner.store.weights import put_weights, read_weights, sized, write_folder
from captioner.text.subwords import Subwords

log = logging.getLogger(__name__)

KIND = store.TRANSLATOR
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u200b]")  # and the space without width, which separates words
_NO_WIDTH = re.compile("[\u00ad\u2060\ufeff]")  # soft hyphens, word joiners, byte order marks


class TextSearchConfig(SearchConfig):
    """Settings of the search for translations, in which "words" are subwords."""

    max_words: int = Field(120, ge=1, le=MAX_WORDS, description="translations are cut after this many pieces")
    length_normalisation: float = Field(
        1.0, ge=0, description=str(SearchConfig.model_fields["length_normalisation"].description)
    )


class TranslationConfig(Settings):
    """The parts of a translation model, named as in the registries."""

    source: str = Field("en", min_length=1, description="source language, as in the suffix of data files")
    target: str = Field("de", min_length=1, description="target language, as in the suffix of data files")
    encoder: dict[str, Any] = Field(
        default_factory=lambda: {"name": "sequence"}, description="name and settings of the text encoder"
    )
    refiner: dict[str, Any] | None = Field(
        None, description="name and settings of the refiner of the encoder's memory; by default there is none"
    )
    decoder: dict[str, Any] = Field(
        default_factory=lambda: {"name": "show_attend_tell"}, description="name and settings of the decoder"
    )
    search: TextSearchConfig = Field(default_factory=TextSearchConfig, description="default settings of the search")
    max_pieces: int = Field(200, ge=1, le=MAX_WORDS, description="longer source texts are cut")

    @field_validator("encoder", "refiner", "decoder")
    @classmethod
    def _check_name(cls, part: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        registries: dict[str, Registry[Any]] = {"encoder": TEXT_ENCODERS, "refiner": REFINERS, "decoder": DECODERS}
        return check_part(part, str(info.field_name), registries[str(info.field_name)])


class TranslationModel(nn.Module):
    """A text encoder, a refiner, a decoder, and a vocabulary for each language."""

    def __init__(self, config: TranslationConfig, source: Subwords, target: Subwords) -> None:
        super().__init__()
        self.config, self.source, self.target = config, source, target
        self.encoder: TextEncoder = build_text_encoder(config.encoder, words=len(source))
        self.refiner: Refiner = build_refiner(config.refiner, features=self.encoder.features)
        self.decoder: Decoder = build_decoder(
            config.decoder,
            features=self.refiner.features,
            words=len(target),
            final_state=None if config.refiner else self.encoder.final_state,  # which no refiner refines
        )

    def read(self, text: str) -> list[int]:
        """Return the tokens of a source text as the encoder reads it.

        White space and control characters become single spaces, and what has no width, such as a byte order mark, is
        left out. There is no ``<bos>``, and the text is cut after ``max_pieces``. ``<eos>`` is a position like any
        other, as in Bahdanau 2015: a decoder can attend to it at the end.
        """
        words = _CONTROL.sub(" ", _NO_WIDTH.sub("", text)).split()
        return self.source.encode(" ".join(words), max_words=self.config.max_pieces)[1:]

    def forward(self, tokens: Tensor) -> Memory:
        """Encode tokens (B, S), padded, to a memory of S vectors, before the refiner."""
        memory: Memory = self.encoder(tokens)
        return memory


def save_translator(
    folder: str | Path,
    model: TranslationModel,
    *,
    card: str = "",
    about: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a model folder atomically, replacing an existing one; see :func:`captioner.model.checkpoint.save_model`.

    Raises:
        CheckpointError: ``folder`` exists and does not hold a translator.
    """
    return write_folder(
        folder,
        KIND,
        weights=model.state_dict(),
        config={"model": model.config.model_dump(mode="json"), "about": about or {}},
        others={store.VOCABULARY: model.target, store.SOURCE_VOCABULARY: model.source},
        card=card,
        dtype=dtype,
    )


def load_translator(name_or_path: str | Path) -> TranslationModel:
    """Read a model in eval mode, float32, on the CPU; :func:`captioner.store.locate` describes valid names.

    Raises:
        CheckpointError: it is missing, damaged, from another program, not a translator, or newer than this program.
    """
    folder = store.locate(name_or_path, kind=KIND)
    log.info("reading the translator in %s", folder)
    config = store.read_whole(folder, KIND)
    source, target = (Subwords.load(folder / name) for name in (store.SOURCE_VOCABULARY, store.VOCABULARY))
    weights = read_weights(folder / store.WEIGHTS)
    try:
        parts = validate(TranslationConfig, config["model"], where=f"{folder / store.CONFIG}")
        with sized(weights, folder / store.CONFIG):
            model = TranslationModel(parts, source, target)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: this program cannot build it ({error})") from None
    put_weights(model, weights, folder)
    return model.eval()
