"""From pictures to captions with torch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner import checkpoint
from captioner.backend import choose_device, fast_dtype
from captioner.base import Captioner, caption_of, placed
from captioner.caption import HEADS, MEAN, Array, Caption
from captioner.data.loader import ImageBatch
from captioner.decoders import Decoder
from captioner.encoders import Encoder
from captioner.encoders.parallel import encode_batches, encoded_at_once, threads
from captioner.errors import CaptionerError, CheckpointError, ImageError
from captioner.features import FeatureStore
from captioner.heads import check, look_again
from captioner.memory import Encoded, Memory
from captioner.model import CaptionModel
from captioner.search import Hypothesis, choose_search
from captioner.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class TorchPipeline(Captioner):
    """What captioners in torch share, of one model or of several.

    Attributes:
        device: where pictures are encoded and captioned.
        encoders: those of the models, each once, as they were loaded.
        decoders: those of the models, as they were loaded.
    """

    device: torch.device
    encoders: Sequence[Encoder]
    decoders: Sequence[Decoder]

    def encode(self, pixels: Tensor) -> Encoded:
        """Encode pixels (B, 3, S, S) uint8, as :attr:`transform` gives them, at the precision that is fast here."""
        raise NotImplementedError

    def caption_memory(self, memory: Any, *, cut: int = 0, attention: str = MEAN) -> list[Caption]:
        """Caption pictures that are already encoded.

        Args:
            memory: that of :meth:`encode`, or from the store of :meth:`open_features`.
            cut: by how many stages the encoder was cut, see :meth:`Encoder.finish`.
            attention: see :meth:`stream`.

        Raises:
            CaptionerError: the model does not have the requested attention.
        """
        raise NotImplementedError

    def open_features(self, folder: str | Path) -> FeatureStore:
        """Open a feature store that can take the place of the pictures.

        Raises:
            FeatureStoreError: it cannot be read, or was made by another encoder.
        """
        return FeatureStore(folder, encoder=self.encoders[0])

    def finished(self, encoder: Encoder, memory: Memory, cut: int) -> Memory:
        """Return what an encoder makes of a memory that :attr:`decoders` can attend to; see :meth:`Encoder.finish`.

        On a CPU decoders are packed, and take a memory of any precision; elsewhere it must be that of their weights.
        """
        memory = encoder.finish(memory.to(self.device), cut)
        if self.device.type == "cpu" and all(decoder.reads_half for decoder in self.decoders):
            return memory
        return memory.to(dtype=next(self.decoders[0].parameters()).dtype)

    def encoded_at_once(self, batch_size: int) -> int:
        """See :meth:`Captioner.encoded_at_once`."""
        return encoded_at_once(batch_size, self.device)

    def caption_batches(
        self, batches: Iterable[ImageBatch], together: int, attention: str
    ) -> Iterator[Caption | ImageError]:
        """See :meth:`Captioner.caption_batches`; on a CPU the next pictures are encoded while these are searched."""
        encoded = encode_batches(self.encode, batches, ahead=together, device=self.device)
        while waiting := list(islice(encoded, together)):
            yield from self._caption_encoded(waiting, attention, more=len(waiting) == together)

    def _caption_encoded(
        self, encoded: list[tuple[ImageBatch, Encoded | None]], attention: str, *, more: bool
    ) -> list[Caption | ImageError]:
        """Return the captions and errors of encoded batches, in order; ``more`` are being encoded meanwhile."""
        memories: list[Any] = [memory for _, memory in encoded if memory is not None]
        captions: Iterator[Caption] = iter(())
        if memories:
            cores = torch.get_num_threads()
            with threads(max(1, cores // 4) if more and self.device.type == "cpu" else cores):
                joined = type(memories[0]).join(memories)
                captions = iter(self.caption_memory(joined, attention=attention))
        return placed((batch for batch, _ in encoded), captions)


class TorchCaptioner(TorchPipeline):
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
        self.encoders, self.decoders = [model.encoder], [model.decoder]
        self.about: dict[str, Any] = {}
        # The encoder takes most of the time and runs at lower precision where that is faster; the model keeps its
        # own encoder, as it may be saved again.
        self._encoder = model.encoder.fast(self.device)
        self._decoder = model.decoder.fast(fast_dtype(self.device))
        self.search = model.config.search.changed(**search)
        log.info("search: %s", self.search)

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Write the model; see :meth:`Captioner.save_pretrained`."""
        return checkpoint.save_model(folder, self.model, card=card, about=self.about)

    def check(self, attention: str) -> None:
        """See :meth:`Captioner.check`."""
        check(self.model.decoder, attention)

    def encode(self, pixels: Tensor) -> Memory:
        """See :meth:`TorchPipeline.encode`."""
        memory: Memory = self._encoder(pixels)
        return memory

    @torch.inference_mode()
    def caption_memory(self, memory: Memory, *, cut: int = 0, attention: str = MEAN) -> list[Caption]:
        """See :meth:`TorchPipeline.caption_memory`."""
        decoder = self.model.decoder
        check(decoder, attention)
        memory = self.finished(self._encoder, memory, cut)
        found = choose_search(self.search)(self._decoder, memory, self.search)
        captions = captions_of(found, self.vocabulary, memory, self.model.encoder.classes)
        if attention != MEAN:
            exact = memory.to(dtype=next(decoder.parameters()).dtype)
            weights_of = look_again(
                decoder, exact, [[hypothesis.words for hypothesis in hypotheses] for hypotheses in found], attention
            )
            captions = [
                [_with(caption, weights.numpy(), attention) for caption, weights in zip(*pair, strict=True)]
                for pair in zip(captions, weights_of, strict=True)
            ]
        return best_of(captions)


def captions_of(
    found: Sequence[Sequence[Hypothesis]], vocabulary: Vocabulary, memory: Memory, classes: Sequence[str]
) -> list[list[Caption]]:
    """Return the captions of each image that a search found.

    Args:
        found: the hypotheses of each image.
        vocabulary: their words.
        memory: of the images; says where the places of their attention are.
        classes: names of its labels.
    """
    names = (*classes, "")  # the last one is that of a place without a region
    captions = []
    for row, hypotheses in enumerate(found):
        boxes, scores = (
            None if part is None else part[row].float().cpu().numpy() for part in (memory.boxes, memory.scores)
        )
        labels = None if memory.labels is None else [names[number] for number in memory.labels[row].tolist()]
        places: dict[str, Any] = {"grid": memory.grid, "boxes": boxes, "labels": labels, "scores": scores}
        captions.append([caption_of(hypothesis, vocabulary, **places) for hypothesis in hypotheses])
    return captions


def best_of(captions: Sequence[Sequence[Caption]]) -> list[Caption]:
    """Return the best caption of each image, which gets the others.

    Raises:
        CheckpointError: an image has none.
    """
    if not all(captions):
        raise CheckpointError(
            "the model's words have no probabilities, since its weights are damaged or too large to compute with; copy "
            "the model folder again, or train it again"
        )
    for first, *others in captions:
        first.others.extend(others)
    return [first for first, *_ in captions]


def _with(caption: Caption, weights: Array, attention: str) -> Caption:
    """Add the requested attention to a caption."""
    return (
        replace(caption, heads=weights)
        if attention == HEADS
        else replace(caption, attention=weights, attention_of=attention)
    )


def in_torch(captioner: Captioner, purpose: str) -> TorchPipeline:
    """Return a captioner in torch, of one model or of several, for what needs the models themselves.

    Raises:
        CaptionerError: it is an exported one; the error says that this cannot be used to ``purpose``.
    """
    if not isinstance(captioner, TorchPipeline):
        raise CaptionerError(
            f"an exported captioner cannot be used to {purpose}; give the model that it was exported from"
        )
    return captioner


def of_one_model(captioner: Captioner, purpose: str) -> TorchCaptioner:
    """Return a captioner of one model in torch; see :func:`in_torch`.

    Raises:
        CaptionerError: it is an exported one or an ensemble.
    """
    captioner = in_torch(captioner, purpose)
    if not isinstance(captioner, TorchCaptioner):
        raise CaptionerError(f"an ensemble cannot be used to {purpose}; give one of its models")
    return captioner
