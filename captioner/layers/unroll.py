"""The products of a recurrence, with one weight gradient for all steps.

A recurrence multiplies by the same weights at every step. Usually the backward pass computes a gradient as large as the
weight for each step and adds them up; here it is one product over all steps. autograd collects the factors as in
:mod:`captioner.layers.additive`: the weight's node gives every step two empty *placeholders*, and as their "gradients"
a step returns its input and the gradient of its output. All maps of the same vector are computed as one product.

Tensor letters: I inputs, O outputs, of all maps of a vector together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.layers.kernels import at_least_float32
from captioner.layers.linear import Packable, PackedLinear


class Affine(NamedTuple):
    """The map ``x W^T + b`` of a vector.

    Attributes:
        weight: (outputs, I).
        bias: (outputs,), or ``None``.
    """

    weight: Tensor
    bias: Tensor | None = None


Maps: TypeAlias = Mapping[str, Sequence[Affine]]  # by the name of the vector that they read
Product: TypeAlias = Callable[[Tensor], Sequence[Tensor]]  # from x (..., I) to the output (..., outputs) of each map
Products: TypeAlias = Mapping[str, Product]  # by the name of the vector


def autocast(x: Tensor) -> Tensor:
    """Return ``x`` in autocast's precision where that is on, once for all products that read it."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def product(x: Tensor, maps: Sequence[Affine]) -> list[Tensor]:
    """Apply maps to x (..., I) in the precision of the weights; the results have at least 32 bits."""
    return [_add_bias(at_least_float32(F.linear(x.to(weight.dtype), weight)), bias) for weight, bias in maps]


def _add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias


class Recurrent(Packable, ABC):
    """A decoder that multiplies by the same weights at every step."""

    _packed: Products | None = None

    @abstractmethod
    def maps(self) -> Maps:
        """Return the maps of a step, by the name of the vector that they read."""

    def products(self) -> Products:
        """Return the products of one step, by the names of their vectors; with packed weights after :meth:`pack`."""
        if self._packed is not None:
            return self._packed
        return {name: partial(product, maps=maps) for name, maps in self.maps().items()}

    def pack(self, dtype: torch.dtype) -> None:
        """Pack the weights in ``dtype``."""
        self._packed = {name: _packed_product(maps, dtype) for name, maps in self.maps().items()}


def _packed_product(maps: Sequence[Affine], dtype: torch.dtype) -> Product:
    linear = PackedLinear(torch.cat([weight for weight, _ in maps]), None, dtype)
    sizes, biases = [len(weight) for weight, _ in maps], [bias for _, bias in maps]

    def apply(x: Tensor) -> list[Tensor]:
        outputs = at_least_float32(linear(x)).split(sizes, dim=-1)
        return [_add_bias(y, bias) for y, bias in zip(outputs, biases, strict=True)]

    return apply


class _Weights(torch.autograd.Function):
    """From the weights of a vector's maps to two placeholders per step, (rows, I) and (rows, O).

    Backward, from all placeholders to the gradients of the weight and the bias.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, rows: list[int]) -> tuple[Tensor, ...]:
        placeholder = weight.new_zeros(1)
        return tuple(placeholder.expand(n, size) for size in reversed(weight.shape) for n in rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *placeholders: Tensor) -> tuple[Tensor, Tensor, None]:
        steps = len(placeholders) // 2
        x, d_y = torch.cat(placeholders[:steps]), torch.cat(placeholders[steps:])
        return d_y.t() @ x, d_y.sum(0), None


class _Product(torch.autograd.Function):
    """From one step's x (..., I) to x W^T + b (..., O), in the precision of the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_part: Tensor, y_part: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rounded = x.to(weight.dtype)
        ctx.dtype = x.dtype
        ctx.save_for_backward(rounded, weight)
        return F.linear(rounded, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return (d_y @ weight).to(ctx.dtype), x.flatten(0, -2), d_y.flatten(0, -2), None, None


def unrolled_products(maps: Maps, rows: list[int]) -> Iterator[Products]:
    """Prepare the products of all steps of a recurrence, in autocast's precision where that is on.

    Args:
        maps: of a step, by the name of the vector that they read.
        rows: for each step the number of rows of x (the product of all its dimensions but the last).

    Yields:
        For each step its products, by the name of their vector. Call each only once: autograd would add up the
        placeholders of two calls.
    """
    steps = {name: _unrolled(of_vector, rows) for name, of_vector in maps.items()}
    for step in range(len(rows)):
        yield {name: of_vector[step] for name, of_vector in steps.items()}


def _unrolled(maps: Sequence[Affine], rows: list[int]) -> list[Product]:
    """Prepare the product with the maps of one vector, for each step."""
    weight = torch.cat([weight for weight, _ in maps])
    bias = torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in maps])
    weight, bias = autocast(weight), autocast(bias)
    placeholders = _Weights.apply(weight, bias, rows)
    weight, bias, sizes = weight.detach(), bias.detach(), [len(weight) for weight, _ in maps]

    def multiply(x: Tensor, x_part: Tensor, y_part: Tensor) -> Sequence[Tensor]:
        y: Tensor = _Product.apply(x, x_part, y_part, weight, bias)
        return y.split(sizes, dim=-1)

    return [
        partial(multiply, x_part=x_part, y_part=y_part)
        for x_part, y_part in zip(placeholders[: len(rows)], placeholders[len(rows) :], strict=True)
    ]
