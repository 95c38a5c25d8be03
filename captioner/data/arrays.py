"""Images from arrays and tensors, and deep grey as 8 bits."""

from __future__ import annotations

import sys
from typing import Any

from PIL import Image

from captioner.data.pixel_limit import check_size
from captioner.errors import ImageError, first_line


def is_tensor(source: Any) -> bool:
    """Return whether an image is a torch tensor; does not import torch."""
    # A tensor implies that torch is imported. While another thread imports it, it may have no Tensor yet.
    return isinstance(source, getattr(sys.modules.get("torch"), "Tensor", ()))


def is_array(source: Any) -> bool:
    """Return whether an image is a numpy array; does not import numpy."""
    return isinstance(source, getattr(sys.modules.get("numpy"), "ndarray", ()))


def from_array(source: Any, name: str, limit: int) -> Image.Image:
    """Convert an array or tensor, as :func:`~captioner.data.images.load_image` takes it, to a Pillow image.

    Raises:
        ImageError: about ``name``: its shape, size, type or values are not those of an image.
    """
    import numpy as np

    if is_tensor(source):
        try:
            tensor = source.detach().cpu()
            array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
        except (NotImplementedError, RuntimeError, TypeError) as error:  # it is sparse, quantised or without data
            raise ImageError(name, f"not an ordinary tensor ({first_line(error)}); give a dense one") from None
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            array = array.transpose(1, 2, 0)
    else:
        array = np.asarray(source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(name, "not the shape of one image; give height x width, with 1, 3 or 4 channels last")
    check_size((array.shape[1], array.shape[0]), name, limit)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not np.isfinite([low, high]).all():
            raise ImageError(name, "some values are not finite numbers; replace them first")
        if not -1e-3 <= low <= high <= 1 + 1e-3:  # the overshoot of resizing is accepted
            raise ImageError(name, f"values from {low:g} to {high:g}; floats must be in 0..1, so divide by 255 or clip")
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(name, "values must be uint8 in 0..255 or floats in 0..1; convert them first")
    return Image.fromarray(np.ascontiguousarray(array))


def to_grey(image: Image.Image) -> Image.Image:
    """Reduce deep grey (16-bit, 32-bit or float) to 8 bits; NaN becomes black."""
    import numpy as np

    values = np.asarray(image)
    grey = np.empty(values.shape, np.uint8)
    # A few rows at a time: the steps take about 12 bytes a pixel.
    step = max(1, (1 << 20) // max(values.shape[1], 1))
    bands = [slice(top, top + step) for top in range(0, len(values), step)]
    if values.dtype.kind == "u":  # 16 bits
        table = (np.arange(65536, dtype=np.float32) * np.float32(255 / 65535)).round().astype(np.uint8)
        for band in bands:
            grey[band] = table[values[band]]
        return Image.fromarray(grey)
    low, high = np.inf, -np.inf
    for band in bands:
        part = values[band].astype(np.float32)
        finite = part[np.isfinite(part)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        low = high = 0.0
    whites = (255.0, 65535.0) if image.mode == "I" else (1.0, 255.0)
    if low >= 0 and high <= whites[-1]:
        low, high = 0.0, next(white for white in whites if high <= white)
    factor = 255 / (high - low) if high > low else 0.0
    for band in bands:
        with np.errstate(all="ignore"):
            part = (values[band].astype(np.float32) - low) * factor
        grey[band] = np.nan_to_num(part).clip(0, 255).round()
    return Image.fromarray(grey)
