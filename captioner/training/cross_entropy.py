"""Teacher-forced cross-entropy, with label smoothing and the doubly stochastic penalty of Show, Attend and Tell."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from captioner.config import Settings
from captioner.data.batches import Captions
from captioner.decoders.base import Decoder
from captioner.memory import Memory
from captioner.text.vocabulary import PAD


class CrossEntropyConfig(Settings):
    """Settings of the objective."""

    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of the target's probability spread over all words (Szegedy 2016)")
    doubly_stochastic: float = Field(0.5, ge=0, description="weight of the penalty that asks a caption to look at every place (Xu 2015, eq. 14)")


class CrossEntropy:
    """Mean negative log-likelihood of a word, plus ``doubly_stochastic`` times the mean over captions and places of ``(1 - sum_t alpha_t)^2``.

    The paper (equation 14) adds up both the words and the places of a caption; here both are means, so that the weight does not depend on the size of the
    grid: the paper's lambda of 1 is here the number of places over the number of words, about 17.
    """

    def __init__(self, config: CrossEntropyConfig) -> None:
        self.config = config

    def __call__(self, decoder: Decoder, memory: Memory, captions: Captions) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts, each a scalar: ``nll`` (nats a word, without smoothing), ``penalty``."""
        logits, attention = decoder(memory, captions.inputs)
        log_probabilities = torch.log_softmax(logits.float(), dim=-1)
        nll = F.nll_loss(log_probabilities, captions.targets)
        smoothing = self.config.label_smoothing
        loss = (1 - smoothing) * nll - smoothing * log_probabilities.mean() if smoothing else nll
        metrics = {"nll": nll.detach()}
        if attention is not None and self.config.doubly_stochastic:
            penalty = doubly_stochastic_penalty(attention.float(), captions.inputs)
            loss = loss + self.config.doubly_stochastic * penalty
            metrics["penalty"] = penalty.detach()
        return loss, metrics


def doubly_stochastic_penalty(attention: Tensor, inputs: Tensor) -> Tensor:
    """Return the mean over captions and places of ``(1 - sum_t alpha_t)^2``.

    Args:
        attention: (M, N) where each real position looked, in the order of ``inputs[inputs != PAD]``.
        inputs: (B, K, T) words; a row of padding is an absent caption and does not count.
    """
    b, k, _ = inputs.shape
    real = inputs != PAD
    image, caption, _ = real.nonzero(as_tuple=True)
    total = attention.new_zeros(b * k, attention.shape[1]).index_add(0, image * k + caption, attention)
    present = real.any(-1).flatten()
    return ((1.0 - total) ** 2)[present].mean()
