"""The LSTM's gates, in one pass over memory in training.

If autograd records each operation, the gates of a step take thirteen passes over memory forward and twice as many
backward. :func:`lstm_gates` is one operation for autograd, and ``torch.compile`` fuses each of its directions into one
pass.

Tensor letters: H hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.layers import kernels
from captioner.layers.kernels import Kernel, at_least_float32


def lstm_gates(c: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the gates of an LSTM (Hochreiter 1997, with forget gates).

    Args:
        c: (..., H) the previous cell, at least 32 bits.
        parts: (..., 4H) each; their sum is the pre-activation, in torch's order: input, forget, cell, output.

    Returns:
        The new hidden state, in the narrowest precision of the parts, and the new cell, (..., H) each.
    """
    if kernels.trains_on_cpu(c):
        h: Tensor
        h, c = _Gates.apply(c, *parts)
        return h, c
    i, f, g, o = _activate(_sum(parts))
    c = f * c + i * g
    return (o * torch.tanh(c)).to(_narrowest(parts)), c


def _sum(parts: tuple[Tensor, ...]) -> Tensor:
    total = at_least_float32(parts[0])
    for part in parts[1:]:
        total = total + part
    return total


def _narrowest(parts: tuple[Tensor, ...]) -> torch.dtype:
    return min((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)


def _activate(pre_activations: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the input gate, the forget gate, the candidate and the output gate, (..., H) each."""
    units = pre_activations.shape[-1] // 4
    i, f = torch.sigmoid(pre_activations[..., : 2 * units]).chunk(2, dim=-1)
    candidate, o = pre_activations[..., 2 * units : 3 * units], pre_activations[..., 3 * units :]
    return i, f, torch.tanh(candidate), torch.sigmoid(o)


def _forward(c: Tensor, pre_activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the new hidden state, the new cell, and the gates (4, ..., H) after their activations."""
    i, f, g, o = _activate(pre_activations)
    c = f * c + i * g
    return o * torch.tanh(c), c, torch.stack([i, f, g, o])


def _backward(d_h: Tensor, d_c: Tensor, c: Tensor, new_c: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the previous cell (..., H) and of the pre-activations (..., 4H)."""
    i, f, g, o = gates.unbind()
    t = torch.tanh(new_c)
    d_c = d_c + d_h * o * (1 - t * t)
    d_gates = [d_c * g * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - g * g), d_h * t * o * (1 - o)]
    return d_c * f, torch.cat(d_gates, dim=-1)


forward, backward = Kernel(_forward), Kernel(_backward)


class _Gates(torch.autograd.Function):
    """:func:`lstm_gates` as one operation for autograd."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        ctx.dtypes = [part.dtype for part in parts]
        cells, pre_activations = c.detach().flatten(0, -2), _sum(parts).flatten(0, -2)
        ctx.compiled = c.dtype != torch.float64
        h, new_c, gates = forward(cells, pre_activations, compiled=ctx.compiled)
        ctx.save_for_backward(cells, new_c, gates)
        return h.to(_narrowest(parts)).view(c.shape), new_c.view(c.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_h: Tensor, d_c: Tensor) -> tuple[Tensor, ...]:
        rows = d_h.to(d_c.dtype).flatten(0, -2), d_c.flatten(0, -2)
        d_previous_c, d_gates = backward(*rows, *ctx.saved_tensors, compiled=ctx.compiled)
        d_gates = d_gates.unflatten(0, d_c.shape[:-1])
        # The parts of one precision share a gradient.
        gradients = {dtype: d_gates.to(dtype) for dtype in set(ctx.dtypes)}
        return d_previous_c.view(d_c.shape), *(gradients[dtype] for dtype in ctx.dtypes)
