"""A self-contained page: pointing at a word shows where it looked, pointing at the photo lights up the words.

Photo, numbers, style and script are in one file; see :mod:`captioner.figures.document`. Words and photo respond to
mouse, touch and keyboard. The page computes the map as :mod:`captioner.figures.heat` does; a word lights up as strongly
as its map would be coloured at that point, and the number below it is its weight there. A slider weakens the map, down
to the plain photo, or strengthens it. The caption's :attr:`Caption.others` are shown beside it, each with its
log-probability, and all words share the photo.

The script reads JSON:

- ``captions``: the best caption, then the others, each with

  - ``text``, ``tokens`` (T words), ``log_probability`` (nats; null if not finite),
  - ``weights``: base64 of T x N little-endian unsigned 16-bit numbers, scaled so that 65535 is the word's weight in
    ``peaks``; null if this caption has no attention to these places, and then ``peaks`` and ``tops`` are empty,
  - ``peaks`` (T) and ``tops`` (T): each word's largest weight, and the weight drawn in the last colour;

- ``places`` (N), ``seen``, and ``grid`` or ``boxes`` (relative to the whole photo), shared by all captions; ``labels``
  of the N boxes, or null;
- ``size`` of the photo in the page, ``colours`` (base64 of 256 x RGBA), and some settings.

The page is assembled from ``page.html``, ``page.css``, and of scripts ``common.js``, ``page_map.js`` (numbers and maps)
and ``page.js`` (display and interaction).
"""

from __future__ import annotations

import io
import math
import os
from typing import Any

import numpy as np
from PIL import Image

from captioner.caption import Array, Caption
from captioner.figures.document import assemble, base64_text, clean, escaped
from captioner.figures.heat import Heat
from captioner.figures.paint import fit, palette
from captioner.figures.style import Style

HINT = "Point at a word to see where it looked, or at the photo to see which words looked there."


def page(caption: Caption, photo: Image.Image, style: Style, note: str = "") -> str:
    """Return the page.

    Args:
        caption: a caption with attention; its others may have none.
        photo: the whole photo, upright; in the page its longer side has at most :attr:`Style.side` pixels.
        style: style of the page.
        note: additional text below, for example the attention head.

    Raises:
        CaptionerError: see :class:`Heat`.
    """
    side = (style.side, style.side)
    small = fit(photo, side) if max(photo.size) > style.side else photo
    name = os.path.basename(caption.source or "")
    texts = {
        "language": "en",
        "title": escaped(f"{caption.text} · {name}" if name else caption.text),
        "caption": escaped(caption.text),
        "captions": "".join(f"<p>{escaped(one.text)}</p>" for one in [caption, *caption.others]),
        "note": escaped(" · ".join(part for part in (name, note) if part)),
        "most": "strongest of the word" if style.scale == "word" else "strongest of the caption",
        "photo": _jpeg(small),
    }
    return assemble(
        "page.html",
        styles="page.css",
        scripts="common.js page_map.js page.js",
        data=numbers(caption, small.size, style),
        texts=texts,
    )


def numbers(caption: Caption, size: tuple[int, int], style: Style) -> dict[str, Any]:
    """Return the data for the page's script; see the module."""
    heat = Heat(caption, style)
    return {
        "captions": [
            _words(caption, heat),
            *(_words(other, _heat_of(other, caption, style)) for other in caption.others),
        ],
        "places": heat.weights.shape[1],
        "colours": _base64(np.rint(palette(style) * 255).astype(np.uint8)),
        "smoothing": style.smoothing,
        "seen": caption.seen,
        "grid": caption.grid,
        "boxes": None if heat.boxes is None else np.round(heat.boxes, 4).tolist(),
        "labels": None if heat.boxes is None or caption.labels is None else [clean(label) for label in caption.labels],
        "size": size,
        "milliseconds": round(1000 * style.seconds),
        "hint": HINT,
    }


def _heat_of(other: Caption, best: Caption, style: Style) -> Heat | None:
    """Return the attention of another caption of the photo; ``None`` if it has none to the best caption's places."""
    if other.attention is None or best.attention is None:
        return None
    same = other.grid == best.grid and other.attention.shape[1] == best.attention.shape[1]
    return Heat(other, style) if same else None


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


def _jpeg(photo: Image.Image) -> str:
    stream = io.BytesIO()
    photo.convert("RGB").save(stream, "JPEG", quality=84, optimize=True, progressive=True)
    return "data:image/jpeg;base64," + base64_text(stream.getvalue())
