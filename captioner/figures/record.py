"""The attention of a caption as numbers for other programs.

The record is that of :meth:`Caption.to_dict` with ``attention=True``, plus the data for drawing:

- ``format``: 1.
- ``image``: the image file, if the image came from one; ``caption``, ``tokens`` (T words), ``log_probability`` (nats).
- ``attention``: T rows of N weights, each row summing to one.
- ``attention_of``: ``mean`` for the model's own attention, else the heads (:mod:`captioner.engines.attention_rollout`).
- ``others``: the next best captions, if requested, each with ``caption``, ``tokens``, ``log_probability`` and
  ``attention`` to the same regions or cells.
- ``picture``: ``{"width", "height"}`` of the image in pixels, upright (after applying its EXIF orientation).
- ``seen``: ``[x0, y0, x1, y1]``, the part of the image that the model saw, relative to its width and height.
- ``grid``: ``[rows, columns]`` if the N weights are of the cells of a grid, row by row, else null. Cell n lies in row
  ``n // columns``, column ``n % columns``; its left edge is at ``x0 + (x1 - x0) * column / columns`` of the image's
  width, its upper edge at ``y0 + (y1 - y0) * row / rows`` of its height.
- ``labels``: labels of the N regions, if their detector has labels, else null.
- ``boxes``: N boxes ``[x0, y0, x1, y1]`` if the weights are of regions, else null; relative to the part that was seen.
"""

from __future__ import annotations

from typing import Any

from captioner.caption import Caption
from captioner.figures.heat import require_attention

FORMAT = 1


def record(caption: Caption, size: tuple[int, int]) -> dict[str, Any]:
    """Return the record of a caption of an image of (width, height) pixels.

    Raises:
        CaptionerError: see :func:`captioner.figures.heat.require_attention`.
    """
    require_attention(caption)
    value = caption.to_dict(attention=True)
    if caption.others:
        whole = (other.to_dict(attention=True) for other in caption.others)
        value["others"] = [
            {key: other[key] for key in ("caption", "tokens", "log_probability", "attention")} for other in whole
        ]
    return {"format": FORMAT, **value, "picture": {"width": size[0], "height": size[1]}}
