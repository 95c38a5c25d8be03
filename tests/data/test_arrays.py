"""Arrays and tensors as images, and deep grey, one value at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.data.arrays import from_array, to_grey
from captioner.errors import ImageError

LIMIT = 10_000


def values_of(array: Any) -> np.ndarray:
    return np.asarray(from_array(array, "a", LIMIT))


def test_channels_may_come_last_and_of_tensors_first() -> None:
    colour = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    alpha = np.arange(5 * 7 * 4, dtype=np.uint8).reshape(5, 7, 4)
    for array in (colour, alpha, colour[..., 0]):
        assert np.array_equal(values_of(array), array)
        assert np.array_equal(values_of(torch.from_numpy(array)), array)
    assert np.array_equal(values_of(colour[..., :1]), colour[..., 0])
    for array in (colour, alpha, colour[..., :1]):
        first = torch.from_numpy(array.copy()).permute(2, 0, 1)
        assert np.array_equal(values_of(first), array.squeeze())
    for shape in ((5, 7, 2), (5, 7, 5), (2, 5, 7), (35,), (1, 5, 7, 3)):
        with pytest.raises(ImageError, match="not the shape of one image"):
            values_of(np.zeros(shape, dtype=np.uint8))
    assert values_of(np.zeros((100, 100), dtype=np.uint8)).shape == (100, 100)
    with pytest.raises(ImageError, match="above the limit"):
        values_of(np.zeros((100, 101), dtype=np.uint8))
    with pytest.raises(ImageError, match="no pixels"):
        values_of(np.zeros((0, 5), dtype=np.uint8))


def test_floats_are_shares_of_white() -> None:
    shares = np.linspace(0, 1, 600, dtype=np.float64).reshape(20, 30)
    expected = [[round(255 * share) for share in row] for row in shares.tolist()]
    for array in (shares, torch.from_numpy(shares), shares.astype(np.float32)):
        assert values_of(array).tolist() == expected
    assert np.abs(values_of(torch.from_numpy(shares).bfloat16()).astype(int) - expected).max() <= 1
    assert values_of(np.array([[-0.0009, 1.0009]])).tolist() == [[0, 255]]
    for wrong, reason in ((-0.0011, "in 0..1"), (1.0011, "in 0..1"), (255.0, "in 0..1"), (float("nan"), "not finite")):
        with pytest.raises(ImageError, match=reason):
            values_of(np.array([[0.5, wrong]]))
    with pytest.raises(ImageError, match="must be uint8"):
        values_of(np.zeros((2, 2), dtype=np.int64))


def grey(mode: str, rows: Any, kind: Any) -> list[list[int]]:
    return np.asarray(to_grey(Image.fromarray(np.array(rows, dtype=kind)).convert(mode))).tolist()


def test_sixteen_bits_become_eight() -> None:
    rows = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = np.asarray(to_grey(Image.fromarray(rows)))
    assert np.abs(found - rows * (255 / 65535)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("mode", "values", "black", "white"),
    [
        ("F", [0.0, 0.25, 1.0], 0, 1),
        ("F", [0.0, 0.25, 1.01], 0, 255),
        ("F", [0.0, 100, 255], 0, 255),
        ("F", [10, 100, 256], 10, 256),
        ("F", [-1, 0, 1], -1, 1),
        ("I", [0, 1, 1], 0, 255),
        ("I", [0, 100, 255], 0, 255),
        ("I", [0, 100, 256], 0, 65535),
        ("I", [7, 100, 65535], 0, 65535),
        ("I", [7, 100, 65536], 7, 65536),
        ("I", [-5, 0, 5], -5, 5),
        ("F", [0, 0, 0], 0, 1),
        ("F", [-3, -3, -3], -3, -2),
    ],
)
def test_other_values_are_scaled_to_the_range_that_holds_them(
    mode: str, values: list[float], black: float, white: float
) -> None:
    expected = [round(255 * (value - black) / (white - black)) for value in values]
    assert grey(mode, [values], np.int32 if mode == "I" else np.float32) == [expected]


def test_nan_is_black_and_does_not_affect_the_range() -> None:
    values = [0.0, 0.5, 1.0, float("nan"), float("inf"), float("-inf")]
    assert grey("F", [values], np.float32) == [[0, 128, 255, 0, 255, 0]]
    assert grey("F", [[float("nan")] * 2], np.float32) == [[0, 0]]


def test_large_images_are_scaled_as_one() -> None:
    """They are worked on a few rows at a time."""
    rows = np.linspace(-1, 3, 1100 * 1000, dtype=np.float32).reshape(1100, 1000)
    found = np.asarray(to_grey(Image.fromarray(rows)))
    assert np.abs(found - 255 * (rows + 1) / 4).max() <= 0.51
