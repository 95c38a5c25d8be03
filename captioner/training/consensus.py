"""Fitting the consensus: a ridge regression from an image's pooled feature to the n-grams of its references.

Letters in shapes: I images, D features, R rank, M n-grams.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from captioner.data.dataset import CaptionedImage
from captioner.data.loader import ImageLoader
from captioner.encoders import Encoder
from captioner.features import FeatureStore
from captioner.search.consensus import MAX_N, Consensus, ngram_counts
from captioner.settings import Settings
from captioner.store.weights import quantised
from captioner.text.vocabulary import UNK, Vocabulary, tokenize

BATCH = 64


class ConsensusSettings(Settings):
    """Settings of the regression."""

    min_images: int = Field(20, ge=1, description="n-grams in the captions of fewer images are left out")
    rank: int = Field(256, ge=1, description="rank of the map from features to n-grams")
    ridge: float = Field(0.3, gt=0, description="the penalty on the squared weights, for features of length 1")


def fit_consensus(
    pooled: Tensor, captions: Sequence[Sequence[Sequence[int]]], settings: ConsensusSettings
) -> Consensus | None:
    """Fit the regression.

    The weights W of the ridge regression minimise ``|X W - Y|^2 + ridge |W|^2``, where a row of X is the feature of an
    image and a row of Y the mean of the normalised tf-idf vectors of its captions, less that of all images. They are
    projected on the R directions in which the fitted values ``X W`` vary most, which is reduced-rank regression
    (Izenman 1975) with the ridge's penalty.

    Args:
        pooled: (I, D) features of the training images.
        captions: the word indices of their captions, without special words.
        settings: the settings.

    Returns:
        The fitted prediction; ``None`` if no n-gram is in the captions of enough images.
    """
    images = len(captions)
    counts = [[ngram_counts(words) for words in of_image] for of_image in captions]
    frequency = Counter(
        ngram for of_image in counts for ngram in {ngram for caption in of_image for n in caption for ngram in n}
    )
    kept = sorted(
        (ngram for ngram, count in frequency.items() if count >= settings.min_images and UNK not in ngram),
        key=lambda ngram: (len(ngram), ngram),
    )
    if not kept:
        return None
    column = {ngram: number for number, ngram in enumerate(kept)}
    idf = {ngram: math.log(images / frequency[ngram]) for ngram in frequency}
    rows, columns, values = [], [], []
    for row, of_image in enumerate(counts):
        mean: dict[int, float] = defaultdict(float)
        for caption in of_image:
            for n in caption:
                vector = {ngram: count * idf[ngram] for ngram, count in n.items()}
                length = math.sqrt(sum(value * value for value in vector.values())) or 1.0
                for ngram, value in vector.items():
                    if ngram in column:
                        mean[column[ngram]] += value / length / len(of_image)
        rows += [row] * len(mean)
        columns += list(mean)
        values += list(mean.values())
    y = torch.sparse_coo_tensor(
        torch.tensor([rows, columns]), torch.tensor(values), (images, len(kept)), check_invariants=True
    ).coalesce()
    average = torch.sparse.sum(y, 0).to_dense() / images
    centre = F.normalize(pooled, dim=-1).mean(0)
    x = F.normalize(F.normalize(pooled, dim=-1) - centre, dim=-1)
    gram = x.T @ x
    target = torch.sparse.mm(y.t(), x).T - torch.outer(x.sum(0), average)
    weights = torch.linalg.solve(gram + settings.ridge * torch.eye(len(gram)), target)
    # |X W v| = |C' W v| for the Cholesky factor C of X'X, which has D rows instead of I.
    factor = torch.linalg.cholesky(gram + 1e-4 * torch.eye(len(gram)))
    rank = min(settings.rank, len(kept), len(gram))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, directions = torch.svd_lowrank(factor.T @ weights, q=min(rank + 16, len(kept), len(gram)), niter=4)
    directions = directions[:, :rank]
    down, down_scale = quantised((weights @ directions).T)
    up, up_scale = quantised(directions)
    return Consensus(
        words=np.array([[*ngram, *[0] * (MAX_N - len(ngram))] for ngram in kept], dtype=np.int32),
        idf=np.array([idf[ngram] for ngram in kept], dtype=np.float32),
        mean=average.numpy(),
        centre=centre.numpy(),
        down=down.numpy(),
        down_scale=down_scale.numpy(),
        up=up.numpy(),
        up_scale=up_scale.numpy(),
        images=images,
    )


@torch.inference_mode()
def pooled_features(
    encoder: Encoder, images: Sequence[CaptionedImage], store: FeatureStore | None
) -> tuple[Tensor, list[CaptionedImage]]:
    """Return the pooled features (I, D) of the images that can be read, and these images.

    Args:
        encoder: the encoder, on its device.
        images: the images.
        store: their features, of the whole encoder or without its last stages; ``None`` encodes the images.
    """
    device = next(encoder.parameters()).device
    parts: list[Tensor] = []
    read: list[CaptionedImage] = []
    if store is not None:
        for start in range(0, len(images), BATCH):
            chosen = images[start : start + BATCH]
            memory = store.memory([image.image_id for image in chosen]).to(device)
            parts.append(encoder.finish(memory, store.cut).pooled.float().cpu())
            read += chosen
    else:
        for batch in ImageLoader((image.path for image in images), encoder.transform, batch_size=BATCH):
            if len(batch):
                parts.append(encoder(batch.pixels.to(device)).pooled.float().cpu())
                read += [images[position] for position in batch.positions]
    return torch.cat(parts), read


def word_indices(captions: Iterable[str], vocabulary: Vocabulary) -> list[list[int]]:
    """Return the word indices of captions."""
    return [[vocabulary.index(word) for word in tokenize(caption)] for caption in captions]
