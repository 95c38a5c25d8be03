"""The translator: from texts, or captions, to their translations.

Tensor letters: T pieces of the translation, S pieces of the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, overload

import torch

from captioner import store
from captioner.caption import Caption
from captioner.layers.linear import fast
from captioner.machine.backend import choose_device
from captioner.search.config import Hypothesis
from captioner.search.search import search as find
from captioner.settings import check_numbers
from captioner.store import translator_into
from captioner.text.vocabulary import EOS, SPECIAL
from captioner.translation.context import ContextReader
from captioner.translation.model import (
    KIND,
    TranslationModel,
    load_translator,
    save_translator,
)
from captioner.translation.pairs import collate
from captioner.translation.result import Translation

E = TypeVar("E")


class Translator:
    """Translates texts of one sentence each, and returns the attention of every word to the source words.

        translator = Translator.from_pretrained("runs/multi30k_attention/best")
        print(translator("Two dogs run through the snow.").text)

    :meth:`captions` adds translations to captions; :meth:`for_language` finds the shipped translator of a language:

        caption = Translator.for_language("de").caption(captioner("photo.jpg"))
        print(caption.translation.text)
        caption.translation.attention   # (T, S): attention of each translated piece to the pieces of the caption
        caption.translation.words()     # the same for whole words

    A model with relative positions (Transformer-XL) can read previous lines: ``translator(lines, context=2)``.

    Args:
        model: the model; it is moved to the device and put into eval mode.
        device: a torch device, or ``auto``.
        search: search settings that replace the model's own, for example ``width=1``.

    Attributes:
        about: data, recipe and scores of the model, from its config; empty if it was not loaded.
    """

    def __init__(self, model: TranslationModel, *, device: str = "auto", **search: Any) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.about: dict[str, Any] = {}
        self._refiner, self._decoder = fast(model.refiner, torch.float32), fast(model.decoder, torch.float32)
        self.search = model.config.search.changed(**search)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, device: str = "auto", **search: Any) -> Translator:
        """Load a shipped model by name, a model folder, or ``user/model[@revision]`` from the Hugging Face hub.

        Raises:
            CheckpointError: there is no such model, or it is damaged.
        """
        folder = store.locate(name_or_path, kind=KIND)
        translator = cls(load_translator(folder), device=device, **search)
        translator.about = store.about(folder)
        return translator

    @classmethod
    def for_language(cls, language: str, *, source: str = "en", device: str = "auto", **search: Any) -> Translator:
        """Load the shipped translator into a language, for example ``de``.

        Raises:
            CheckpointError: no shipped translator writes the language, or it is damaged.
        """
        return cls.from_pretrained(translator_into(language, source), device=device, **search)

    @property
    def language(self) -> str:
        """The language it writes."""
        return self.model.config.target

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write the model to a folder that :meth:`from_pretrained` reads; see :meth:`Captioner.save_pretrained`."""
        return save_translator(folder, self.model, card=card, about=self.about)

    def push_to_hub(self, name: str, *, private: bool = False, card: str = "") -> str:
        """Upload the model to the Hugging Face hub and return its address; see :meth:`Captioner.push_to_hub`."""
        return store.push_saved(self.save_pretrained, name, private=private, card=card)

    @overload
    def __call__(self, texts: str, *, batch_size: int = ..., context: int = ...) -> Translation: ...
    @overload
    def __call__(
        self, texts: list[str] | tuple[str, ...], *, batch_size: int = ..., context: int = ...
    ) -> list[Translation]: ...
    def __call__(
        self, texts: str | list[str] | tuple[str, ...], *, batch_size: int = 32, context: int = 0
    ) -> Translation | list[Translation]:
        """Translate a text or a list of texts; the translation of a text without words is empty.

        Args:
            texts: preferably one sentence each, like the training data.
            batch_size: texts of similar length in a batch.
            context: see :meth:`stream`.

        Raises:
            ConfigError: the model cannot read a context, or a number is too small or too large.
        """
        if isinstance(texts, str):
            return self([texts], batch_size=batch_size, context=context)[0]
        check_numbers(batch_size=batch_size)
        if context:
            return list(self.stream(texts, batch_size=batch_size, context=context))
        sources = [self.model.read(text) for text in texts]
        translations = [self._empty(text) for text in texts]
        order = sorted(
            (index for index, source in enumerate(sources) if source != [EOS]), key=lambda index: len(sources[index])
        )
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for index, hypotheses in zip(chosen, self._search([sources[index] for index in chosen]), strict=True):
                translations[index] = self._translation(hypotheses, sources[index], texts[index])
        return translations

    def stream(self, texts: Iterable[str], *, batch_size: int = 32, context: int = 0) -> Iterator[Translation]:
        """Translate any number of texts in constant memory, in their order.

        Args:
            texts: iterated lazily, for example the lines of a file.
            batch_size: texts that are read at once.
            context: number of previous texts that blocks with relative positions attend to
                (:mod:`captioner.translation.context`); a text without words ends the context. Each translation waits
                for the previous one; only texts separated by ones without words are translated in parallel.

        Raises:
            ConfigError: the model cannot read a context, or a number is too small or too large.
        """
        check_numbers(batch_size=batch_size)
        reader: ContextReader | None = None
        if context:
            reader = ContextReader(self.model, self._refiner, self._decoder, self.search, context=context)
        return self._stream(iter(texts), batch_size, reader)

    def _stream(self, texts: Iterator[str], batch_size: int, reader: ContextReader | None) -> Iterator[Translation]:
        while batch := list(islice(texts, batch_size)):
            if reader is None:
                yield from self(batch, batch_size=batch_size)
                continue
            sources = [self.model.read(text) for text in batch]
            found = reader([None if source == [EOS] else source for source in sources])
            for text, source, hypotheses in zip(batch, sources, found, strict=True):
                yield self._empty(text) if hypotheses is None else self._translation(hypotheses, source, text)

    def caption(self, caption: Caption) -> Caption:
        """Return a caption with its translation and those of its next best captions."""
        return next(self.captions([caption]))

    def captions(self, captions: Iterable[Caption | E], *, batch_size: int = 8) -> Iterator[Caption | E]:
        """Add translations to captions and their next best captions, in order and with constant memory.

        Args:
            captions: iterated lazily, for example from :meth:`Captioner.stream`; other items, such as the error of an
                image, are passed through.
            batch_size: captions in a batch.

        Raises:
            ConfigError: a number is too small or too large.
        """
        check_numbers(batch_size=batch_size)
        iterator = iter(captions)
        while batch := list(islice(iterator, batch_size)):
            texts = [
                one.text for caption in batch if isinstance(caption, Caption) for one in (caption, *caption.others)
            ]
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
        return find(self._decoder, self._refiner(memory), self.search)

    def _empty(self, text: str) -> Translation:
        return Translation("", [], [], 0.0, source=text, language=self.language)

    def _translation(self, hypotheses: list[Hypothesis], source: list[int], text: str) -> Translation:
        source_tokens = self.model.source.decode(source) + [SPECIAL[EOS]] * (source[-1] == EOS)
        translations = [
            Translation(
                text=self.model.target.sentence(hypothesis.words),
                tokens=self.model.target.decode(hypothesis.words),
                source_tokens=source_tokens,
                log_probability=hypothesis.log_probability,
                attention=None if hypothesis.attention is None else hypothesis.attention[:, : len(source)],
                source=text,
                language=self.language,
            )
            for hypothesis in hypotheses
        ]
        translations[0].others.extend(translations[1:])
        return translations[0]
