r"""Additive attention for recurrences, with a backward pass that stores nothing of size B K N A.

    e_t     = v . tanh(keys + query_t)                 (Bahdanau 2015)
    alpha_t = softmax(e_t)
    z_t     = sum_n alpha_t[n] values[n]

With hard attention (Xu 2015, section 4.1) an index s_t is sampled from alpha_t and z_t = values[s_t]. The context then
gives alpha_t no gradient; its gradient comes from the objective.

:func:`attend` is one step. :func:`additive_attention` is the form for training. Keys and values are the same at every
step, so their gradients are computed once after the last step, by one pass over the keys and one large product, instead
of T matrices of size B N (A + D) that are added up. autograd delivers the factors: the node of keys and values gives
each step an empty *placeholder*, and the "gradient" that a step returns for its placeholder is the step's part of the
factors. autograd reaches the node after all steps, with all of them. No state is kept outside the graph, so it can be
traversed twice or in part.

Tensor letters: B images, K captions per image, T steps, N regions or cells, A attention units, D value features.
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
from captioner.layers.packing import Packing


class Glimpse(NamedTuple):
    """The result of attending with a query.

    Attributes:
        context: (B, K, D) z, at least 32 bits.
        alpha: (B, K, N) the attention weights, at least 32 bits.
        sampled: (B, K) the sampled index, -1 for the expected vector; ``None`` with soft attention.
    """

    context: Tensor
    alpha: Tensor
    sampled: Tensor | None


Attend: TypeAlias = Callable[[Tensor], Glimpse]  # from the query (B, K, A) of one step
# From alpha (B, K, N) of the active images to indices (B, K), -1 for the expected vector.
Sampler: TypeAlias = Callable[[Tensor], Tensor]


class Keys(NamedTuple):
    """Keys prepared for scoring, in the two layouts that the kernels need: (B, A, N) and (B, N, A)."""

    units_first: Tensor
    units_last: Tensor

    @classmethod
    def of(cls, keys: Tensor) -> Keys:
        """Prepare keys (B, N, A)."""
        e = kernels.exponential(at_least_float32(keys))
        return cls(e.transpose(1, 2).contiguous(), e.contiguous())


def _value_weights(alpha: Tensor, sampled: Tensor) -> Tensor:
    """Return the weights of the values: one-hot at the sampled index (...,), or alpha (..., N) where it is -1."""
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
    """Attend in a single step.

    Args:
        query: (B, K, A).
        keys: (B, A, N) from ``Keys.units_first``.
        values: (B, N, D) the vectors to average, in their own precision.
        v: (A,) the scoring vector.
        mask: (B, N) bool, true where a region or cell is real.
        sampler: samples in hard attention; ``None`` is soft attention.
        compiled: whether the fused kernels may be used.
    """
    scores: Tensor = kernels.scores(
        keys, kernels.exponential(at_least_float32(query)), at_least_float32(v), compiled=compiled
    )
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(1), float("-inf"))
    alpha = torch.softmax(scores, dim=-1)
    sampled = None if sampler is None else sampler(alpha)
    weights = alpha if sampled is None else _value_weights(alpha, sampled)
    return Glimpse(at_least_float32(torch.bmm(weights.to(values.dtype), values)), alpha, sampled)


class _Inputs(NamedTuple):
    """The detached inputs of all steps, in the packing's order of images; see :class:`_Placeholders` for gradients."""

    keys: Keys
    values: Tensor
    v: Tensor
    mask: Tensor | None
    sampler: Sampler | None
    compiled: bool
    packing: Packing

    def of(self, images: int) -> _Inputs:
        """Return the inputs of the first images."""
        keys = Keys(*(layout[:images] for layout in self.keys))
        return self._replace(
            keys=keys, values=self.values[:images], mask=None if self.mask is None else self.mask[:images]
        )


class _Placeholders(torch.autograd.Function):
    """From keys, values and v to four placeholders for each step; backward, from all of them to gradients.

    The placeholders of a step are (rows, 1, N) for the gradient of the scores and for the weights, (rows, 1, A) for the
    exponential of the query, and (rows, 1, D) for the gradient of the context.
    """

    @staticmethod
    def forward(ctx: Any, keys: Tensor, values: Tensor, v: Tensor, inputs: _Inputs) -> tuple[Tensor, ...]:
        ctx.inputs = inputs
        (_, n, a), d = keys.shape, values.shape[-1]
        kinds = ((v, n), (values, n), (v, a), (values, d))  # a tensor of the same precision, and the size
        return tuple(like.new_zeros(1).expand(rows, 1, size) for like, size in kinds for rows in inputs.packing.active)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *placeholders: Tensor) -> tuple[Tensor | None, ...]:
        keys, _, v, _, _, compiled, packing = ctx.inputs
        steps = len(packing.active)
        d_scores, weights, exponentials, d_context = (
            packing.by_image(torch.cat(placeholders[first : first + steps]).squeeze(1))
            for first in range(0, len(placeholders), steps)
        )
        d_keys, d_v = kernels.key_gradient(keys.units_last, exponentials, d_scores, compiled=compiled)
        d_values = torch.bmm(weights.transpose(1, 2), d_context)
        inverse = packing.order.argsort()
        return (4.0 * v * d_keys)[inverse], d_values[inverse], d_v.sum((0, 1)), None


class _AttendStep(torch.autograd.Function):
    """From the query of one step to its context and alpha."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, inputs: _Inputs, step: int, *placeholders: Tensor
    ) -> tuple[Tensor | None, ...]:
        rows, images = inputs.packing.active[step], inputs.packing.images[step]
        inputs = inputs.of(images)
        keys, values, v, mask, sampler, compiled, packing = inputs
        glimpse = attend(
            packing.scatter(query, images),
            keys=keys.units_first,
            values=values,
            v=v,
            mask=mask,
            sampler=sampler,
            compiled=compiled,
        )
        ctx.inputs, ctx.images = inputs, images
        ctx.save_for_backward(query, glimpse.alpha, glimpse.sampled)
        context, alpha = (packing.gather(part, rows) for part in (glimpse.context, glimpse.alpha))
        if glimpse.sampled is None:
            return context, alpha, None
        sampled = packing.gather(glimpse.sampled, rows)
        ctx.mark_non_differentiable(sampled)
        return context, alpha, sampled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_context, d_alpha, _ = gradients
        query, alpha, sampled = ctx.saved_tensors
        keys, values, v, _, _, compiled, packing = ctx.inputs
        d_context = d_context.to(values.dtype)
        through_context = torch.bmm(packing.scatter(d_context, ctx.images), values.transpose(1, 2)).to(alpha.dtype)
        weights = alpha
        if sampled is not None:  # a sampled context gives alpha no gradient
            through_context.masked_fill_((sampled >= 0).unsqueeze(-1), 0.0)
            weights = _value_weights(alpha, sampled)
        d_alpha = packing.scatter(d_alpha, ctx.images) + through_context
        d_scores = alpha * (d_alpha - (alpha * d_alpha).sum(-1, keepdim=True))
        exponential = kernels.exponential(query)
        d_query = kernels.query_gradient(
            keys.units_last, packing.scatter(exponential, ctx.images), d_scores, compiled=compiled
        )
        d_query, d_scores, weights = (packing.gather(part, len(query)) for part in (d_query, d_scores, weights))
        return 4.0 * v * d_query, None, None, d_scores, weights.to(values.dtype), exponential, d_context


def _attend_step(query: Tensor, *, inputs: _Inputs, step: int, placeholders: tuple[Tensor, ...]) -> Glimpse:
    return Glimpse(*_AttendStep.apply(at_least_float32(query), inputs, step, *placeholders))


def additive_attention(
    keys: Tensor,
    values: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    packing: Packing,
    sampler: Sampler | None = None,
) -> list[Attend]:
    """Prepare the attention of all steps of teacher forcing.

    Args:
        keys: (B, N, A) for scoring.
        values: (B, N, D) the vectors to average; products with them are computed in their own precision.
        v: (A,) the scoring vector.
        mask: (B, N) bool, true where a region or cell is real.
        packing: the rows of the steps.
        sampler: samples in hard attention; ``None`` is soft attention.

    Returns:
        A function for each step, from the queries (rows, 1, A) of its rows to their :class:`Glimpse`. Call it only
        once: autograd would add up the placeholders of two calls.
    """
    compiled = keys.device.type == "cpu" and torch.is_grad_enabled() and keys.dtype != torch.float64
    keys, v = at_least_float32(keys), at_least_float32(v)
    order = packing.order
    inputs = _Inputs(
        Keys.of(keys.detach()[order]),
        values.detach()[order],
        v.detach(),
        None if mask is None else mask[order],
        sampler,
        compiled,
        packing,
    )
    placeholders, steps = _Placeholders.apply(keys, values, v, inputs), len(packing.active)
    return [
        partial(_attend_step, inputs=inputs, step=step, placeholders=placeholders[step::steps]) for step in range(steps)
    ]
