"""The maps, compared with a naive sum over places and with ``Caption.words_at``."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from captioner.errors import CaptionerError
from captioner.figures.heat import Heat
from captioner.figures.style import Style
from tests.figures.builders import grid_caption, region_caption

CROPPED = (0.1, 0.2, 0.7, 0.9)


@pytest.mark.parametrize("seen", [(0.0, 0.0, 1.0, 1.0), CROPPED])
def test_a_map_is_the_gaussian_mean_of_the_cells(seen: tuple[float, float, float, float]) -> None:
    caption, (width, height), sigma = grid_caption(seen=seen), (20, 15), 0.8
    drawn = Heat(caption, Style(smoothing=sigma)).maps((width, height))(1)
    assert caption.attention is not None
    for py in range(height):
        for px in range(width):
            x, y = (
                ((px + 0.5) / width - seen[0]) / (seen[2] - seen[0]),
                ((py + 0.5) / height - seen[1]) / (seen[3] - seen[1]),
            )
            if not (0 <= x <= 1 and 0 <= y <= 1):
                assert drawn[py, px] == 0
                continue
            counts = [
                math.exp(-((4 * x - c - 0.5) ** 2 + (3 * y - r - 0.5) ** 2) / (2 * sigma**2))
                for r in range(3)
                for c in range(4)
            ]
            expected = sum(
                count * weight for count, weight in zip(counts, caption.attention[1].tolist(), strict=True)
            ) / sum(counts)
            assert drawn[py, px] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seen", [(0.0, 0.0, 1.0, 1.0), CROPPED])
@pytest.mark.parametrize("make", [grid_caption, region_caption])
def test_without_smoothing_a_map_is_the_largest_weight_at_a_point(
    make, seen: tuple[float, float, float, float]
) -> None:
    caption, (width, height) = make(seen=seen), (40, 20)
    heat = Heat(caption, Style(smoothing=0))
    maps = heat.maps((width, height))
    for px, py in ((1, 1), (9, 6), (17, 11), (21, 13), (26, 16), (39, 19)):
        x, y = (px + 0.5) / width, (py + 0.5) / height
        if heat.boxes is None:
            expected = [weight for _, weight in caption.words_at((x, y))]
        else:
            inside = [x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in heat.boxes]
            expected = [max(weights[inside], default=0.0) for weights in heat.weights]
        assert [maps(word)[py, px] for word in range(len(expected))] == pytest.approx(expected, abs=1e-6)


def test_uniform_attention_and_less_leave_the_image_unchanged() -> None:
    caption = grid_caption(words=1, grid=(14, 14))
    assert caption.attention is not None
    weights = np.full_like(caption.attention, 1 / 392)
    weights[0, :49] = (1 - 147 / 392) / 49
    heat = Heat(replace(caption, attention=weights), Style(smoothing=0))
    share = heat.maps((28, 28)).share(0)
    assert heat.uniform == 1 / 196 and (share[8:] == 0).all() and (share[:6] > 0).all()
    even = Heat(replace(caption, attention=np.full_like(weights, 1 / 196)), Style())
    assert even.maps((28, 28)).share(0).max() == pytest.approx(0, abs=1e-6)
    alone = replace(region_caption(), boxes=np.array([[0.0, 0.0, 1.0, 1.0]]), attention=np.ones((2, 1)))
    assert (Heat(alone, Style()).maps((9, 9)).share(0) == 0).all()


def test_smoothing_keeps_uniform_attention_and_the_range_of_weights() -> None:
    caption = grid_caption(grid=(14, 14))
    assert caption.attention is not None
    even = replace(caption, attention=np.full_like(caption.attention, 1 / 196))
    np.testing.assert_allclose(Heat(even, Style()).maps((50, 70))(0), 1 / 196, rtol=1e-6)
    heat = Heat(caption, Style())
    for word in range(4):
        drawn = heat.maps((123, 77))(word)
        assert drawn.min() >= 0 and drawn.max() <= heat.peak(word)
        # The colour scale is used up to its end, but not far beyond.
        assert drawn.max() == pytest.approx(heat.top(word), rel=0.05) or heat.top(word) == pytest.approx(4 / 196)


def test_nearly_uniform_attention_does_not_get_the_strongest_colour() -> None:
    caption = grid_caption(words=1, grid=(14, 14))
    assert caption.attention is not None
    near = np.full_like(caption.attention, 1 / 196)
    near[0, :98] *= 1.1
    assert Heat(replace(caption, attention=near), Style()).maps((28, 28)).share(0).max() < 0.3


def test_the_scale_of_the_caption_compares_words() -> None:
    attention = np.full((2, 196), 1e-4)
    attention[0, 50], attention[1, 120] = 0.5, 0.25
    caption = replace(grid_caption(words=2, grid=(14, 14)), attention=attention)
    for scale, brightest in (("caption", [1, (0.25 - 1 / 196) / (0.5 - 1 / 196)]), ("word", [1, 1])):
        maps = Heat(caption, Style(scale=scale, smoothing=0)).maps((28, 28))
        assert [maps.share(word).max() for word in (0, 1)] == pytest.approx(brightest)


def test_the_strongest_regions_come_first_and_lie_in_what_was_seen() -> None:
    heat = Heat(region_caption(seen=(0.5, 0.0, 1.0, 1.0)), Style())
    assert [region.weight for region in heat.regions(1)] == pytest.approx([0.5, 0.45])
    assert heat.regions(0)[0].box == pytest.approx((0.5, 0.0, 0.75, 0.5)) and len(heat.regions(0)) == 1
    assert Heat(grid_caption(), Style()).regions(0) == []


def test_cells_in_a_memory_with_regions_are_not_outlined() -> None:
    heat = Heat(replace(region_caption(), labels=["", "dog", "cat"]), Style())
    assert [region.label for region in heat.regions(0)] == ["dog", "cat"], "the cell has most of the weight"


def test_a_region_thinner_than_a_pixel_still_shows() -> None:
    boxes = np.array([[0.5, 0.5, 0.5001, 0.5001], [0.9999, 0.9999, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    drawn = Heat(replace(region_caption(), boxes=boxes), Style()).maps((10, 10))(0)
    assert [drawn[at] for at in ((5, 5), (9, 9), (0, 0), (3, 3))] == pytest.approx([0.7, 0.2, 0.1, 0.0], abs=1e-6)


def test_captions_without_attention_or_regions_are_refused() -> None:
    with pytest.raises(CaptionerError, match="does not attend"):
        Heat(replace(grid_caption(), attention=None), Style())
    with pytest.raises(CaptionerError, match="no attention over an image"):
        Heat(replace(grid_caption(), grid=None), Style())
