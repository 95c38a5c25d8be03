"""The convolution module of the Conformer (Gulati et al. 2020, https://arxiv.org/abs/2005.08100).

Tensor letters: B images, N cells or words, S model size, K the kernel's side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.layers.depthwise import depthwise
from captioner.layers.linear import Packable


class ConvolutionModule(nn.Module, Packable):
    """The Conformer's convolution over neighbouring words or cells (section 2.2).

    A pointwise convolution to twice the size, a gated linear unit, a depthwise convolution, normalisation, Swish, and a
    pointwise convolution. The block adds the layer norm before it, dropout and the residual connection. Masked
    positions are zero, as input and as output.

    Departures: it convolves along the rows and columns of a grid as well as along words; a layer norm replaces the
    batch normalisation, whose statistics would depend on padding and on the other images of a batch.

    Args:
        size: S.
        kernel: K, odd.
        axes: 1 for words, 2 for the cells of a grid, row by row.
    """

    packs = ("expand", "project")

    def __init__(self, size: int, kernel: int, *, axes: int) -> None:
        super().__init__()
        self.kernel, self.axes = kernel, axes
        self.expand = nn.Linear(size, 2 * size)
        self.weight = nn.Parameter(torch.empty(size, 1, *(kernel,) * axes))
        self.bias = nn.Parameter(torch.zeros(size))
        self.norm = nn.LayerNorm(size)
        self.project = nn.Linear(size, size)
        nn.init.xavier_uniform_(self.expand.weight)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.uniform_(self.weight, -(kernel ** (-axes / 2)), kernel ** (-axes / 2))
        nn.init.zeros_(self.expand.bias)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, shape: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
        """Convolve.

        Args:
            x: (B, N, S).
            shape: (N,) or (rows, columns).
            mask: (B, N, 1), true where a vector is real.
        """
        if len(shape) != self.axes:
            raise ValueError(f"a convolution along {self.axes} axes, but the shape {shape}")
        y = F.glu(self.expand(x), dim=-1)
        if mask is not None:
            y = y.masked_fill(~mask, 0.0)
        y = self._depthwise(y, shape).to(self.norm.weight.dtype)
        y = self.project(F.silu(self.norm(y)))
        return y if mask is None else y.masked_fill(~mask, 0.0)

    def _depthwise(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        padding = self.kernel // 2
        if self.axes == 2:
            # A transposed view of (B, N, S) is the layout in which the convolution is fastest, channels last.
            maps = y.transpose(1, 2).unflatten(2, shape)
            # The output of a packed layer can have 16 bits, the weights 32.
            out = depthwise(maps, self.weight.to(y.dtype), self.bias.to(y.dtype), 1, padding)
            return out.flatten(2).transpose(1, 2)
        with torch.autocast(y.device.type, enabled=False):  # some kernels have no gradient in 16 bits
            weight, bias = self.weight, self.bias
            line = F.conv1d(y.to(weight.dtype).transpose(1, 2), weight, bias, padding=padding, groups=len(weight))
        return line.transpose(1, 2)
