"""Convolutions that are fused for captioning, against the layers of torch that they replace."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.layers import convolution
from captioner.layers.convolution import FusedConvolution, SameConv2d


def padded_by_hand(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """TensorFlow's definition of SAME: as many outputs as ceil(size / stride), the odd row of padding at the end."""
    kernel = weight.shape[-1]
    padding: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        needed = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        padding += [needed // 2, needed - needed // 2]
    return F.conv2d(F.pad(x, padding), weight, stride=stride, groups=groups)


def layers(kernel: int, stride: int, *, groups: int = 1) -> tuple[SameConv2d, nn.BatchNorm2d]:
    """Return a convolution of 6 channels and a normalisation with random statistics."""
    torch.manual_seed(kernel * 10 + stride)
    norm = nn.BatchNorm2d(6).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        assert tensor is not None
        nn.init.normal_(tensor)
    assert norm.running_var is not None
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return SameConv2d(6, 6, kernel, stride=stride, groups=groups, bias=False), norm


SHAPES = [(1, 1, 1), (3, 1, 6), (3, 2, 6), (5, 2, 6), (3, 2, 1), (5, 1, 1)]


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (15, 9)])
@pytest.mark.parametrize(("kernel", "stride", "groups"), SHAPES)
@torch.inference_mode()
def test_padding_is_tensorflows(kernel: int, stride: int, groups: int, size: tuple[int, int]) -> None:
    layer, _ = layers(kernel, stride, groups=groups)
    x = torch.randn(2, 6, *size)
    torch.testing.assert_close(layer(x), padded_by_hand(x, layer.weight, stride, groups))


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("relu6", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (17, 16), (15, 9)])
@pytest.mark.parametrize(("kernel", "stride", "groups"), SHAPES)
@torch.inference_mode()
def test_fused_is_the_three_layers(
    kernel: int,
    stride: int,
    groups: int,
    size: tuple[int, int],
    relu6: bool,
    onednn: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not onednn:
        monkeypatch.setattr(convolution, "has_onednn", lambda _: False)
    layer, norm = layers(kernel, stride, groups=groups)
    fused = FusedConvolution(layer, norm, relu6=relu6, dtype=torch.float32)
    x = 3 * torch.randn(2, 6, *size).contiguous(memory_format=torch.channels_last)
    expected = norm(padded_by_hand(x, layer.weight, stride, groups))
    expected = expected.clamp(0, 6) if relu6 else expected
    for _ in range(2):  # the second call uses what the first has prepared
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-4)
    rounded = FusedConvolution(layer, norm, relu6=relu6, dtype=torch.bfloat16)(x.bfloat16())
    assert rounded.dtype == torch.bfloat16 and (rounded.float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("onednn", [True, False])
@torch.inference_mode()
def test_the_sum_overwrites_its_operand(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not onednn:
        monkeypatch.setattr(convolution, "has_onednn", lambda _: False)
    layer, norm = layers(1, 1)
    fused = FusedConvolution(layer, norm, relu6=False, dtype=torch.float32)
    x, residual = (torch.randn(2, 6, 8, 8).contiguous(memory_format=torch.channels_last) for _ in range(2))
    expected = residual + norm(layer(x))
    result = fused(x, residual)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(residual, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_one_layer_takes_maps_of_any_size() -> None:
    layer, norm = layers(3, 2)
    fused = FusedConvolution(layer, norm, relu6=True, dtype=torch.float32)
    for rows, columns in ((16, 16), (15, 16), (16, 15), (15, 15), (16, 16), (40, 8)):
        x = torch.randn(1, 6, rows, columns)
        torch.testing.assert_close(fused(x), norm(layer(x)).clamp(0, 6), rtol=1e-4, atol=1e-4)
