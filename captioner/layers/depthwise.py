"""Depthwise convolutions that train fast on a CPU in bfloat16.

oneDNN computes their gradients fast for kernels of 3x3; with other kernels, in bfloat16, the gradients take a hundred
times longer than the convolution. The gradient of the weight for 16 maps of 1,248 channels and 14x14 cells, with a
kernel of 5x5, on one core of an AMD EPYC: 226 ms in bfloat16, 49 in float32, 27 here. ``python scripts/bench.py --only
tuning`` measures a whole training step.

Letters in shapes: B images, C channels, K the kernel's side.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Convolve each channel of ``x`` (B, C, rows, columns) with its kernel in ``weight`` (C, 1, K, K).

    This equals :func:`torch.nn.functional.conv2d` with ``groups=C``, under autocast too.
    """
    precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if not (torch.is_grad_enabled() and x.device.type == "cpu" and precision is torch.bfloat16):
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))
    y: Tensor = _Depthwise.apply(x.bfloat16(), weight.bfloat16(), stride, padding)
    return y if bias is None else y + bias.bfloat16().view(-1, 1, 1)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        side = weight.shape[-1]
        if ctx.stride == 1 and side in (3, 5):
            # The gradient of the input is that of the output convolved with the flipped kernel.
            d_x = F.conv2d(grad, weight.flip(2, 3), None, 1, side - 1 - ctx.padding, groups=len(weight))
            d_weight = _weight_gradient(grad, x, weight, ctx.padding)
        else:
            d_x, d_weight = _gradients(grad.float(), x.float(), weight.float(), ctx.stride, ctx.padding)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None, None


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, *, of_input: bool = True
) -> tuple[Tensor, Tensor]:
    """Return oneDNN's gradients of the input, if ``of_input``, and of the weight."""
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight), [of_input, True, False]
    )
    return gradients[0], gradients[1]


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return the gradient of a kernel of 3x3; that of 5x5 is put together from the 3x3 kernels in its four corners."""
    side = weight.shape[-1]
    x = F.pad(x, (padding,) * 4)
    rows, columns = grad.shape[2] + 2, grad.shape[3] + 2
    corner = weight[..., :3, :3].contiguous()
    gradients = torch.empty_like(weight)
    for top in range(0, side - 2, 2):
        for left in range(0, side - 2, 2):
            part = x[:, :, top : top + rows, left : left + columns].contiguous(memory_format=torch.channels_last)
            gradients[..., top : top + 3, left : left + 3] = _gradients(grad, part, corner, 1, 0, of_input=False)[1]
    return gradients
