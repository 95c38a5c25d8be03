"""A self-contained page to explore attention: point at a word to see where it looked, or at the image to see its words.

It works with mouse, touch and keyboard. The page computes the map as :mod:`captioner.figures.heat` does; a word lights
up as strongly as its map is coloured at that point, and the number below it is its weight there. A slider weakens or
strengthens the map. :attr:`Caption.others` are shown next to the caption, each with its log-probability.

The script reads JSON:

- ``captions``: the best caption, then the others, each with

  - ``text``, ``tokens`` (T words), ``log_probability`` (nats; null if not finite),
  - ``view``: index in ``views`` of its regions or cells; null if it has no attention over the image, and then
    ``weights`` is null and ``peaks`` and ``tops`` are empty,
  - ``weights``: base64 of T x N little-endian unsigned 16-bit numbers, scaled to 65535 for the word's weight in
    ``peaks``,
  - ``peaks`` (T) and ``tops`` (T): each word's largest weight, and the weight drawn in the last colour,
  - ``model``: its model, if captions of several models are shown;

- ``views``, each with ``places`` (N regions or cells), ``seen``, and ``grid`` or ``boxes`` (relative to the whole
  image) with their ``labels`` or null;
- ``size`` of the image in the page, ``colours`` (base64 of 256 x RGBA), and some settings; ``regions`` is the opacity
  of a region's colours, times that of a cell's.

``maps.js`` decodes the numbers and computes maps, ``explorer.js`` shows them in ``explorer.html``. ``page.html`` is a
page with one explorer; the page of :mod:`captioner.web` has any number.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from PIL import Image

from captioner.caption import Array, Caption
from captioner.figures.document import assemble, base64_text, clean, escaped
from captioner.figures.drawing import encoded
from captioner.figures.heat import Heat
from captioner.figures.paint import REGION_OPACITY, fit, palette
from captioner.figures.style import Style

HINT = "Point at a word to see where it looked, or at the image to see which words looked there."
TOUCH_HINT = "Touch a word to see where it looked, or the image to see which words looked there."


def page(caption: Caption, image: Image.Image, style: Style, note: str = "") -> str:
    """Return the page of a caption.

    Args:
        caption: a caption with attention; its others may have none.
        image: the whole image, upright; in the page its longer side has at most :attr:`Style.side` pixels.
        style: style of the page.
        note: additional text below, for example the attention head.

    Raises:
        CaptionerError: see :class:`Heat`.
    """
    small = reduced(image, style)
    name = os.path.basename(caption.source or "")
    texts = {
        "language": "en",
        "title": escaped(f"{caption.text} · {name}" if name else caption.text),
        "caption": escaped(caption.text),
        "captions": "".join(f"<p>{escaped(one.text)}</p>" for one in [caption, *caption.others]),
        "note": escaped(" · ".join(part for part in (name, note) if part)),
        "most": f"strongest of the {style.scale}",
        "image": data_url(small),
    }
    return assemble(
        "page.html",
        styles="common.css explorer.css",
        scripts="common.js maps.js explorer.js page.js",
        data=numbers(caption, small.size, style),
        texts=texts,
    )


def reduced(image: Image.Image, style: Style) -> Image.Image:
    """Return the image as the page shows it, its longer side at most :attr:`Style.side`."""
    return fit(image, (style.side, style.side)) if max(image.size) > style.side else image


def numbers(caption: Caption, size: tuple[int, int], style: Style) -> dict[str, Any]:
    """Return the data for the page's script; see the module.

    Args:
        caption: the caption with its others; those without attention over the image are shown as text.
        size: (width, height) of the image in the page in pixels.
        style: style of the page.
    """
    captions, views = [], []
    for one in (caption, *caption.others):
        heat = Heat(one, style) if one.attention is not None and (one.grid or one.boxes is not None) else None
        view = None if heat is None else _view(heat)
        if view is not None and view not in views:
            views.append(view)
        captions.append({**_words(one, heat), "view": None if view is None else views.index(view)})
    return {
        "captions": captions,
        "views": views,
        "size": size,
        **settings(style),
    }


def settings(style: Style) -> dict[str, Any]:
    """Return the part of the data that is the same for all images."""
    return {
        "colours": _base64(np.rint(palette(style) * 255).astype(np.uint8)),
        "smoothing": style.smoothing,
        "regions": REGION_OPACITY,
        "milliseconds": round(1000 * style.seconds),
        "hint": HINT,
        "touch_hint": TOUCH_HINT,
    }


def _view(heat: Heat) -> dict[str, Any]:
    regions = heat.boxes is not None
    return {
        "places": heat.weights.shape[1],
        "seen": heat.seen,
        "grid": None if regions else heat.grid,
        "boxes": np.round(heat.boxes, 4).tolist() if heat.boxes is not None else None,
        "labels": [clean(label) for label in heat.labels] if regions and heat.labels is not None else None,
    }


def _words(caption: Caption, heat: Heat | None) -> dict[str, Any]:
    """Return one entry of ``captions``; without ``heat`` it has text only."""
    value: dict[str, Any] = {
        "text": clean(caption.text),
        "tokens": [clean(token) for token in caption.tokens],
        "log_probability": round(caption.log_probability, 4) if math.isfinite(caption.log_probability) else None,
    }
    if heat is None:
        return value | {"weights": None, "peaks": [], "tops": []}
    peaks = heat.weights.max(1, initial=0)
    levels = np.rint(heat.weights / np.where(peaks > 0, peaks, 1)[:, None] * 65535).astype("<u2")
    return value | {
        "weights": _base64(levels),
        "peaks": [float(f"{peak:.5g}") for peak in peaks],
        "tops": [float(f"{heat.top(word):.5g}") for word in range(len(caption.tokens))],
    }


def _base64(values: Array) -> str:
    return base64_text(values.tobytes())


def data_url(image: Image.Image) -> str:
    """Return an image as a JPEG in a data URL."""
    jpeg = encoded(image.convert("RGB"), "JPEG", quality=84, optimize=True, progressive=True)
    return "data:image/jpeg;base64," + base64_text(jpeg)
