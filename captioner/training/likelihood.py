"""The likelihood of words, in one pass over the logits in each direction.

The logits of a batch are the largest tensor of a training step. A log-softmax, its mean and their gradients pass over
them a dozen times; :func:`log_likelihoods` fuses each direction into one pass where ``torch.compile`` can.

Tensor letters: M real positions, V words of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.layers import kernels
from captioner.layers.kernels import Kernel, at_least_float32


def log_likelihoods(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each target and the mean log-probability of all words, (M,) each.

    Args:
        logits: (M, V); the results have 32 bits, or 64 for logits in 64 bits.
        targets: (M,) word indices.
    """
    if kernels.trains_on_cpu(logits):
        of_targets: Tensor
        of_targets, mean = _LogLikelihoods.apply(logits, targets)
        return of_targets, mean
    log_probabilities = torch.log_softmax(at_least_float32(logits), dim=-1)
    return log_probabilities.gather(1, targets.unsqueeze(1)).squeeze(1), log_probabilities.mean(1)


def _forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two log-likelihoods and the logarithm of the softmax's denominator, (M,) each."""
    x = at_least_float32(logits)
    largest = x.amax(1, keepdim=True)
    total = (torch.exp(x - largest).sum(1, keepdim=True).log() + largest).squeeze(1)
    return x.gather(1, targets.unsqueeze(1)).squeeze(1) - total, x.mean(1) - total, total


def _backward(logits: Tensor, targets: Tensor, total: Tensor, d_of_targets: Tensor, d_mean: Tensor) -> Tensor:
    """Return the gradient of the logits."""
    words = torch.arange(logits.shape[1], device=logits.device)
    at_target = torch.where(words == targets.unsqueeze(1), d_of_targets.unsqueeze(1), 0.0)
    probabilities = torch.exp(at_least_float32(logits) - total.unsqueeze(1))
    everywhere = (d_mean / logits.shape[1]).unsqueeze(1)
    return (at_target + everywhere - (d_of_targets + d_mean).unsqueeze(1) * probabilities).to(logits.dtype)


forward, backward = Kernel(_forward), Kernel(_backward)


class _LogLikelihoods(torch.autograd.Function):
    """:func:`log_likelihoods` as one operation for autograd."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        ctx.compiled = logits.dtype != torch.float64
        of_targets, mean, total = forward(logits, targets, compiled=ctx.compiled)
        ctx.save_for_backward(logits, targets, total)
        return of_targets, mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_of_targets: Tensor, d_mean: Tensor) -> tuple[Tensor, None]:
        return backward(*ctx.saved_tensors, d_of_targets, d_mean, compiled=ctx.compiled), None
