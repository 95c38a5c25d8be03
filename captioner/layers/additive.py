r"""Additive attention for recurrences, with a cheap backward pass that keeps nothing of size B K N A.

    e_t     = v . tanh(keys + query_t)                 (Bahdanau 2015)
    alpha_t = softmax(e_t)
    z_t     = sum_n alpha_t[n] values[n]

With hard attention (Xu 2015, section 4.1) a place s_t is sampled from alpha_t and z_t = values[s_t]. The context then
gives alpha_t no gradient; its gradient comes from the objective.

The steps are sequential, because a query depends on the previous step, but the places are the same at every step. They
are therefore prepared once before the first step, and their gradients are computed once after the last: one pass over
the keys and one large product, instead of T matrices of size B N (A + D) to fill and to add up. The inputs to that
product (the gradients of every score and every context) become known step by step in the backward pass, and autograd
itself delivers them: the node of the places gives every step an empty *slip*, and the "gradient" that a step returns
for its slip is not a derivative but this message. Autograd reaches the node of the places after all steps, and hands it
all slips. Nothing is kept outside the graph, so a graph can be traversed twice or in part.

Tensor letters: B images, K captions an image, T steps, N places, A attention units, D value features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.layers import kernels
from captioner.layers.kernels import at_least_float32


class Glimpse(NamedTuple):
    """The result of attending with a query.

    Attributes:
        context: (B, K, D) z, at least 32 bits.
        alpha: (B, K, N) the attention weights, at least 32 bits.
        sampled: (B, K) the one place attended to, -1 where it was all of them; ``None`` if places are never sampled.
    """

    context: Tensor
    alpha: Tensor
    sampled: Tensor | None


Attend: TypeAlias = Callable[[Tensor], Glimpse]  # from the query (B, K, A) of one step
# From alpha (B, K, N) of the active images to places (B, K), -1 for all places.
Sampler: TypeAlias = Callable[[Tensor], Tensor]


class Keys(NamedTuple):
    """An image's places prepared for scoring, in the two layouts that the kernels read: (B, A, N) and (B, N, A)."""

    units_first: Tensor
    places_first: Tensor

    @classmethod
    def of(cls, keys: Tensor) -> Keys:
        """Prepare keys (B, N, A)."""
        e = kernels.exponential(at_least_float32(keys))
        return cls(e.transpose(1, 2).contiguous(), e.contiguous())


def _one_hot(alpha: Tensor, sampled: Tensor) -> Tensor:
    """Return the weights of the average: one-hot at the sampled place (...,), or alpha (..., N) where it is -1."""
    one_hot = F.one_hot(sampled.clamp(min=0), alpha.shape[-1]).to(alpha.dtype)
    return torch.where((sampled >= 0).unsqueeze(-1), one_hot, alpha)


def attend(
    query: Tensor,
    *,
    keys: Tensor,
    values: Tensor,
    v: Tensor,
    mask: Tensor | None,
    sampler: Sampler | None = None,
    compiled: bool = False,
) -> Glimpse:
    """Attend to places for a single step, as a search does.

    Args:
        query: (B, K, A).
        keys: (B, A, N) from ``Keys.units_first``.
        values: (B, N, D) the vectors to average, in their own precision.
        v: (A,) the scoring vector.
        mask: (B, N) bool, true where a place is real.
        sampler: chooses the places in hard attention; ``None`` is soft attention.
        compiled: whether the fused kernels may be used.
    """
    scores: Tensor = kernels.scores(
        keys, kernels.exponential(at_least_float32(query)), at_least_float32(v), compiled=compiled
    )
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(1), float("-inf"))
    alpha = torch.softmax(scores, dim=-1)
    sampled = None if sampler is None else sampler(alpha)
    weights = alpha if sampled is None else _one_hot(alpha, sampled)
    return Glimpse(at_least_float32(torch.bmm(weights.to(values.dtype), values)), alpha, sampled)


class _Prepared(NamedTuple):
    """The places in the form that the steps need, detached: their gradients go through the slips."""

    keys: Keys
    values: Tensor
    v: Tensor
    mask: Tensor | None
    sampler: Sampler | None
    compiled: bool

    def of(self, images: int) -> _Prepared:
        """Return the places of the first images."""
        keys = Keys(*(layout[:images] for layout in self.keys))
        return self._replace(
            keys=keys, values=self.values[:images], mask=None if self.mask is None else self.mask[:images]
        )


class _Places(torch.autograd.Function):
    """From keys, values and v to one slip (B_t, K, N + N + A + D) per step.

    The backward pass goes from what the steps wrote on the slips to the gradients of keys, values and v.
    """

    @staticmethod
    def forward(
        ctx: Any, keys: Tensor, values: Tensor, v: Tensor, prepared: _Prepared, active: list[int], captions: int
    ) -> tuple[Tensor, ...]:
        ctx.prepared, ctx.active, ctx.captions = prepared, active, captions
        (_, n, a), d = keys.shape, values.shape[-1]
        ctx.sizes = [n, n, a, d]
        return tuple(v.new_zeros(1).expand(images, captions, sum(ctx.sizes)) for images in active)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slips: Tensor) -> tuple[Tensor | None, ...]:
        keys, values, v, _, _, compiled = ctx.prepared
        written = v.new_zeros(len(values), len(slips), ctx.captions, sum(ctx.sizes))  # zero where an image has ended
        for t, slip in enumerate(slips):
            written[: ctx.active[t], t] = slip
        d_scores, weights, exponentials, d_context = written.flatten(1, 2).split(ctx.sizes, dim=-1)
        d_keys, d_v = kernels.key_gradient(
            keys.places_first, exponentials.contiguous(), d_scores.contiguous(), compiled=compiled
        )
        d_values = torch.bmm(weights.transpose(1, 2).to(values.dtype), d_context.to(values.dtype))
        return 4.0 * v * d_keys, d_values, d_v.sum((0, 1)), None, None, None


class _Step(torch.autograd.Function):
    """From the query of one step to its context and alpha."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, slip: Tensor, prepared: _Prepared) -> Glimpse:
        keys, values, v, mask, sampler, compiled = prepared.of(len(query))
        glimpse = attend(
            query, keys=keys.units_first, values=values, v=v, mask=mask, sampler=sampler, compiled=compiled
        )
        ctx.prepared = prepared
        ctx.save_for_backward(query, glimpse.alpha, glimpse.sampled)
        if glimpse.sampled is not None:
            ctx.mark_non_differentiable(glimpse.sampled)
        return glimpse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_context, d_alpha, _ = gradients
        query, alpha, sampled = ctx.saved_tensors
        keys, values, v, _, _, compiled = ctx.prepared.of(len(query))
        through_context = at_least_float32(torch.bmm(d_context.to(values.dtype), values.transpose(1, 2)))
        weights = alpha
        if sampled is not None:  # a context of one place gives alpha no gradient
            through_context.masked_fill_((sampled >= 0).unsqueeze(-1), 0.0)
            weights = _one_hot(alpha, sampled)
        d_alpha = d_alpha + through_context
        d_scores = alpha * (d_alpha - (alpha * d_alpha).sum(-1, keepdim=True))
        exponential = kernels.exponential(query)
        d_query = 4.0 * v * kernels.query_gradient(keys.places_first, exponential, d_scores, compiled=compiled)
        return d_query, torch.cat([d_scores, weights, exponential, d_context], dim=-1), None


def _attend_step(query: Tensor, *, slip: Tensor, prepared: _Prepared) -> Glimpse:
    return Glimpse(*_Step.apply(at_least_float32(query), slip, prepared))


def additive_attention(
    keys: Tensor,
    values: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    active: list[int],
    captions: int,
    sampler: Sampler | None = None,
) -> list[Attend]:
    """Prepare places for attention in several steps.

    Args:
        keys: (B, N, A) places, projected for scoring.
        values: (B, N, D) places, as they are averaged; products with them are computed in their own precision.
        v: (A,) the scoring vector.
        mask: (B, N) bool, true where a place is real.
        active: for each step how many images, counted from the first, take part.
        captions: K.
        sampler: chooses the places in hard attention; ``None`` is soft attention.

    Returns:
        A function for each step, from the query (active images, K, A) to its :class:`Glimpse`. It may be called only
        once: the messages of two calls would be added up on one slip.
    """
    compiled = keys.device.type == "cpu" and torch.is_grad_enabled() and keys.dtype != torch.float64
    keys, v = at_least_float32(keys), at_least_float32(v)
    prepared = _Prepared(Keys.of(keys.detach()), values.detach(), v.detach(), mask, sampler, compiled)
    slips = _Places.apply(keys, values, v, prepared, active, captions)
    return [partial(_attend_step, slip=slip, prepared=prepared) for slip in slips]
