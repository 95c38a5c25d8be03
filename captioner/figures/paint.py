"""An image overlaid with attention. Letters in shapes: H and W height and width in pixels of the image as drawn."""

from __future__ import annotations

import numpy as np
from PIL import Image

from captioner.caption import Array
from captioner.figures.style import Style

COLOUR_STEPS = 256  # steps of a colour map
REGION_OPACITY = 0.5  # opacity of a region relative to that of a cell: a region often covers most of the image
_GREY, _LIGHT = 0.85, 0.78  # desaturation of the image under a map, and the share of brightness that it keeps


def palette(style: Style, *, regions: bool = False) -> Array:
    """Return the colours from no attention to the strongest, (256, 4): red, green, blue and opacity, each in 0..1.

    Opacity rises with attention, starting at zero. The first quarter of the colour map is left out: most colour maps
    begin near black, which would darken the image where there is hardly any attention.

    Args:
        style: names the colour map and its opacity.
        regions: the attention is to regions, which are drawn with :data:`REGION_OPACITY`.
    """
    from matplotlib import colormaps

    share = np.linspace(0, 1, COLOUR_STEPS)
    colours: Array = np.asarray(colormaps[style.colours](0.25 + 0.75 * share), dtype=float)
    colours[:, 3] = style.opacity * share * (REGION_OPACITY if regions else 1)
    return colours


def toned(image: Image.Image) -> Array:
    """Return the image (H, W, 3), 0..1, desaturated and darkened to make the overlay stand out."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return ((1 - _GREY) * pixels + _GREY * grey[..., None]) * _LIGHT


def overlay(base: Array, share: Array, colours: Array) -> Array:
    """Overlay colours on an image.

    Args:
        base: (H, W, 3), 0..1; see :func:`toned`.
        share: (H, W), 0..1, where 1 is drawn in the last colour.
        colours: see :func:`palette`.

    Returns:
        (H, W, 3) uint8.
    """
    colour = colours.astype(np.float32)[np.rint(share * (COLOUR_STEPS - 1)).astype(int)]
    alpha = colour[..., 3:]
    return np.rint((base * (1 - alpha) + colour[..., :3] * alpha) * 255).astype(np.uint8)


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image scaled to fit into (width, height), with its aspect ratio and sides of at least one pixel."""
    scale = min(size[0] / image.width, size[1] / image.height)
    scaled = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if image.height > 64 * image.width:  # Pillow resizes the width first, which would make a narrow strip enormous
        image = image.resize((image.width, scaled[1]), Image.Resampling.LANCZOS)
    return image.resize(scaled, Image.Resampling.LANCZOS, reducing_gap=3.0)
