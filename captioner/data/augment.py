"""Random crops and colours of training photos, as they are drawn for every epoch.

Letters in shapes: B pictures in a batch, S the encoder's input size in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from captioner.data.transform import Box
from captioner.settings import Settings

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow makes grey


class AugmentConfig(Settings):
    """How training photos are varied. Mirroring is a setting of the data, as a feature store can hold mirrored photos.

    Any variation makes a run encode the pictures in every epoch, which wants a GPU.
    """

    crop: float = Field(
        1.0, gt=0, le=1, description="least share of a photo's area that a random crop keeps (Szegedy 2015); 1 for none"
    )
    colour: float = Field(
        0.0, ge=0, lt=1, description="brightness, contrast and saturation change by factors from 1 - this to 1 + this"
    )

    @property
    def active(self) -> bool:
        """Whether anything is varied."""
        return self.crop < 1 or self.colour > 0


class View(NamedTuple):
    """How one photo is seen in one epoch.

    Attributes:
        box: the part that is seen.
        colour: factors of brightness, contrast and saturation.
    """

    box: Box
    colour: tuple[float, float, float]


def draw_view(config: AugmentConfig, generator: torch.Generator) -> View:
    """Draw a view: an area uniform in ``crop..1``, a shape log-uniform in 3/4..4/3 (Szegedy 2015), a uniform position.

    A crop that would be wider or higher than the photo is cut to it.
    """
    area, shape, x, y, *colour = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
    area = config.crop + (1 - config.crop) * area
    stretch = math.exp((2 * shape - 1) * math.log(4 / 3) / 2) if config.crop < 1 else 1.0
    width, height = min(1.0, math.sqrt(area) * stretch), min(1.0, math.sqrt(area) / stretch)
    left, top = x * (1 - width), y * (1 - height)
    brightness, contrast, saturation = (1 + config.colour * (2 * factor - 1) for factor in colour)
    return View((left, top, left + width, top + height), (brightness, contrast, saturation))


def recolour(pixels: Tensor, colours: Sequence[tuple[float, float, float]]) -> Tensor:
    """Change brightness, then contrast, then saturation of pictures, each by its factors, as torchvision does.

    Args:
        pixels: uint8 (B, 3, S, S), on any device.
        colours: B times the factors of brightness, contrast and saturation; 1 changes nothing.

    Returns:
        uint8 (B, 3, S, S).
    """
    factors = torch.tensor(list(colours), dtype=torch.float32, device=pixels.device).view(-1, 3, 1, 1, 1)
    brightness, contrast, saturation = factors.unbind(1)
    luma = torch.tensor(_LUMA, device=pixels.device).view(3, 1, 1)
    changed = (pixels * brightness).clamp_(0, 255)
    grey = (changed * luma).sum(1, keepdim=True)
    changed = grey.mean((2, 3), keepdim=True).lerp(changed, contrast).clamp_(0, 255)
    grey = (changed * luma).sum(1, keepdim=True)
    return grey.lerp(changed, saturation).clamp_(0, 255).round_().to(torch.uint8)
