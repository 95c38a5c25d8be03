"""Convolutions fused with their normalisation and, for inference, with activation and residual sum.

``BN(conv(x)) = conv(x; w s) + (b - mean s)`` with ``s = gamma / sqrt(var + eps)`` of each output channel (Ioffe 2015,
https://arxiv.org/abs/1502.03167, section 3.1). oneDNN applies the activation and adds the residual connection while a
result is still in a register, so each convolution reads and writes its maps once, without a compiler.

Letters in shapes: B images, I input and O output channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.layers.depthwise import depthwise
from captioner.layers.linear import has_onednn


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding: ceil(size / stride) outputs, odd padding at the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, I, rows, columns)."""
        return self._convolve(x, self.weight, self.bias)

    def normalised(self, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """Convolve, then normalise; with gradients and fixed statistics, as one convolution."""
        if norm.training or not torch.is_grad_enabled():  # inference uses FusedConvolution
            out: Tensor = norm(self(x))
            return out
        return self._convolve(x, *fold(self, norm))

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        (top, bottom), (left, right) = self.same_padding(x.shape[2:])
        if not top == bottom == left == right:
            x, top = F.pad(x, (left, right, top, bottom)), 0
        if self.groups == self.in_channels == self.out_channels > 1 and self.dilation == (1, 1):
            return depthwise(x, weight, bias, self.stride[0], top)
        return F.conv2d(x, weight, bias, self.stride, top, self.dilation, self.groups)

    def same_padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Return the padding (before, after) along rows and columns of maps of the given sizes."""
        totals = [
            max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
            for size, stride, dilation, kernel in zip(sizes, self.stride, self.dilation, self.kernel_size, strict=True)
        ]
        return [(total // 2, total - total // 2) for total in totals]


def fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias, float32, of the single convolution that equals both."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)
    bias = norm.bias.float() - norm.running_mean.float() * scale
    if convolution.bias is not None:
        bias = bias + convolution.bias.float() * scale
    return convolution.weight.float() * scale.view(-1, 1, 1, 1), bias


class FusedConvolution(nn.Module):
    """A convolution, its batch normalisation, and ReLU6 or a residual sum, in one pass over memory, for inference.

    It serves one device and precision. On a CPU it is one call of oneDNN with weights in oneDNN's layout; elsewhere it
    calls torch's plain functions.

    Args:
        convolution: the convolution.
        norm: its normalisation, in eval mode.
        relu6: whether ReLU6 follows.
        dtype: the precision of weights and result.
        scale: factor of the input.
    """

    def __init__(
        self,
        convolution: SameConv2d,
        norm: nn.BatchNorm2d,
        *,
        relu6: bool,
        dtype: torch.dtype,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        weight, bias = fold(convolution, norm)
        weight = weight * scale
        self.same_padding, self.relu6 = convolution.same_padding, relu6
        self.stride, self.dilation = list(convolution.stride), list(convolution.dilation)
        self.groups = convolution.groups
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", weight.to(dtype).contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.to(dtype))
        self._weights: dict[tuple[bool, ...], tuple[Tensor, list[int]]] = {}

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve (B, I, rows, columns); add the result to ``residual``, if given, in place."""
        weight, padding = self._weight_and_padding(x)
        plan = padding, self.stride, self.dilation, self.groups
        if not has_onednn(x.device):
            y = F.conv2d(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)
            return residual.add_(y) if residual is not None else y.clamp_(0, 6) if self.relu6 else y
        operations = torch.ops.mkldnn
        if residual is not None:
            return operations._convolution_pointwise_(residual, x, weight, self.bias, *plan, "add", 1.0, None, [], None)
        activation = ("hardtanh", [0.0, 6.0], "") if self.relu6 else ("none", [], "")
        return operations._convolution_pointwise(x, weight, self.bias, *plan, *activation)

    def _weight_and_padding(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """Return the weight for maps of this size, and the padding, equal on both sides.

        If one side needs one row more, the kernel gets a row of zeros: cheaper than a padded copy of the maps.
        """
        both = self.same_padding(x.shape[2:])
        odd = tuple(after > before for before, after in both)
        if odd not in self._weights:
            padding = [after for _, after in both]
            weight = F.pad(self.weight, (int(odd[1]), 0, int(odd[0]), 0))
            if has_onednn(x.device):
                weight = torch.ops.mkldnn._reorder_convolution_weight(
                    weight.contiguous(), padding, self.stride, self.dilation, self.groups, list(x.shape)
                )
            self._weights[odd] = weight, padding
        return self._weights[odd]
