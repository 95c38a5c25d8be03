"""Depthwise convolutions in bfloat16 against torch's own convolution and its gradients in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.layers.convolution import SameConv2d
from captioner.layers.depthwise import depthwise


def gradients(y: Tensor, *inputs: Tensor) -> list[Tensor]:
    random = torch.Generator().manual_seed(5)
    weights = torch.randn(y.shape, generator=random).to(y.dtype)
    return [gradient.double() for gradient in torch.autograd.grad((y * weights).sum(), inputs)]


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("size", [(9, 9), (8, 11)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (5, 1, 2), (5, 1, 0), (5, 2, 2), (3, 2, 0), (7, 1, 3), (1, 1, 0)]
)
def test_it_has_the_values_and_gradients_of_torchs(
    kernel: int, stride: int, padding: int, size: tuple[int, int], autocast: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, *size).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.randn(shape).bfloat16().requires_grad_() for shape in ((6, 1, kernel, kernel), (6,)))
    inputs = [x, weight, bias]
    if autocast:
        inputs = [tensor.detach().float().requires_grad_() for tensor in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = depthwise(*inputs, stride, padding)  # type: ignore[call-arg, arg-type]
    assert y.dtype == torch.bfloat16
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = F.conv2d(exact[0], exact[1], exact[2], stride, padding, groups=6)
    torch.testing.assert_close(y.double(), expected, rtol=0.02, atol=0.05)
    for found, wanted in zip(gradients(y, *inputs), gradients(expected, *exact), strict=True):
        assert (found - wanted).norm() < 0.01 * wanted.norm()


def test_other_precisions_are_exactly_torchs() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, 9, 9, requires_grad=True), torch.randn(6, 1, 5, 5, requires_grad=True)
    y, expected = depthwise(x, weight, None, 1, 2), F.conv2d(x, weight, padding=2, groups=6)
    assert torch.equal(y, expected)
    for found, wanted in zip(gradients(y, x, weight), gradients(expected, x, weight), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_frozen_input_needs_no_gradient() -> None:
    x, weight = torch.randn(2, 6, 9, 9).bfloat16(), torch.randn(6, 1, 5, 5).bfloat16().requires_grad_()
    depthwise(x, weight, None, 1, 2).sum().backward()
    assert weight.grad is not None and weight.grad.any()


@pytest.mark.parametrize("kernel", [3, 5])
def test_convolutions_with_normalisation_use_it(kernel: int) -> None:
    """The pair that encoders train, with fixed statistics, against the two layers one after the other."""
    torch.manual_seed(0)
    layer = SameConv2d(6, 6, kernel, groups=6, bias=False)
    norm = torch.nn.BatchNorm2d(6).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            assert tensor is not None
            tensor.normal_()
    x = torch.randn(2, 6, 9, 9)
    parameters = [layer.weight, norm.weight, norm.bias]
    expected = norm(layer(x))
    for autocast, error in ((False, 1e-5), (True, 0.02)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = layer.normalised(x, norm)
        assert (y - expected).norm() < error * expected.norm()
        wanted = gradients(norm(layer(x)).to(y.dtype), *parameters)
        for found, want in zip(gradients(y, *parameters), wanted, strict=True):
            assert (found - want).norm() < error * want.norm()


def test_statistics_of_the_batch_are_left_to_the_normalisation() -> None:
    torch.manual_seed(0)
    layer, norm, x = SameConv2d(6, 6, 3), torch.nn.BatchNorm2d(6).train(), torch.randn(2, 6, 9, 9)
    expected = torch.nn.BatchNorm2d(6).train()(layer(x))
    torch.testing.assert_close(layer.normalised(x, norm), expected)
