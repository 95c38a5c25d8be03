r"""Additive attention for recurrences that autograd records: cheap, and nothing of size B K N A is kept for the backward pass.

    e_t     = v . tanh(keys + query_t)                 (Bahdanau 2015)
    alpha_t = softmax(e_t)
    z_t     = sum_n alpha_t[n] values[n]

The steps come one by one, for a query depends on the step before, but the places are the same at all of them. So they are prepared once before the
first step, and their gradients are taken once after the last: one pass over the keys and one large product, where a gradient for every step would be
T matrices of size B N (A + D) to fill and to add up. What that takes (how much every score and every context matters) is known step by step in the
backward pass, and autograd itself delivers it: the node of the places gives every step an empty *slip*; a step's "gradient" of its slip is no
derivative, but this message. Autograd goes to the node of the places when all steps have been gone through, and hands it all slips. Nothing is kept
outside the graph, so that a graph can be gone through twice or in part.

Tensor letters: B images, K captions an image, T steps, N places, A attention units, D value features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.layers import kernels
from captioner.layers.kernels import wide
from captioner.layers.recurrence import Keys, attend

Look: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]  # query (B, K, A) -> context z (B, K, D) and alpha (B, K, N), at least 32 bits


def attend_once(query: Tensor, *, keys: Tensor, values: Tensor, v: Tensor, mask: Tensor | None, compiled: bool = False) -> tuple[Tensor, Tensor]:
    """Look at places once, as a search does.

    Args:
        query: (B, K, A).
        keys: (B, A, N) from ``Keys.units_first``.
        values: (B, N, D) what is averaged, in their own precision.
        v: (A,) the scoring vector.
        mask: (B, N) bool, true where a place is real.
        compiled: whether the fused kernels may be used.

    Returns:
        The context (B, K, D) and alpha (B, K, N), at least 32 bits each.
    """
    alpha = attend(keys, query, v, mask, compiled=compiled)
    return wide(torch.bmm(alpha.to(values.dtype), values)), alpha


class _Prepared(NamedTuple):
    """The places as the steps need them, detached: their gradients go through the slips."""

    keys: Keys
    values: Tensor
    v: Tensor
    mask: Tensor | None
    compiled: bool

    def of(self, images: int) -> _Prepared:
        """Return the places of the first images."""
        keys = Keys(*(layout[:images] for layout in self.keys))
        return self._replace(keys=keys, values=self.values[:images], mask=None if self.mask is None else self.mask[:images])


class _Places(torch.autograd.Function):
    """From keys, values and v to one slip (B_t, K, N + N + A + D) a step; backwards from what the steps wrote on them to the gradients."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, values: Tensor, v: Tensor, prepared: _Prepared, active: list[int], captions: int) -> tuple[Tensor, ...]:
        ctx.prepared, ctx.active, ctx.captions = prepared, active, captions
        (_, n, a), d = keys.shape, values.shape[-1]
        ctx.sizes = [n, n, a, d]
        return tuple(v.new_zeros(1).expand(images, captions, sum(ctx.sizes)) for images in active)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slips: Tensor) -> tuple[Tensor | None, ...]:
        keys, values, v, _, compiled = ctx.prepared
        written = v.new_zeros(len(values), len(slips), ctx.captions, sum(ctx.sizes))  # nothing where an image is done
        for t, slip in enumerate(slips):
            written[: ctx.active[t], t] = slip
        d_scores, alpha, exponentials, d_context = written.flatten(1, 2).split(ctx.sizes, dim=-1)
        d_keys, d_v = kernels.key_gradient(keys.places_first, exponentials.contiguous(), d_scores.contiguous(), compiled=compiled)
        d_values = torch.bmm(alpha.transpose(1, 2).to(values.dtype), d_context.to(values.dtype))
        return 4.0 * v * d_keys, d_values, d_v.sum((0, 1)), None, None, None


class _Step(torch.autograd.Function):
    """From the query of one step to its context and alpha."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, slip: Tensor, prepared: _Prepared) -> tuple[Tensor, Tensor]:
        keys, values, v, mask, compiled = prepared.of(len(query))
        context, alpha = attend_once(query, keys=keys.units_first, values=values, v=v, mask=mask, compiled=compiled)
        ctx.prepared = prepared
        ctx.save_for_backward(query, alpha)
        return context, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_context, d_alpha = gradients
        query, alpha = ctx.saved_tensors
        keys, values, v, _, compiled = ctx.prepared.of(len(query))
        d_alpha = d_alpha + wide(torch.bmm(d_context.to(values.dtype), values.transpose(1, 2)))
        d_scores = alpha * (d_alpha - (alpha * d_alpha).sum(-1, keepdim=True))
        exponential = kernels.exponential(query)
        d_query = 4.0 * v * kernels.query_gradient(keys.places_first, exponential, d_scores, compiled=compiled)
        return d_query, torch.cat([d_scores, alpha, exponential, d_context], dim=-1), None


def _look(query: Tensor, *, slip: Tensor, prepared: _Prepared) -> tuple[Tensor, Tensor]:
    context, alpha = _Step.apply(wide(query), slip, prepared)
    return context, alpha


def additive_attention(keys: Tensor, values: Tensor, v: Tensor, *, mask: Tensor | None, active: list[int], captions: int) -> list[Look]:
    """Prepare places for being looked at in several steps.

    Args:
        keys: (B, N, A) places, projected for scoring.
        values: (B, N, D) places, as they are averaged; products with them are taken in their own precision.
        v: (A,) the scoring vector.
        mask: (B, N) bool, true where a place is real.
        active: for each step how many images, counted from the first, take part.
        captions: K.

    Returns:
        A function for each step, from the query (active images, K, A) to the context (..., D) and alpha (..., N). It may be called once only: the
        messages of two calls would be added up on one slip.
    """
    compiled = keys.device.type == "cpu" and torch.is_grad_enabled() and keys.dtype != torch.float64
    keys, v = wide(keys), wide(v)
    prepared = _Prepared(Keys.of(keys.detach()), values.detach(), v.detach(), mask, compiled)
    slips = _Places.apply(keys, values, v, prepared, active, captions)
    return [partial(_look, slip=slip, prepared=prepared) for slip in slips]
