"""Products of a recurrence with one weight gradient for all steps, and the LSTM's gates.

A recurrence multiplies by the same weights at every step. Step by step, the backward pass computes a gradient as large
as the weight for each step and adds them up; here it is one product over all steps. autograd collects the factors as in
:mod:`captioner.layers.additive`: the weight's node gives every step an empty *slip*, and as the "gradient" of its slip
a step returns its input and the gradient of its output.

Tensor letters: I inputs, O outputs, H hidden units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.layers.kernels import at_least_float32
from captioner.layers.linear import Packable, PackedLinear

Product: TypeAlias = Callable[[Tensor], Tensor]  # x (..., I) -> x W^T (..., O), at least 32 bits
Products: TypeAlias = Mapping[str, Product]  # by the name of their weight


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
    return at_least_float32(F.linear(x.to(weight.dtype), weight, bias))


class Recurrent(Packable, ABC):
    """A decoder that multiplies by the same weights at every step."""

    _packed: Products | None = None

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Return the weights (O, I) of a step's products, by name."""

    def products(self) -> Products:
        """Return the products of one step, by the names of their weights; with packed weights after :meth:`pack`."""
        if self._packed is not None:
            return self._packed
        return {name: partial(product, weight=weight) for name, weight in self.weights().items()}

    def pack(self, dtype: torch.dtype) -> None:
        """Pack the weights in ``dtype``."""
        self._packed = {name: _packed_product(weight, dtype) for name, weight in self.weights().items()}


def _packed_product(weight: Tensor, dtype: torch.dtype) -> Product:
    linear = PackedLinear(weight, None, dtype)
    return lambda x: at_least_float32(linear(x))


class _Weight(torch.autograd.Function):
    """From a weight to one slip (rows, O + I) per step; backward, from all slips to the gradient of the weight."""

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


def unrolled_products(weights: Mapping[str, Tensor], rows: list[int]) -> Iterator[Products]:
    """Prepare the products of all steps of a recurrence, in autocast's precision where that is on.

    Args:
        weights: (O, I) each, by name.
        rows: for each step the number of rows of x (the product of all its dimensions but the last).

    Yields:
        For each step its products x (..., I) -> (..., O), by name. Call each only once: autograd would add up the slips
        of two calls.
    """
    prepared = {}
    for name, weight in weights.items():
        device = weight.device.type
        if torch.is_autocast_enabled(device):
            weight = weight.to(torch.get_autocast_dtype(device))
        prepared[name] = (weight.detach(), _Weight.apply(weight, rows))
    for step in range(len(rows)):
        yield {name: partial(_multiply, slip=slips[step], weight=weight) for name, (weight, slips) in prepared.items()}
