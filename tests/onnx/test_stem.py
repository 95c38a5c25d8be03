"""The widened first convolution against the backbone's own."""

from __future__ import annotations

import pytest
import torch

from captioner.encoders.grid import GridConfig, GridEncoder
from captioner.onnx.stem import WideStem, widened
from tests.onnx.builders import tiny


def test_four_pixels_at_a_time_give_the_map_of_one_at_a_time() -> None:
    random = torch.Generator().manual_seed(0)
    encoder = GridEncoder(GridConfig(backbone="efficientnet_lite0", size=32, weights="random"))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=random, dtype=torch.uint8)
    stem = WideStem.of(encoder)
    assert stem is not None
    with torch.no_grad():
        expected = encoder.trunk[0](encoder.transform.normalise(pixels)).flatten(2).transpose(1, 2)
        torch.testing.assert_close(stem(pixels.permute(0, 2, 3, 1)), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def test_each_weight_is_at_the_position_of_its_pixel() -> None:
    weight = torch.arange(1.0, 2 * 3 * 9 + 1).view(2, 3, 3, 3)
    wide = widened(weight)
    assert wide.shape == (4, 12, 3, 2) and (wide != 0).sum() == 2 * weight.numel()
    for output in range(4):
        for pixel in range(8):  # of two columns of four
            offset = pixel - 2 * (output // 2)
            column, place = divmod(pixel, 4)
            expected = weight[output % 2, :, :, offset] if 0 <= offset < 3 else torch.zeros(3, 3)
            assert torch.equal(wide[output, 3 * place : 3 * place + 3, :, column], expected)


@pytest.mark.parametrize("size", [30, 32])
def test_other_backbones_and_odd_sizes_keep_their_own(size: int) -> None:
    assert WideStem.of(tiny("show_attend_tell").encoder) is None  # type: ignore[arg-type]
    encoder = GridEncoder(GridConfig(backbone="efficientnet_lite0", size=size, weights="random"))
    assert (WideStem.of(encoder) is None) == (size == 30)
