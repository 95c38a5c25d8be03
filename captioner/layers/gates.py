"""The LSTM's gates, in one pass over memory in training.

Recorded operation by operation, the gates of a step take thirteen passes over memory forward and twice as many
backward. :func:`lstm_gates` records them as one operation where ``torch.compile`` can fuse each direction into one
pass.

Tensor letters: H hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from captioner.layers.kernels import Kernel, at_least_float32


def lstm_gates(c: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the gates of an LSTM (Hochreiter 1997, with forget gates).

    Args:
        c: (..., H) the previous cell, at least 32 bits.
        parts: (..., 4H) each; their sum is the pre-activation, in torch's order: input, forget, cell, output.

    Returns:
        The new hidden state, in the narrowest precision of the parts, and the new cell, (..., H) each.
    """
    if torch.is_grad_enabled() and c.device.type == "cpu":
        h, c, *_ = _Gates.apply(c, *parts)
        return h, c
    h, c, _ = _forward(c, *parts)
    return h, c


def _forward(c: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the new hidden state, the new cell, and the gates (4, ..., H) after their activations."""
    pre_activations = at_least_float32(parts[0])
    for part in parts[1:]:
        pre_activations = pre_activations + part
    i, f, g, o = pre_activations.chunk(4, dim=-1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * c + i * g
    h = o * torch.tanh(c)
    return h.to(min((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)), c, torch.stack([i, f, g, o])


def _backward(d_h: Tensor, d_c: Tensor, c: Tensor, new_c: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the previous cell (..., H) and of the pre-activations (..., 4H)."""
    i, f, g, o = gates.unbind()
    t = torch.tanh(new_c)
    d_c = d_c + d_h * o * (1 - t * t)
    d_gates = [d_c * g * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - g * g), d_h * t * o * (1 - o)]
    return d_c * f, torch.cat(d_gates, dim=-1)


forward, backward = Kernel(_forward), Kernel(_backward)


class _Gates(torch.autograd.Function):
    """:func:`lstm_gates`, recorded as one operation."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        ctx.compiled = c.dtype != torch.float64
        h, new_c, gates = forward(c, *parts, compiled=ctx.compiled)
        ctx.save_for_backward(c, new_c, gates)
        ctx.dtypes = [part.dtype for part in parts]
        return h, new_c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_h: Tensor, d_c: Tensor) -> tuple[Tensor, ...]:
        d_c, d_gates = backward(d_h, d_c, *ctx.saved_tensors, compiled=ctx.compiled)
        return d_c, *(d_gates.to(dtype) for dtype in ctx.dtypes)
