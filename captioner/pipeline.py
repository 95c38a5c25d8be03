"""From pictures to captions with torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from captioner import checkpoint
from captioner.backend import choose_device
from captioner.base import Captioner, caption_of, name_of
from captioner.caption import HEADS, MEAN, Array, Caption
from captioner.data.images import ImageSource
from captioner.data.loader import ImageLoader
from captioner.errors import CaptionerError, ImageError
from captioner.heads import check, look_again
from captioner.memory import Memory
from captioner.model import CaptionModel
from captioner.search import Hypothesis, SearchConfig, choose_search
from captioner.settings import validate


class TorchCaptioner(Captioner):
    """Captions pictures with a model in torch.

    Args:
        model: the model; it is moved to the device and set to eval mode.
        device: a torch device, or ``auto``.
        search: settings that differ from the model's own, for example ``width=1``.
    """

    def __init__(self, model: CaptionModel, *, device: str = "auto", **search: Any) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.vocabulary, self.transform = model.vocabulary, model.encoder.transform
        self.attends = model.decoder.attends
        # The encoder takes most of the time and runs at lower precision where that is faster; the model keeps its
        # own encoder, as it may be saved again.
        self._encoder = model.encoder.fast(self.device)
        self.search = validate(SearchConfig, {**model.config.search.model_dump(), **search}, where="search")

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write the model; see :meth:`Captioner.save_pretrained`."""
        return checkpoint.save_model(folder, self.model, card=card)

    def check(self, attention: str) -> None:
        """See :meth:`Captioner.check`."""
        check(self.model.decoder, attention)

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
                    picture: dict[str, Any] = {"source": name_of(source), "seen": seen}
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
                [_with(caption, weights.numpy(), attention) for caption, weights in zip(*pair, strict=True)]
                for pair in zip(captions, weights_of, strict=True)
            ]
        for first, *others in captions:
            first.others.extend(others)
        return [first for first, *_ in captions]

    def _captions(self, hypotheses: list[Hypothesis], memory: Memory, row: int) -> list[Caption]:
        boxes, scores = (
            None if part is None else part[row].float().cpu().numpy() for part in (memory.boxes, memory.scores)
        )
        classes = (*self.model.encoder.classes, "")  # the last one is that of a place without a region
        labels = None if memory.labels is None else [classes[number] for number in memory.labels[row].tolist()]
        return [
            caption_of(hypothesis, self.vocabulary, grid=memory.grid, boxes=boxes, labels=labels, scores=scores)
            for hypothesis in hypotheses
        ]


def _with(caption: Caption, weights: Array, attention: str) -> Caption:
    """Add the requested attention to a caption."""
    return (
        replace(caption, heads=weights)
        if attention == HEADS
        else replace(caption, attention=weights, attention_of=attention)
    )


def in_torch(captioner: Captioner, purpose: str) -> TorchCaptioner:
    """Return a captioner whose model is in torch, for what needs the model itself.

    Raises:
        CaptionerError: it is an exported one; the error says that this cannot be used to ``purpose``.
    """
    if not isinstance(captioner, TorchCaptioner):
        raise CaptionerError(
            f"an exported captioner cannot be used to {purpose}; give the model that it was exported from"
        )
    return captioner
