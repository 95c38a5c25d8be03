"""The first convolution of our own backbones in the form that onnxruntime computes fastest.

A convolution of three colours gathers its 27 inputs in nine pieces of three numbers, which takes longer than the
products. Images lie in memory as rows of pixels. If four pixels of a row are read as one column of twelve numbers,
which moves nothing, two neighbouring outputs read six such columns, and are one output of a convolution with twice the
channels. Its weights are those of the original, and zeros where an output reads nothing.

Letters in shapes: B images, S their side in pixels, O output channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from captioner.encoders import efficientnet_lite
from captioner.encoders.grid import GridEncoder
from captioner.layers.convolution import fold

TOGETHER = 4  # pixels of a row that are read as one column
_GREYS = 255.0  # values of a colour, less one


class WideStem(nn.Module):
    """A stem with its normalisation of pixels and ReLU6.

    Args:
        stem: a convolution 3x3 of stride 2, its batch normalisation, and ReLU6.
    """

    def __init__(self, stem: efficientnet_lite.Unit) -> None:
        super().__init__()
        weight, bias = fold(*stem.layers())
        self.weight = nn.Parameter(widened(weight / (_GREYS * efficientnet_lite.STD[0])))
        self.bias = nn.Parameter(bias.repeat(TOGETHER // 2))

    @staticmethod
    def of(encoder: GridEncoder) -> WideStem | None:
        """Return the stem of an encoder; ``None`` if it has none that can be widened."""
        stem, size = encoder.trunk[0], encoder.transform.size
        if encoder.config.backbone not in efficientnet_lite.VARIANTS or not isinstance(stem, efficientnet_lite.Unit):
            return None
        return WideStem(stem) if size % TOGETHER == 0 else None

    def forward(self, pixels: Tensor) -> Tensor:
        """Convolve pixels (B, S, S, 3) uint8 to the vectors (B, S/2 * S/2, O) of its map."""
        b, side, _, _ = pixels.shape
        columns = pixels.reshape(b, side, side // TOGETHER, 3 * TOGETHER).permute(0, 3, 1, 2)
        centred = columns.float() - _GREYS * efficientnet_lite.MEAN[0]
        # TensorFlow's padding of an even side: one row below, one column at the right.
        maps = F.relu6(F.conv2d(F.pad(centred, (0, 1, 0, 1)), self.weight, self.bias, stride=(2, 1)))
        return maps.permute(0, 2, 3, 1).reshape(b, side * side // 4, -1)


def widened(weight: Tensor) -> Tensor:
    """Return the weight (2 O, 12, 3, 2) of four pixels at a time from that (O, 3, 3, 3) of one, of stride 2."""
    outputs = len(weight)
    wide = weight.new_zeros(TOGETHER // 2, outputs, TOGETHER, 3, 3, 2)
    for output in range(TOGETHER // 2):
        for offset in range(3):
            column, pixel = divmod(2 * output + offset, TOGETHER)
            wide[output, :, pixel, :, :, column] = weight[..., offset]
    return wide.flatten(2, 3).flatten(0, 1)
