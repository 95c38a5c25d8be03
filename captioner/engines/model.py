"""Engines in torch, and the one of a single model.

Tensor letters: B images, S side of a transformed image in pixels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioner.caption import HEADS, MEAN, Array, Caption
from captioner.data.loader import ImageBatch
from captioner.decoders import Decoder
from captioner.encoders import Encoder, Refiner
from captioner.encoders.parallel import encode_batches, encoded_at_once, threads
from captioner.engines.attention_rollout import check, recompute_attention
from captioner.engines.engine import Engine, best_of, captions_of, spread
from captioner.errors import CaptionerError
from captioner.features import FeatureStore
from captioner.layers.linear import fast
from captioner.machine.backend import choose_device, fast_dtype
from captioner.memory import Encoded, Memory
from captioner.model import CaptionModel
from captioner.search.config import SearchConfig
from captioner.search.consensus import ConsensusPrediction, search_with_consensus
from captioner.search.search import search as find

_SCORED = 50  # images in a batch when a caption is scored


class TorchEngine(Engine):
    """An engine in torch: encodes pixels to a memory, and searches captions of a memory.

    Attributes:
        device: where it computes.
        encoders: of the models, each once, as they were loaded.
    """

    device: torch.device
    encoders: Sequence[Encoder]

    def in_torch(self) -> TorchEngine:
        return self

    @abstractmethod
    def encode(self, pixels: Tensor) -> Encoded:
        """Encode pixels (B, 3, S, S) uint8, as :attr:`transform` gives them, at the precision that is fast here."""

    @abstractmethod
    def caption_memory(
        self, memory: Any, search: SearchConfig, *, cut: int = 0, attention: str = MEAN
    ) -> list[Caption]:
        """Caption images that are already encoded.

        Args:
            memory: of :meth:`encode`, or from the store of :meth:`open_features`.
            search: the search settings.
            cut: number of stages that were cut off the encoder; see :meth:`Encoder.finish`.
            attention: see :meth:`Captioner.stream`.

        Raises:
            CaptionerError: the model does not have the requested attention.
        """

    @property
    @abstractmethod
    def decoder_size(self) -> int:
        """Number of parameters of the refiners and decoders."""

    def open_features(self, folder: str | Path) -> FeatureStore:
        """Open a feature store that can replace the images.

        Raises:
            FeatureStoreError: it cannot be read, or was made by another encoder.
        """
        return FeatureStore(folder, encoder=self.encoders[0])

    def encoded_at_once(self, batch_size: int) -> int:
        """All on a GPU; on a CPU, few in each thread."""
        return encoded_at_once(batch_size, self.device)

    def caption(
        self, batches: Iterable[ImageBatch], search: SearchConfig, *, together: int = 1, attention: str = MEAN
    ) -> Iterator[tuple[list[ImageBatch], list[Caption]]]:
        """Caption loaded images; on a CPU the next ones are encoded meanwhile."""
        encoded = encode_batches(self.encode, batches, ahead=together, device=self.device)
        while waiting := list(islice(encoded, together)):
            memories: list[Any] = [memory for _, memory in waiting if memory is not None]
            captions: list[Caption] = []
            if memories:
                more, cores = len(waiting) == together, torch.get_num_threads()
                with threads(max(1, cores // 4) if more and self.device.type == "cpu" else cores):
                    joined = type(memories[0]).join(memories)
                    captions = self.caption_memory(joined, search, attention=attention)
            yield [batch for batch, _ in waiting], captions


class ModelEngine(TorchEngine):
    """Runs one model.

    Args:
        model: the model; it is moved to the device and set to eval mode.
        device: a torch device, or ``auto``.
    """

    def __init__(self, model: CaptionModel, *, device: str = "auto") -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.vocabulary, self.transform = model.vocabulary, model.encoder.transform
        self.attends, self.search, self.encoders = model.decoder.attends, model.config.search, [model.encoder]
        self.grid, self.consensus = model.encoder.grid, model.consensus
        # The encoder takes most of the time and runs at lower precision where that is faster; the model keeps its
        # own encoder, as it may be saved again.
        self._encoder = model.encoder.fast(self.device)
        self._writer = Writer.of(model, self.device)

    @property
    def decoder_size(self) -> int:
        return self.model.decoder_size

    def for_attention(self, attention: str) -> ModelEngine:
        check(self.model, attention)
        return self

    def encode(self, pixels: Tensor) -> Memory:
        memory: Memory = self._encoder(pixels)
        return memory

    def features(self, batches: Iterable[ImageBatch]) -> Iterator[tuple[ImageBatch, Array]]:
        if self.grid is None:
            yield from super().features(batches)
        none = np.empty((0, 1, 1), np.float32)
        for batch, memory in encode_batches(self.encode, batches, ahead=torch.get_num_threads(), device=self.device):
            yield batch, none if memory is None else memory.vectors.float().cpu().numpy()

    @torch.inference_mode()
    def log_likelihoods(self, features: Array, caption: Sequence[int]) -> Array:
        if self.grid is None:
            return super().log_likelihoods(features, caption)
        cells = features if features.shape[1] == math.prod(self.grid) else spread(features, self.grid)
        found = []
        for part in torch.from_numpy(cells).split(_SCORED):
            refined = self._writer.refined(Memory.of_grid(part.to(self.device), self.grid))
            tokens = torch.tensor(caption, device=self.device).expand(len(part), 1, -1)
            logits = self._writer.decoder(refined, tokens[..., :-1]).logits
            of_words = logits.float().log_softmax(-1).gather(1, tokens[..., 1:].flatten().unsqueeze(1))
            found.append(of_words.view(len(part), -1).sum(1))
        likelihoods: Array = torch.cat(found).cpu().numpy()
        return likelihoods

    @torch.inference_mode()
    def caption_memory(
        self, memory: Memory, search: SearchConfig, *, cut: int = 0, attention: str = MEAN
    ) -> list[Caption]:
        self.for_attention(attention)
        memory = self._encoder.finish(memory.to(self.device), cut)
        refined = self._writer.refined(memory)
        found = search_with_consensus(
            partial(find, self._writer.decoder, refined), search, list(predictions_of([(self.model, memory, None)]))
        )
        captions = [
            captions_of(hypotheses, self.vocabulary, **regions)
            for hypotheses, regions in zip(found, regions_of(memory, self.encoders[0].classes), strict=True)
        ]
        if attention != MEAN:
            exact = memory.to(dtype=next(self.model.decoder.parameters()).dtype)
            words = [[hypothesis.words for hypothesis in hypotheses] for hypotheses in found]
            captions = [
                [_with(caption, weights.numpy(), attention) for caption, weights in zip(*pair, strict=True)]
                for pair in zip(captions, recompute_attention(self.model, exact, words, attention), strict=True)
            ]
        return [best_of(each) for each in captions]


@dataclass(frozen=True)
class Writer:
    """The refiner and the decoder of a model, as they search.

    Attributes:
        refiner: maps the encoder's memory to that of the decoder.
        decoder: writes the words.
        dtype: the precision that the memory must have; ``None`` if the first layer reads any.
    """

    refiner: Refiner
    decoder: Decoder
    dtype: torch.dtype | None

    @classmethod
    def of(cls, model: CaptionModel, device: torch.device) -> Writer:
        """Make the writer of a model on a device; on a CPU its parts are packed (:mod:`captioner.layers.linear`)."""
        dtype = fast_dtype(device)
        first = model.decoder if model.config.refiner is None else model.refiner
        reads_any = device.type == "cpu" and vars(type(first)).get("reads_half", False)
        own = None if reads_any else next(model.decoder.parameters()).dtype
        return cls(fast(model.refiner, dtype), fast(model.decoder, dtype), own)

    def refined(self, memory: Memory) -> Memory:
        """Return the memory that the decoder attends to."""
        refined: Memory = self.refiner(memory if self.dtype is None else memory.to(dtype=self.dtype))
        return refined


def predictions_of(
    models: Iterable[tuple[CaptionModel, Memory, Sequence[int] | None]],
) -> Iterator[ConsensusPrediction]:
    """Yield the consensus of each model for the images of a batch; models without one are left out.

    Args:
        models: each with the memory of its encoder, and its number of each word of the search, if they differ.
    """
    for model, memory, numbers in models:
        if model.consensus is not None:
            yield ConsensusPrediction(
                model.consensus, model.consensus.codes(memory.pooled.float().cpu().numpy()), numbers
            )


def regions_of(memory: Memory, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield for each image the fields of :class:`Caption` that locate its regions or cells.

    Args:
        memory: of the images.
        classes: names of the labels.
    """
    names = (*classes, "")  # the last one is that of padding
    for row in range(len(memory)):
        boxes, scores = (
            None if part is None else part[row].float().cpu().numpy() for part in (memory.boxes, memory.scores)
        )
        labels = None if memory.labels is None else [names[number] for number in memory.labels[row].tolist()]
        yield {"grid": memory.grid, "boxes": boxes, "labels": labels, "scores": scores}


def _with(caption: Caption, weights: Array, attention: str) -> Caption:
    """Add the requested attention to a caption."""
    return (
        replace(caption, heads=weights)
        if attention == HEADS
        else replace(caption, attention=weights, attention_of=attention)
    )


def torch_engine(engine: Engine, purpose: str) -> TorchEngine:
    """Return an engine in torch, of one model or of several.

    Raises:
        CaptionerError: it runs an exported captioner, which cannot be used to ``purpose``.
    """
    found = engine.in_torch()
    if not isinstance(found, TorchEngine):
        raise CaptionerError(
            f"an exported captioner cannot be used to {purpose}; give the model that it was exported from"
        )
    return found


def model_engine(engine: Engine, purpose: str) -> ModelEngine:
    """Return the engine of one model in torch; see :func:`torch_engine`.

    Raises:
        CaptionerError: it runs an exported captioner or an ensemble.
    """
    engine = torch_engine(engine, purpose)
    if not isinstance(engine, ModelEngine):
        raise CaptionerError(f"an ensemble cannot be used to {purpose}; give one of its models")
    return engine
