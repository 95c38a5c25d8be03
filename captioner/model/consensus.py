"""Prediction of the n-grams that people use for an image; :mod:`captioner.search.consensus` chooses captions by it.

Letters in shapes: B images, D features, R rank, M n-grams.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from captioner.search.consensus import LONGEST, Ngrams
from captioner.settings import Settings


class ConsensusConfig(Settings):
    """Sizes of the prediction."""

    ngrams: int = Field(gt=0, description="M: number of n-grams")
    rank: int = Field(gt=0, description="R: rank of the linear map")
    images: int = Field(gt=0, description="number of training images")


class Consensus(nn.Module):
    """A linear map of low rank from the encoder's pooled feature to the mean tf-idf vector of people's captions.

    The feature is normalised, centred and normalised again. :mod:`captioner.training.consensus` fits the map.

    Attributes:
        words: (M, 4) int32, the words of each n-gram, 0 after its end.
        idf: (M,) their inverse document frequencies.
        centre: (D,) the mean of the normalised features of the training images.
    """

    words: Tensor
    idf: Tensor
    centre: Tensor

    def __init__(self, config: ConsensusConfig, *, features: int) -> None:
        super().__init__()
        self.config = config
        self.down = nn.Linear(features, config.rank, bias=False)
        self.up = nn.Linear(config.rank, config.ngrams)
        self.register_buffer("words", torch.zeros(config.ngrams, LONGEST, dtype=torch.int32))
        self.register_buffer("idf", torch.zeros(config.ngrams))
        self.register_buffer("centre", torch.zeros(features))

    @torch.no_grad()
    def forward(self, pooled: Tensor) -> Tensor:
        """Predict the mean of the normalised tf-idf vectors of people's captions (B, M) from features (B, D)."""
        expected: Tensor = self.up(self.down(normalised(pooled.float(), self.centre)))
        return expected

    @cached_property
    def ngrams(self) -> Ngrams:
        """The n-grams, for lookups."""
        return Ngrams(self.words.cpu().numpy(), self.idf.float().cpu().numpy(), self.config.images)


def normalised(pooled: Tensor, centre: Tensor) -> Tensor:
    """Normalise features (B, D), centre them, and normalise them again."""
    return F.normalize(F.normalize(pooled, dim=-1) - centre, dim=-1)
