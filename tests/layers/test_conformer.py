"""The Conformer's convolution module, and its block, against naive computations and torch's layers."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.errors import ConfigError
from captioner.layers.conformer import ConvolutionModule
from captioner.layers.transformer import EncoderBlock, EncoderBlockConfig, FeedForward, key_mask
from captioner.settings import validate
from tests.layers.test_transformer import MASK, SIZE, randoms, scattered, small, torch_encoder


def naive(module: ConvolutionModule, x: Tensor, shape: tuple[int, ...], mask: Tensor) -> Tensor:
    """Section 2.2, a cell and a tap of the kernel at a time."""
    expanded = x @ module.expand.weight.T + module.expand.bias
    gated = expanded[..., :SIZE] * torch.sigmoid(expanded[..., SIZE:])
    cells = list(product(*(range(length) for length in shape)))
    half, out = module.kernel // 2, torch.zeros_like(x)
    for image, (i, cell) in product(range(len(x)), enumerate(cells)):
        total = module.bias.clone()
        for tap in product(range(module.kernel), repeat=len(shape)):
            near = tuple(p + t - half for p, t in zip(cell, tap, strict=True))
            if near in cells and mask[image, cells.index(near)]:
                total = total + gated[image, cells.index(near)] * module.weight[(slice(None), 0, *tap)]
        normal = (total - total.mean()) / torch.sqrt(total.var(correction=0) + module.norm.eps)
        normal = normal * module.norm.weight + module.norm.bias
        if mask[image, i]:
            out[image, i] = (normal * torch.sigmoid(normal)) @ module.project.weight.T + module.project.bias
    return out


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5)])
@torch.no_grad()
def test_it_is_the_papers_module(shape: tuple[int, ...], kernel: int, masked: bool) -> None:
    module = scattered(ConvolutionModule(SIZE, kernel, axes=len(shape)))
    x, mask = randoms(3, 5, SIZE), MASK if masked else torch.ones_like(MASK)
    found = module(x, shape, mask.unsqueeze(-1) if masked else None)
    torch.testing.assert_close(found, naive(module, x, shape, mask), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_grid_is_convolved_along_rows_and_columns() -> None:
    module, x = scattered(ConvolutionModule(SIZE, 3, axes=2)), randoms(2, 12, SIZE)
    found = module(x, (3, 4))
    torch.testing.assert_close(found, naive(module, x, (3, 4), torch.ones(2, 12, dtype=torch.bool)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{"relative": True}, {"convolution": 3}, {"convolution": 3, "half_steps": True}])
@pytest.mark.parametrize("axes", [1, 2])
def test_masked_vectors_have_no_influence(axes: int, settings: dict[str, Any]) -> None:
    block, x = scattered(EncoderBlock(small({"axes": axes, **settings}))), randoms(3, 5, SIZE)
    shape = (5,) if axes == 1 else (1, 5)
    out = block(x, key_mask(MASK), shape)
    other = block(x.masked_fill(~MASK.unsqueeze(-1), 7.0), key_mask(MASK), shape)
    torch.testing.assert_close(out[MASK], other[MASK], rtol=0, atol=0)


def test_the_block_has_the_papers_form() -> None:
    """Equation 1: half a feed-forward network, self-attention, the convolution, half a network, and a layer norm.

    The feed-forward networks have Swish (section 2.3), which is x * sigmoid(x).
    """
    block = scattered(EncoderBlock(small({"convolution": 3, "half_steps": True, "axes": 1})))
    x = randoms(2, 5, SIZE)

    def feed(network: Any, around: Any, x: Tensor) -> Tensor:
        hidden = F.linear(around.norm(x), network[0].weight, network[0].bias)
        return x + 0.5 * F.linear(hidden * torch.sigmoid(hidden), network[2].weight, network[2].bias)

    expected = feed(block.first_feed_forward, block.around_first_feed_forward, x)
    attention, y = block.attention, block.around_attention.norm(expected)
    seen = attention.attend(attention.query(y), attention.split(attention.key_value(y)))
    expected = expected + attention.output(seen)
    expected = expected + block.convolution(block.around_convolution.norm(expected), (5,))
    expected = block.norm(feed(block.feed_forward, block.around_feed_forward, expected))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)
    weights = attention.weights(attention.query(y), attention.split(attention.key_value(y)))
    torch.testing.assert_close(block.weights(x), weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, nn.ReLU),
        ({"convolution": 3}, nn.ReLU),
        ({"half_steps": True}, nn.SiLU),
        ({"half_steps": True, "activation": "relu"}, nn.ReLU),
        ({"half_steps": False, "activation": "gelu"}, nn.GELU),
    ],
)
def test_swish_is_the_default_of_half_steps_only(settings: dict[str, Any], expected: type[nn.Module]) -> None:
    networks = [module for module in EncoderBlock(small(settings)).modules() if isinstance(module, FeedForward)]
    assert [type(network[1]) for network in networks] == [expected] * (2 if settings.get("half_steps") else 1)


def test_without_its_settings_a_block_is_the_transformers() -> None:
    config = EncoderBlockConfig(size=SIZE, heads=2, feed_forward=12, dropout=0.0)
    block, x = scattered(EncoderBlock(config)), randoms(3, 5, SIZE)
    torch.testing.assert_close(block(x), torch_encoder(block, config)(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_16_bits_convolve_nearly_the_same(dtype: torch.dtype) -> None:
    for axes, shape in ((1, (5,)), (2, (1, 5))):
        module, x = scattered(ConvolutionModule(SIZE, 3, axes=axes)), randoms(3, 5, SIZE)
        expected = module(x, shape)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = module.float()(x.float(), shape)
        for found in (mixed, module.to(dtype)(x.to(dtype), shape)):
            assert (found.double() - expected).norm() < 0.05 * expected.norm()


def test_the_side_of_a_kernel_is_odd() -> None:
    with pytest.raises(ConfigError, match=r"convolution.*must be odd; give 3 or 5"):
        validate(EncoderBlockConfig, {"convolution": 4}, where="refiner")
    with pytest.raises(ValueError, match="along 2 axes, but the shape"):
        ConvolutionModule(SIZE, 3, axes=2)(torch.zeros(1, 5, SIZE), (5,))
