"""From pictures to captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor

from captioner import checkpoint
from captioner.backend import choose_device
from captioner.caption import Caption
from captioner.data.images import ImageSource
from captioner.data.loader import ImageLoader
from captioner.errors import CheckpointError, ImageError, first_line
from captioner.heads import HEADS, MEAN, check, look_again
from captioner.memory import Memory
from captioner.model import CaptionModel
from captioner.search import Hypothesis, SearchConfig, choose_search
from captioner.settings import validate


class Captioner:
    """Captions pictures, and shows where it looked for every word.

        captioner = Captioner.from_pretrained()
        print(captioner("photo.jpg").text)
        for caption in captioner.stream(paths):   # constant memory, however many
            ...

    Args:
        model: the model; it is moved to the device and set to eval mode.
        device: a torch device, or ``auto``.
        search: settings that differ from the model's own, for example ``width=1``.
    """

    def __init__(self, model: CaptionModel, *, device: str = "auto", **search: Any) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        # The encoder takes most of the time and runs at lower precision where that is faster; the model keeps its
        # own encoder, as it may be saved again.
        self._encoder = model.encoder.fast(self.device)
        self.search = validate(SearchConfig, {**model.config.search.model_dump(), **search}, where="search")

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path | None = None, *, device: str = "auto", **search: Any
    ) -> Captioner:
        """Load a shipped model by name, a model folder, or ``user/model`` from the Hugging Face hub.

        ``None`` is the default model.

        Raises:
            CheckpointError: there is no such model, or it is damaged.
        """
        return cls(checkpoint.load_model(name_or_path), device=device, **search)

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write the model to a folder that :meth:`from_pretrained` reads."""
        return checkpoint.save_model(folder, self.model, card=card)

    def push_to_hub(self, name: str, *, private: bool = False, card: str = "") -> str:
        """Upload the model to the Hugging Face hub as ``user/model`` and return its address.

        You must be logged in there.
        """
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi()
        with tempfile.TemporaryDirectory() as parent:
            folder = self.save_pretrained(Path(parent) / "model", card=card)
            try:
                address = api.create_repo(name, private=private, exist_ok=True)
                api.upload_folder(repo_id=name, folder_path=folder)
            except Exception as error:  # the hub's and the network's own families
                raise CheckpointError(
                    f"{name}: could not be uploaded ({first_line(error)}); log in with: hf auth login"
                ) from error
        return str(address)

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

    def stream(
        self,
        pictures: Iterable[ImageSource],
        *,
        batch_size: int = 8,
        workers: int = 2,
        max_pixels: int | None = None,
        attention: str = MEAN,
    ) -> Iterator[Caption | ImageError]:
        """Caption any number of pictures in constant memory, in their order; a bad picture yields its error.

        Args:
            pictures: iterated lazily; may be endless.
            batch_size: pictures encoded and searched at once.
            workers: threads that load pictures.
            max_pixels: a larger picture is an error; see :func:`captioner.data.images.load_image`.
            attention: of a Transformer: ``mean`` over its blocks and heads, ``rollout`` through all blocks,
                ``BLOCK.HEAD`` for one head, counted from one, or ``heads`` for each of them in :attr:`Caption.heads`
                beside the mean; see :func:`captioner.heads.look_again`.

        Raises:
            CaptionerError: the model does not have the requested attention.
        """
        check(self.model.decoder, attention)
        loader = ImageLoader(
            pictures, self.model.encoder.transform, batch_size=batch_size, workers=workers, max_pixels=max_pixels
        )
        for batch in loader:
            results: list[tuple[int, Caption | ImageError]] = list(batch.errors)
            if len(batch):
                with torch.inference_mode():
                    memory = self._encoder(batch.pixels)
                captions = self.caption_memory(memory, attention=attention)
                for position, source, seen, caption in zip(
                    batch.positions, batch.sources, batch.places, captions, strict=True
                ):
                    picture: dict[str, Any] = {"source": _name(source), "seen": seen}
                    others = [replace(other, **picture) for other in caption.others]
                    results.append((position, replace(caption, others=others, **picture)))
            for _, result in sorted(results, key=lambda pair: pair[0]):
                yield result

    @torch.inference_mode()
    def caption_memory(self, memory: Memory, *, cut: int = 0, attention: str = MEAN) -> list[Caption]:
        """Caption pictures that are already encoded.

        Args:
            memory: the encoder's output.
            cut: by how many stages the encoder was cut, see :meth:`Encoder.finish`.
            attention: see :meth:`stream`.

        Raises:
            CaptionerError: the model does not have the requested attention.
        """
        decoder = self.model.decoder
        check(decoder, attention)
        memory = self._encoder.finish(memory.to(self.device), cut)
        memory = memory.to(dtype=next(decoder.parameters()).dtype)
        found = choose_search(self.search)(decoder, memory, self.search)
        captions = [self._captions(hypotheses, memory, row) for row, hypotheses in enumerate(found)]
        if attention != MEAN:
            weights_of = look_again(
                decoder, memory, [[hypothesis.words for hypothesis in hypotheses] for hypotheses in found], attention
            )
            captions = [
                [_with(caption, weights, attention) for caption, weights in zip(*pair, strict=True)]
                for pair in zip(captions, weights_of, strict=True)
            ]
        for first, *others in captions:
            first.others.extend(others)
        return [first for first, *_ in captions]

    def _captions(self, hypotheses: list[Hypothesis], memory: Memory, row: int) -> list[Caption]:
        boxes, scores = (None if part is None else part[row].float().cpu() for part in (memory.boxes, memory.scores))
        classes = (*self.model.encoder.classes, "")  # the last one is that of a place without a region
        labels = None if memory.labels is None else [classes[number] for number in memory.labels[row].tolist()]
        return [
            Caption(
                text=self.model.vocabulary.sentence(hypothesis.words),
                tokens=self.model.vocabulary.decode(hypothesis.words),
                log_probability=hypothesis.log_probability,
                attention=hypothesis.attention,
                grid=memory.grid,
                boxes=boxes,
                labels=labels,
                scores=scores,
            )
            for hypothesis in hypotheses
        ]


def _with(caption: Caption, weights: Tensor, attention: str) -> Caption:
    """Add the requested attention to a caption."""
    return (
        replace(caption, heads=weights)
        if attention == HEADS
        else replace(caption, attention=weights, attention_of=attention)
    )


def _name(source: Any) -> str | None:
    """Return the file's name, if the picture came from one."""
    if isinstance(source, (str, Path)):
        return str(source)
    return getattr(source, "filename", None) or None if isinstance(source, Image.Image) else None
