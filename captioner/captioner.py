"""Captions images with a model, and shows where it looked for every word. Importing it needs no torch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from PIL import Image

from captioner import store
from captioner.caption import MEAN, Caption
from captioner.data.images import ImageSource
from captioner.data.loader import ImageBatch, ImageLoader
from captioner.data.transform import Transform
from captioner.engines.engine import Engine
from captioner.engines.load import load_in_torch
from captioner.errors import CaptionerError, CheckpointError, ConfigError, ImageError
from captioner.machine.backend import has_gpu
from captioner.search.config import SearchConfig
from captioner.settings import check_numbers
from captioner.store import ONNX
from captioner.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from captioner.model import CaptionModel
    from captioner.search.config import SearchOptions

log = logging.getLogger(__name__)

AUTO, TORCH, GRAPHS = "auto", "torch", "onnx"
ENGINES = (AUTO, GRAPHS, TORCH)


class Captioner:
    """Captions images, and shows where it looked for every word.

        captioner = Captioner.from_pretrained()
        print(captioner("photo.jpg").text)
        for caption in captioner.stream(paths):   # constant memory for any number of images
            ...

    Args:
        engine: runs the model; :meth:`from_pretrained` and :meth:`from_model` choose it.
        about: how the model was made, as its config records it: data, recipe, scores.
        folder: the folder that the model was loaded from.
        search: settings that differ from the model's own, for example ``width=1``.

    Attributes:
        search: settings of the search.

    Raises:
        ConfigError: a search setting is wrong.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        about: dict[str, Any] | None = None,
        folder: Path | None = None,
        **search: Unpack[SearchOptions],
    ) -> None:
        self.engine, self.about, self._folder = engine, about or {}, folder
        self.search: SearchConfig = engine.search.changed(**search)
        if engine.most_words is not None and self.search.max_words > engine.most_words:
            raise ConfigError(
                f"search: max_words: {self.search.max_words} is more than this model has positions for; "
                f"give {engine.most_words} or fewer"
            )
        log.info("search: %s", self.search)

    @classmethod
    def from_model(cls, model: CaptionModel, *, device: str = "auto", **search: Unpack[SearchOptions]) -> Captioner:
        """Caption with a model in memory.

        Args:
            model: the model; it is moved to the device and set to eval mode.
            device: a torch device, or ``auto``.
            search: settings that differ from the model's own.
        """
        from captioner.engines.model import ModelEngine

        return cls(ModelEngine(model, device=device), **search)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        device: str = "auto",
        engine: str = AUTO,
        threads: int | None = None,
        **search: Unpack[SearchOptions],
    ) -> Captioner:
        """Load a shipped model by name, a model folder, an exported one, or ``user/model`` from the Hugging Face hub.

        ``None`` is the default model. ``user/model@revision`` is a branch, a tag or a commit; without a revision the
        newest version is taken, or without a network the one that was downloaded before.

        Names joined by ``+``, as in ``show_attend_tell+transformer``, are an ensemble of models with one vocabulary
        (:class:`captioner.engines.ensemble.EnsembleEngine`), unless a folder has that name.

        Args:
            name_or_path: the model.
            device: a torch device, or ``auto``.
            engine: ``onnx`` runs the model's graphs on the CPU, without torch; ``torch`` runs its weights. ``auto`` is
                ``onnx`` on a CPU, for a model that has graphs.
            threads: number of threads on a CPU; ``None`` for one a core.
            search: settings that differ from the model's own.

        Raises:
            CheckpointError: the model does not exist, is damaged, needs a package that is not installed, or cannot be
                part of an ensemble.
            ConfigError: a search setting, the device, the engine or the number of threads is wrong.
        """
        if threads is not None:
            check_numbers(threads=threads)
        folder, *others = located = store.locate_captioners(name_or_path)
        if _on_onnx(located, device, engine):
            from captioner.onnx.engine import OnnxEngine

            return cls(
                OnnxEngine.load(folder, device=device, threads=threads),
                about=store.about(folder),
                folder=folder,
                **search,
            )
        names = store.members(str(name_or_path)) if others else [folder.name]
        models = dict(zip(names, located, strict=True))
        loaded = load_in_torch(models, device=device, threads=threads)
        about = {name: store.about(each) for name, each in models.items()}
        return cls(loaded, about={"members": about} if others else about[folder.name], **search)

    def __repr__(self) -> str:
        name = "a model in memory" if self._folder is None else repr(self._folder.name)
        engine = type(self.engine).__name__
        return f"<Captioner of {name}: {engine}, {len(self.vocabulary):,} words, beam width {self.search.width}>"

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that it can write."""
        return self.engine.vocabulary

    @property
    def transform(self) -> Transform:
        """From an image to the pixels that the model reads."""
        return self.engine.transform

    @property
    def attends(self) -> bool:
        """Whether its captions have attention."""
        return self.engine.attends

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write the model to a folder that :meth:`from_pretrained` reads.

        Args:
            folder: its path; a model of the same kind that is there is replaced.
            card: the text of the model card; by default it is written from the model's config.

        Raises:
            CheckpointError: ``folder`` exists and holds something else, or this is an ensemble.
        """
        if self._folder is not None:
            return store.copy(self._folder, folder, store.captioner_kind(self._folder), card=card)
        from captioner.engines.model import ModelEngine
        from captioner.model.checkpoint import save_model

        if not isinstance(self.engine, ModelEngine):
            raise CheckpointError(
                f"{folder}: an ensemble cannot be saved as one model; save its members, and join their names by "
                f"{store.AND}"
            )
        return save_model(folder, self.engine.model, card=card, about=self.about)

    def push_to_hub(self, name: str, *, private: bool = False, card: str = "") -> str:
        """Upload the model to the Hugging Face hub in one commit, and return its address.

        You must be logged in there (``hf auth login``). The weights are those of :meth:`save_pretrained`; ``captioner
        push`` uploads a folder as it is, in eight bits for example.

        Args:
            name: ``user/model``; a model of captioner that is there is replaced.
            private: make the repository private.
            card: the text of the model card; by default it is written from the model's config.

        Raises:
            CheckpointError: you may not write there, something else is there, or the upload failed.
        """
        return store.push_saved(self.save_pretrained, name, private=private, card=card)

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...], *, attention: str = MEAN) -> list[Caption]: ...
    @overload
    def __call__(self, images: ImageSource, *, attention: str = MEAN) -> Caption: ...
    def __call__(self, images: Any, *, attention: str = MEAN) -> Caption | list[Caption]:
        """Caption one image, or a list of them.

        An image is a file, encoded bytes, a PIL image, an array (H, W[, C]) or a tensor (C, H, W); see
        :func:`captioner.data.images.load_image`.

        Args:
            images: one, or a list or tuple of them.
            attention: see :meth:`stream`.

        Raises:
            CaptionerError: the model does not have the requested attention.
            ImageError: an image cannot be read; :meth:`stream` keeps the captions of the others.
        """
        many = isinstance(images, (list, tuple))
        captions = []
        for result in self.stream(images if many else [images], attention=attention):
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions if many else captions[0]

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 32,
        workers: int = 2,
        max_pixels: int | None = None,
        attention: str = MEAN,
    ) -> Iterator[Caption | ImageError]:
        """Caption any number of images in constant memory, in their order; a bad image yields its error.

        Args:
            images: iterated lazily; may be endless.
            batch_size: number of images searched at once.
            workers: threads that load images, ahead of the search.
            max_pixels: a larger image is an error; see :func:`captioner.data.images.load_image`.
            attention: of a Transformer: ``mean`` over its blocks and heads, ``rollout`` through all blocks,
                ``BLOCK.HEAD`` for one head, counted from one, or ``heads`` for all of them in :attr:`Caption.heads` in
                addition to the mean; see :func:`captioner.engines.attention_rollout.recompute_attention`.

        Raises:
            CaptionerError: the model does not have the requested attention, or ``images`` is a single image.
            ConfigError: a number is too small or too large.
        """
        if isinstance(images, (str, bytes, bytearray, memoryview)):  # its letters or bytes are not images
            raise CaptionerError("images: this is one image, and a stream has many; give a list of it")
        check_numbers(batch_size=batch_size)
        engine = self.engine.for_attention(attention)
        at_once = engine.encoded_at_once(batch_size)
        together = -(-batch_size // at_once)
        loader = ImageLoader(
            images,
            self.transform,
            batch_size=at_once,
            workers=workers,
            max_pixels=max_pixels,
            prefetch=max(2, together),
        )
        began, done = time.perf_counter(), 0
        for batches, captions in engine.caption(loader, self.search, together=together, attention=attention):
            for result in attach_sources(batches, captions):
                done += 1
                yield result
        log.info("%d images in %.2f s", done, time.perf_counter() - began)


def _on_onnx(folders: Sequence[Path], device: str, engine: str) -> bool:
    """Return whether onnxruntime, and not torch, runs the model of a folder, or the ensemble of several.

    Raises:
        ConfigError: the engine does not exist, or cannot run it.
    """
    folder, *others = folders
    kind = store.captioner_kind(folder)
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
    if kind == ONNX:
        if engine == TORCH:
            raise ConfigError(
                f"{folder}: is exported, and torch runs the model that it was exported from; give that, or the engine "
                f"{GRAPHS}"
            )
        return True
    has_graphs = not others and store.has_graphs(store.read_config(folder))
    if engine == GRAPHS and not has_graphs:
        what = "an ensemble runs in torch" if others else f"{folder}: has no graphs; captioner export writes them"
        raise ConfigError(f"{what}; or leave the engine out")
    on_cpu = device == "cpu" or (device == AUTO and not has_gpu())
    return has_graphs and (engine == GRAPHS or (engine == AUTO and on_cpu and find_spec("onnxruntime") is not None))


def attach_sources(batches: Iterable[ImageBatch], captions: Iterable[Caption]) -> list[Caption | ImageError]:
    """Return captions with the sources of their images, and the errors of the others, in the order of the input.

    Args:
        batches: the batches that were captioned.
        captions: of the readable images of the batches, in order.
    """
    remaining = iter(captions)
    results: list[tuple[int, Caption | ImageError]] = []
    for batch in batches:
        results.extend(batch.errors)
        for position, source, seen in zip(batch.positions, batch.sources, batch.seen, strict=True):
            caption = next(remaining)
            image: dict[str, Any] = {"source": _name(source), "seen": seen}
            others = [replace(other, **image) for other in caption.others]
            results.append((position, replace(caption, others=others, **image)))
    return [result for _, result in sorted(results, key=lambda pair: pair[0])]


def _name(source: Any) -> str | None:
    """Return the file's name, if the image came from one."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    return getattr(source, "filename", None) or None if isinstance(source, Image.Image) else None
