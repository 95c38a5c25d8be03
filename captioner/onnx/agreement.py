"""The differences between an exported captioner and its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from captioner.data.images import ImageSource, load_image
from captioner.errors import CaptionerError
from captioner.model import CaptionModel
from captioner.onnx.beam import beam
from captioner.onnx.engine import OnnxEngine
from captioner.search.config import Hypothesis
from captioner.search.search import search as find


@dataclass(frozen=True)
class Agreement:
    """The largest differences between the graphs and their model over some images.

    Attributes:
        photos: number of images compared.
        features: difference of the encoder's features, relative to their norm.
        log_probabilities: difference of the best captions' log-probabilities, in nats.
        attention: difference of their attention weights; ``None`` if the model does not attend.
        same: number of images with the same best caption, word for word. Another caption agrees only if both are
            equally probable to the model, within the tolerance.
    """

    photos: int
    features: float
    log_probabilities: float
    attention: float | None
    same: int


def compare(model: CaptionModel, exported: OnnxEngine, images: Sequence[ImageSource]) -> Agreement:
    """Compare an export with its model on images, with the model's own search, at full precision.

    Raises:
        CaptionerError: there are no images.
        ImageError: an image cannot be read.
    """
    if not images:
        raise CaptionerError("there are no images to compare the export on; give some")
    transform, search = model.encoder.transform, exported.search
    features, log_probabilities, attention, same = [0.0], [0.0], [0.0], 0
    for image in images:
        pixels = transform.pixels(load_image(image, min_size=transform.decode_size))[None]
        with torch.inference_mode():
            memory = model(torch.from_numpy(pixels))
            refined = model.refiner(memory)
        ours = exported.encode(pixels)
        theirs = memory.vectors.numpy()
        features.append(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)))
        (hypotheses,) = beam(exported, exported.start(ours), 1, search)
        (expected,) = find(model.decoder, refined, search)
        found, best = hypotheses[0], expected[0]
        log_probabilities.append(abs(found.log_probability - best.log_probability))
        if found.words == best.words:
            same += 1
            attention.append(_apart(found, best))
    return Agreement(
        photos=len(images),
        features=max(features),
        log_probabilities=max(log_probabilities),
        attention=max(attention) if exported.attends else None,
        same=same,
    )


def _apart(found: Hypothesis, expected: Hypothesis) -> float:
    if found.attention is None or expected.attention is None:
        return 0.0
    return float(np.abs(found.attention - expected.attention).max(initial=0))
