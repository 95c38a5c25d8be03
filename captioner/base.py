"""What every captioner does, whatever runs its model; importing it needs no torch.

Letters in shapes: B pictures in a batch, S the side of the transformed picture in pixels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from PIL import Image

from captioner import folders
from captioner.assets import ONNX
from captioner.caption import MEAN, Caption
from captioner.data.images import ImageSource
from captioner.data.loader import ImageBatch, ImageLoader
from captioner.data.transform import Transform
from captioner.errors import CheckpointError, ImageError
from captioner.search.config import Hypothesis, SearchConfig
from captioner.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from captioner.model import CaptionModel

log = logging.getLogger(__name__)


class Captioner:
    """Captions pictures, and shows where it looked for every word.

        captioner = Captioner.from_pretrained()
        print(captioner("photo.jpg").text)
        for caption in captioner.stream(paths):   # constant memory, however many
            ...

    ``Captioner(model)`` is a :class:`captioner.pipeline.TorchCaptioner`; of an exported folder :meth:`from_pretrained`
    makes a :class:`captioner.onnx.runtime.OnnxCaptioner`, which does the same without torch, and of several models a
    :class:`captioner.ensemble.Ensemble`.

    Args:
        model: the model; it is moved to the device and set to eval mode.
        device: a torch device, or ``auto``.
        search: settings that differ from the model's own, for example ``width=1``.

    Attributes:
        search: settings of the search.
        vocabulary: the words that it can write.
        transform: what it sees of a picture.
        attends: whether its captions have attention.
        about: how the model was made, as its config says: data, recipe, scores; empty if it was not loaded.
    """

    about: dict[str, Any]
    search: SearchConfig
    vocabulary: Vocabulary
    transform: Transform
    attends: bool

    def __new__(cls, *arguments: Any, **settings: Any) -> Captioner:
        """Make the captioner that runs models in torch, unless the class says which."""
        if cls is Captioner:
            from captioner.pipeline import TorchCaptioner

            return object.__new__(TorchCaptioner)
        return object.__new__(cls)

    def __init__(self, model: CaptionModel, *, device: str = "auto", **search: Any) -> None:
        raise TypeError("every kind of captioner has its own way to be made")

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path | None = None, *, device: str = "auto", **search: Any
    ) -> Captioner:
        """Load a shipped model by name, a model folder, an exported one, or ``user/model`` from the Hugging Face hub.

        ``None`` is the default model, and ``user/model@revision`` a branch, a tag or a commit. Of the hub, the newest
        version is taken, and without a network the one that was downloaded before.

        Names that are joined by ``+``, as in ``show_attend_tell+transformer``, are an ensemble: one caption of all
        these models, see :class:`captioner.ensemble.Ensemble`. They must share a vocabulary. A folder of that very
        name comes first.

        Raises:
            CheckpointError: there is no such model, it is damaged, what runs it is not installed, or models cannot be
                an ensemble.
        """
        folder, *others = located = folders.locate_captioners(name_or_path)  # a wrong folder is reported at once
        if not others and folders.captioner_kind(folder) == ONNX:
            from captioner.onnx.runtime import OnnxCaptioner

            return OnnxCaptioner(folder, device=device, **search)
        try:
            from captioner.checkpoint import load_model
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise CheckpointError(
                f"{folder}: is a model in torch, which is not installed; run: pip install torch, or give a folder that "
                "captioner export made of it"
            ) from None
        if others:
            from captioner.ensemble import Ensemble

            names = folders.members(str(name_or_path))
            return Ensemble.load(dict(zip(names, located, strict=True)), device=device, **search)
        captioner = Captioner(load_model(folder), device=device, **search)
        captioner.about = folders.about(folder)
        return captioner

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write the model to a folder that :meth:`from_pretrained` reads.

        Args:
            folder: its path; a model of the same kind that is there is replaced.
            card: the text of the model card; by default it is written from what is known of the model.

        Raises:
            CheckpointError: ``folder`` exists and is not such a model's.
        """
        raise NotImplementedError

    def push_to_hub(self, name: str, *, private: bool = False, card: str = "") -> str:
        """Upload the model to the Hugging Face hub as ``user/model``, in one commit, and return its address.

        You must be logged in there (``hf auth login``). The weights are those of :meth:`save_pretrained`; ``captioner
        push`` uploads a folder as it is, in eight bits for example.

        Args:
            name: ``user/model``; a model of captioner that is there is replaced.
            private: make a repository that nobody else can see.
            card: the text of the model card; by default it is written from what is known of the model.

        Raises:
            CheckpointError: you may not write there, something else is there, or the upload failed.
        """
        return folders.push_saved(self.save_pretrained, name, private=private, card=card)

    @overload
    def __call__(self, pictures: list[Any] | tuple[Any, ...], *, attention: str = MEAN) -> list[Caption]: ...
    @overload
    def __call__(self, pictures: ImageSource, *, attention: str = MEAN) -> Caption: ...
    def __call__(self, pictures: Any, *, attention: str = MEAN) -> Caption | list[Caption]:
        """Caption one picture, or a list of them.

        A picture is a file, encoded bytes, a PIL image, an array (H, W[, C]) or a tensor (C, H, W); see
        :func:`captioner.data.images.load_image`.

        Args:
            pictures: one, or a list or tuple of them.
            attention: see :meth:`stream`.

        Raises:
            CaptionerError: the model does not have the requested attention.
            ImageError: a picture cannot be read. To keep the results of the others, use :meth:`stream`.
        """
        many = isinstance(pictures, (list, tuple))
        captions = []
        for result in self.stream(pictures if many else [pictures], attention=attention):
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions if many else captions[0]

    def check(self, attention: str) -> None:
        """Check which attention is requested; see :meth:`stream`.

        Raises:
            CaptionerError: the model does not have it.
        """
        raise NotImplementedError

    def stream(
        self,
        pictures: Iterable[ImageSource],
        *,
        batch_size: int = 32,
        workers: int = 2,
        max_pixels: int | None = None,
        attention: str = MEAN,
    ) -> Iterator[Caption | ImageError]:
        """Caption any number of pictures in constant memory, in their order; a bad picture yields its error.

        Args:
            pictures: iterated lazily; may be endless.
            batch_size: pictures searched at once, and in torch on a GPU also encoded. On a CPU, those of the next batch
                are loaded, and in torch encoded, meanwhile (:mod:`captioner.encoders.parallel`).
            workers: threads that load pictures.
            max_pixels: a larger picture is an error; see :func:`captioner.data.images.load_image`.
            attention: of a Transformer: ``mean`` over its blocks and heads, ``rollout`` through all blocks,
                ``BLOCK.HEAD`` for one head, counted from one, or ``heads`` for each of them in :attr:`Caption.heads`
                beside the mean; see :func:`captioner.heads.look_again`.

        Raises:
            CaptionerError: the model does not have the requested attention.
        """
        self.check(attention)
        at_once = self.encoded_at_once(batch_size)
        together = -(-batch_size // at_once)
        loader = ImageLoader(
            pictures,
            self.transform,
            batch_size=at_once,
            workers=workers,
            max_pixels=max_pixels,
            prefetch=max(2, together),
        )
        began, done = time.perf_counter(), 0
        for result in self.caption_batches(loader, together, attention):
            done += 1
            yield result
        log.info("%d pictures in %.2f s", done, time.perf_counter() - began)

    def encoded_at_once(self, batch_size: int) -> int:
        """Return how many of the pictures that are searched at once are encoded at once."""
        return batch_size

    def caption_batches(
        self, batches: Iterable[ImageBatch], together: int, attention: str
    ) -> Iterator[Caption | ImageError]:
        """Caption loaded pictures, in order.

        Args:
            batches: of as many pictures as are encoded at once.
            together: how many of them are searched at once.
            attention: see :meth:`stream`.
        """
        raise NotImplementedError


def placed(batches: Iterable[ImageBatch], captions: Iterator[Caption]) -> list[Caption | ImageError]:
    """Return captions with their pictures, and the errors of the others, in the order of the input.

    Args:
        batches: those that were captioned.
        captions: of their good pictures, in order.
    """
    results: list[tuple[int, Caption | ImageError]] = []
    for batch in batches:
        results.extend(batch.errors)
        for position, source, seen in zip(batch.positions, batch.sources, batch.seen, strict=True):
            caption = next(captions)
            picture: dict[str, Any] = {"source": name_of(source), "seen": seen}
            others = [replace(other, **picture) for other in caption.others]
            results.append((position, replace(caption, others=others, **picture)))
    return [result for _, result in sorted(results, key=lambda pair: pair[0])]


def caption_of(hypothesis: Hypothesis, vocabulary: Vocabulary, **places: Any) -> Caption:
    """Return what a search found as a caption; ``places`` are the fields that say where its places are."""
    return Caption(
        text=vocabulary.sentence(hypothesis.words),
        tokens=vocabulary.decode(hypothesis.words),
        log_probability=hypothesis.log_probability,
        attention=hypothesis.attention,
        **places,
    )


def name_of(source: Any) -> str | None:
    """Return the file's name, if the picture came from one."""
    if isinstance(source, (str, Path)):
        return str(source)
    return getattr(source, "filename", None) or None if isinstance(source, Image.Image) else None
