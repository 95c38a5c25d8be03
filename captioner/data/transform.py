"""Transforms of images to the encoder's input.

Letters in shapes: B images in a batch, S the transform's size in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from PIL import Image
from pydantic import Field

from captioner.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import torch


#: a part of an image: x0, y0, x1, y1, relative, in 0..1
Box: TypeAlias = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
MAX_SIZE = 4096  # pixels of a side: with more, a damaged config would fill the memory


class Transform(Settings):
    """Makes the encoder's input from an image; part of the encoder's config, so training and inference use the same.

    Attributes:
        size: side of the encoder's square input, in pixels (S).
        fit: ``squash`` keeps the whole image but not its shape; ``crop`` keeps the shape but only the middle.
        crop_fraction: for ``crop``, the share of the shorter side that is kept.
        interpolation: Pillow's antialiased filter.
        mean: of each channel (R, G, B), for values in 0..1.
        std: of each channel (R, G, B), for values in 0..1.
    """

    size: int = Field(default=448, ge=1, le=MAX_SIZE)
    fit: Literal["squash", "crop"] = "squash"
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]

    @property
    def decode_size(self) -> int:
        """The ``min_size`` for :func:`~captioner.data.images.load_image`.

        It is twice the size needed, so a JPEG decoded at a reduced scale gives nearly the same pixels (for a
        24-megapixel image they differ by 0.2 of 255 on average and by 2 at most).
        """
        return 2 * (self.size if self.fit == "squash" else round(self.size / self.crop_fraction))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of :meth:`pixels`."""
        return (3, self.size, self.size)

    @property
    def view(self) -> tuple[str, float | None]:
        """The settings that decide which part of an image is seen."""
        return self.fit, self.crop_fraction if self.fit == "crop" else None

    def pixels(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the seen part of an RGB ``image`` as a uint8 array ``(3, S, S)``, in memory S x S x 3."""
        import numpy as np

        resample = Image.Resampling[self.interpolation.upper()]
        box = self._box(image.size)
        if self.fit == "squash" and image.height > 64 * image.width:
            # Pillow resizes widths first: a strip of 1 x 1,000,000 pixels would first become 448 x 1,000,000.
            image = image.resize((image.width, self.size), resample)
            box = self._box(image.size)
        square = image.resize((self.size, self.size), resample, box=box)
        return np.array(square).transpose(2, 0, 1)

    def visible_box(self, image_size: tuple[int, int]) -> Box:
        """Return the part of an image of ``(width, height)`` that the encoder sees."""
        width, height = image_size
        x0, y0, x1, y1 = self._box(image_size)
        return (x0 / width, y0 / height, x1 / width, y1 / height)

    def images(self, pixels: torch.Tensor) -> tuple[tuple[Transform, torch.Tensor], ...]:
        """Return the images ``(B, 3, S, S)`` in ``pixels`` as views, each with its transform; here one."""
        return ((self, pixels),)

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """Turn uint8 pixels ``(B, 3, S, S)`` into float32 ``(value / 255 - mean) / std``, on their own device."""
        import torch

        mean = torch.tensor(self.mean, device=batch.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(3, 1, 1)
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)

    def _box(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part that is kept, in pixels of the image.

        For ``crop`` it is the box that resizing and then cropping would cut out, at whole pixels of the resized image.
        That image is never made: of a very long image, it would not fit into memory.
        """
        width, height = image_size
        if self.fit == "squash":
            return (0.0, 0.0, float(width), float(height))
        short = round(self.size / self.crop_fraction)
        resized = (
            short if width <= height else int(short * width / height),
            short if height <= width else int(short * height / width),
        )
        left, top = (round((side - self.size) / 2) for side in resized)
        x, y = width / resized[0], height / resized[1]
        return (left * x, top * y, min((left + self.size) * x, width), min((top + self.size) * y, height))


class CombinedTransform(Transform):
    """Several transforms of one image, stacked vertically in an array (3, H, W), so the image is read once.

    The settings of the instance, and the part of the image that it keeps, are those of the first transform.

    Attributes:
        parts: the transforms.
    """

    parts: tuple[Transform, ...]

    @classmethod
    def of(cls, parts: Sequence[Transform]) -> CombinedTransform:
        """Combine transforms."""
        return cls(**parts[0].model_dump(include=set(Transform.model_fields)), parts=tuple(parts))

    @property
    def decode_size(self) -> int:
        """The largest of the parts."""
        return max(part.decode_size for part in self.parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, heights, widths = zip(*(part.shape for part in self.parts), strict=True)
        return (3, sum(heights), max(widths))

    def pixels(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        import numpy as np

        together = np.zeros(self.shape, dtype=np.uint8)
        for view, part in zip(self.split(together), self.parts, strict=True):
            view[...] = part.pixels(image)
        return together

    def split(self, together: Any) -> list[Any]:
        """Return the views of an array or tensor (..., H, W) with the images of each transform."""
        views, top = [], 0
        for _, height, width in (part.shape for part in self.parts):
            views.append(together[..., top : top + height, :width])
            top += height
        return views
