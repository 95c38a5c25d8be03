"""Parts of the decoders' recurrences: the LSTM's gates, and products with one weight gradient for all steps.

A recurrence multiplies by the same weights at every step. Recorded step by step, the backward pass computes a gradient
as large as the weight for each step and adds them up; here it is one product over all steps. autograd itself collects
the factors, as in :mod:`captioner.layers.additive`: the weight's node gives every step an empty *slip*, and as the
"gradient" of its slip a step returns the rows of its input and of its output's gradient. Nothing is kept outside the
graph, so a graph can be traversed twice or in part.

Tensor letters: I inputs, O outputs, H hidden units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.layers.kernels import wide
from captioner.layers.linear import Packable, PackedLinear

Product: TypeAlias = Callable[[Tensor], Tensor]  # x (..., I) -> x W^T (..., O), at least 32 bits


def lstm_gates(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the gates of an LSTM (Hochreiter 1997, with forget gates).

    Args:
        gates: (..., 4H) pre-activations in torch's order: input, forget, cell, output.
        c: (..., H) the previous cell.

    Returns:
        The new hidden state and the new cell, (..., H) each.
    """
    units = c.shape[-1]
    i, f = torch.sigmoid(gates[..., : 2 * units]).chunk(2, dim=-1)
    g, o = torch.tanh(gates[..., 2 * units : 3 * units]), torch.sigmoid(gates[..., 3 * units :])
    c = f * c + i * g
    return o * torch.tanh(c), c


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply x (..., I) by a weight (O, I) in the weight's precision; the result (..., O) has at least 32 bits."""
    return wide(F.linear(x.to(weight.dtype), weight, bias))


def products(weights: Sequence[Tensor]) -> list[Product]:
    """Return for each weight (O, I) the function that multiplies by it, for a single step of a search."""
    return [partial(product, weight=weight) for weight in weights]


class Recurrent(Packable, ABC):
    """A decoder that multiplies by the same weights at every step of a search: packed ones, if it is a packed twin."""

    _packed: list[Product] | None = None

    @abstractmethod
    def search_weights(self) -> list[Tensor]:
        """Return the weights (O, I) that a step of a search multiplies by."""

    def products(self) -> list[Product]:
        """Return for each of them the function that multiplies by it."""
        return products(self.search_weights()) if self._packed is None else self._packed

    def pack(self, dtype: torch.dtype) -> None:
        """See :meth:`Packable.pack`."""
        self._packed = [_packed_product(weight, dtype) for weight in self.search_weights()]


def _packed_product(weight: Tensor, dtype: torch.dtype) -> Product:
    linear = PackedLinear(weight, None, dtype)
    return lambda x: wide(linear(x))


class _Weight(torch.autograd.Function):
    """From a weight to one slip (rows, O + I) per step.

    The backward pass goes from what the steps wrote on the slips to the gradient of the weight.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: list[int]) -> tuple[Tensor, ...]:
        ctx.sizes, ctx.dtype = list(weight.shape), weight.dtype
        slip = weight.new_zeros(1, dtype=torch.promote_types(weight.dtype, torch.float32))
        return tuple(slip.expand(n, sum(weight.shape)) for n in rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slips: Tensor) -> tuple[Tensor, None]:
        d_y, x = torch.cat(slips).to(ctx.dtype).split(ctx.sizes, dim=-1)
        return d_y.t() @ x, None


class _Product(torch.autograd.Function):
    """From one step's x (..., I) to x W^T (..., O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slip: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        d_x = (d_y.to(weight.dtype) @ weight).to(x.dtype)
        return d_x, torch.cat([d_y, x], dim=-1).flatten(0, -2), None


def _multiply(x: Tensor, *, slip: Tensor, weight: Tensor) -> Tensor:
    y: Tensor = _Product.apply(x, slip, weight)
    return y


def recurrent_products(weights: Sequence[Tensor], rows: list[int]) -> Iterator[list[Product]]:
    """Prepare weights for the steps of a recurrence, in autocast's precision where that is on.

    Args:
        weights: (O, I) each.
        rows: for each step how many rows (the product of all dimensions of x but the last) it multiplies.

    Returns:
        For each step and each weight, the function that multiplies x (..., I) by it. Each may be called only once: the
        messages of two calls would be added up on one slip.
    """
    device = weights[0].device.type
    if torch.is_autocast_enabled(device):
        weights = [weight.to(torch.get_autocast_dtype(device)) for weight in weights]
    prepared = [(weight.detach(), _Weight.apply(weight, rows)) for weight in weights]
    for step in range(len(rows)):
        yield [partial(_multiply, slip=slips[step], weight=weight) for weight, slips in prepared]
