"""Translation: the decoders that tell what a picture shows, on a memory of words instead of places.

An LSTM encoder with :class:`~captioner.decoders.show_tell.ShowTell` is seq2seq (Sutskever 2014), with
:class:`~captioner.decoders.show_attend_tell.ShowAttendTell` it is attention (Bahdanau 2015), and word vectors behind a Transformer refiner with the
Transformer decoder are the Transformer (Vaswani 2017).

Tensor letters: B texts, S pieces of the source, T pieces of the translation, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from captioner import checkpoint
from captioner.backend import choose_device
from captioner.caption import Caption
from captioner.caption import Translation as Translation  # what a translator gives is also known here
from captioner.data.parallel import collate
from captioner.decoders import DECODERS, Decoder
from captioner.encoders import REFINERS
from captioner.encoders.sequence import TEXT_ENCODERS, TextEncoder, build_text_encoder
from captioner.errors import CheckpointError, ConfigError
from captioner.memory import Memory
from captioner.model import build_decoder, check_part
from captioner.registry import Registry
from captioner.search import SEARCHES, Hypothesis, SearchConfig
from captioner.settings import Settings, validate
from captioner.text.subwords import Subwords
from captioner.text.vocabulary import EOS, SPECIAL

KIND = checkpoint.TRANSLATOR
E = TypeVar("E")


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

    @field_validator("encoder", "refiner", "decoder")
    @classmethod
    def _known(cls, part: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        registries: dict[str, Registry[Any]] = {"encoder": TEXT_ENCODERS, "refiner": REFINERS, "decoder": DECODERS}
        return check_part(part, str(info.field_name), registries[str(info.field_name)])


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


class Translator:
    """Translates texts, one sentence each, and shows which words it looked at for every word it wrote.

        translator = Translator.from_pretrained("runs/multi30k_attention/best")
        print(translator("Two dogs run through the snow.").text)

    Captions get their translations by :meth:`captions`; the shipped translator of a language is found by :meth:`for_language`:

        caption = Translator.for_language("de").caption(captioner("photo.jpg"))
        print(caption.translation.text)
        caption.translation.attention   # (T, S): which pieces of the caption it looked at for every piece it wrote
        caption.translation.words()     # the same for whole words

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

    @classmethod
    def for_language(cls, language: str, *, source: str = "en", device: str = "auto", **search: Any) -> Translator:
        """Load the shipped translator into a language, ``de`` for example, from another.

        Raises:
            CheckpointError: none of those that come with the program writes it, or it is damaged.
        """
        there = languages(source)
        if language.lower() not in there:
            known = ", ".join(there) or "none"
            raise CheckpointError(
                f"no translator from {source!r} into {language!r} comes with this copy of captioner. Languages that there are: {known}; "
                "or name a translator's folder (--translator); train one with: captioner train"
            )
        return cls.from_pretrained(there[language.lower()], device=device, **search)

    @property
    def language(self) -> str:
        """The language that it writes."""
        return self.model.config.target

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
        translations = [Translation("", [], [], 0.0, source=text, language=self.language) for text in texts]
        order = sorted((index for index, source in enumerate(sources) if source != [EOS]), key=lambda index: len(sources[index]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for index, hypotheses in zip(chosen, self._search([sources[index] for index in chosen]), strict=True):
                translations[index] = self._translation(hypotheses, sources[index], texts[index])
        return translations

    def caption(self, caption: Caption) -> Caption:
        """Return a caption with its translation, and its next best captions with theirs."""
        return next(self.captions([caption]))

    def captions(self, captions: Iterable[Caption | E], *, batch_size: int = 8) -> Iterator[Caption | E]:
        """Give captions their translations, and their next best captions theirs, with flat memory and in their order.

        Args:
            captions: walked lazily, for example what :meth:`captioner.pipeline.Captioner.stream` gives; whatever is no caption, such as a picture's
                error, is passed on in its place.
            batch_size: how many are waited for, and then translated at once.
        """
        walk = iter(captions)
        while batch := list(islice(walk, batch_size)):
            texts = [one.text for caption in batch if isinstance(caption, Caption) for one in (caption, *caption.others)]
            translations = iter(self(texts))
            for caption in batch:
                if isinstance(caption, Caption):
                    first = next(translations)
                    others = [replace(other, translation=next(translations)) for other in caption.others]
                    yield replace(caption, translation=first, others=others)
                else:
                    yield caption

    @torch.inference_mode()
    def _search(self, sources: list[list[int]]) -> list[list[Hypothesis]]:
        memory = self.model(collate(sources).to(self.device))
        return SEARCHES["greedy" if self.search.width == 1 else "beam"](self.model.decoder, memory, self.search)

    def _translation(self, hypotheses: list[Hypothesis], source: list[int], text: str) -> Translation:
        read = self.model.source.decode(source) + [SPECIAL[EOS]] * (source[-1] == EOS)
        translations = [
            Translation(
                text=self.model.target.sentence(hypothesis.words),
                tokens=self.model.target.decode(hypothesis.words),
                source_tokens=read,
                log_probability=hypothesis.log_probability,
                attention=None if hypothesis.attention is None else hypothesis.attention[:, : len(source)],
                source=text,
                language=self.language,
            )
            for hypothesis in hypotheses
        ]
        translations[0].others.extend(translations[1:])
        return translations[0]


def languages(source: str = "en") -> dict[str, str]:
    """Return the languages into which shipped translators translate from ``source``, each with its translator's name; of several the first."""
    found: dict[str, str] = {}
    for name, folder in checkpoint.shipped(KIND).items():
        model = checkpoint.read_config(folder, KIND)["model"]
        if model.get("source") == source:
            found.setdefault(str(model.get("target")).lower(), name)
    return found


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
