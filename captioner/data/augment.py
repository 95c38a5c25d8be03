"""Random crops, colours and erased parts of training photos, as they are drawn for every epoch.

Letters in shapes: B images in a batch, S the encoder's input size in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from captioner.data.transform import Box, Transform
from captioner.errors import ConfigError
from captioner.memory import Memory
from captioner.settings import Settings

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow makes grey
_NARROWEST = 0.3  # width over height of what is erased, and its inverse is the widest (Zhong 2017)


class AugmentConfig(Settings):
    """How training photos are varied. Mirroring is a setting of the data, as a feature store can hold mirrored photos.

    Varied images are encoded in every epoch, which wants a GPU. With ``stored``, crops are cut from the stored maps.
    """

    crop: float = Field(
        1.0, gt=0, le=1, description="least share of a photo's area that a random crop keeps (Szegedy 2015); 1 for none"
    )
    colour: float = Field(
        0.0, ge=0, lt=1, description="brightness, contrast and saturation change by factors from 1 - this to 1 + this"
    )
    erase: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the photos of which a random rectangle is erased (Zhong 2017, who erase half of them)",
    )
    erase_area: tuple[float, float] = Field(
        (0.02, 0.4), description="least and greatest share of the encoder's input that such a rectangle covers"
    )

    stored: bool = Field(
        False,
        description="crop the stored maps where the trained stages begin and not the images, which are then encoded "
        "once; colours cannot be changed there, and nothing erased",
    )

    @model_validator(mode="after")
    def _areas(self) -> AugmentConfig:
        least, greatest = self.erase_area
        if not 0 < least <= greatest <= 1:
            raise ValueError(f"erase_area: give two shares, 0 < least <= greatest <= 1, not {least} and {greatest}")
        return self

    @model_validator(mode="after")
    def _crops_only(self) -> AugmentConfig:
        if self.stored and (self.colour or self.erase):
            raise ValueError("stored maps can only be cropped; set colour and erase to 0, or stored to false")
        return self

    @property
    def active(self) -> bool:
        """Whether anything is varied."""
        return self.crop < 1 or self.colour > 0 or self.erase > 0

    @property
    def of_images(self) -> bool:
        """Whether the images themselves are varied, so that their features cannot be stored."""
        return self.active and not self.stored


class View(NamedTuple):
    """How one photo is seen in one epoch.

    Attributes:
        box: the part that is seen.
        colour: factors of brightness, contrast and saturation.
        erased: the part of what is seen that is erased, if any.
    """

    box: Box
    colour: tuple[float, float, float]
    erased: Box | None = None


def draw_view(config: AugmentConfig, generator: torch.Generator) -> View:
    """Draw a view: an area uniform in ``crop..1``, a shape log-uniform in 3/4..4/3 (Szegedy 2015), a uniform position.

    A crop that would be wider or higher than the photo is cut to it. What is erased is drawn after that, so that the
    rest is what it would be without.
    """
    area, shape, x, y, *colour = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
    area = config.crop + (1 - config.crop) * area
    stretch = math.exp((2 * shape - 1) * math.log(4 / 3) / 2) if config.crop < 1 else 1.0
    width, height = min(1.0, math.sqrt(area) * stretch), min(1.0, math.sqrt(area) / stretch)
    left, top = x * (1 - width), y * (1 - height)
    brightness, contrast, saturation = (1 + config.colour * (2 * factor - 1) for factor in colour)
    return View(
        (left, top, left + width, top + height),
        (brightness, contrast, saturation),
        draw_erased(config, generator) if config.erase else None,
    )


def draw_erased(config: AugmentConfig, generator: torch.Generator) -> Box | None:
    """Draw a rectangle to erase (Zhong 2017, https://arxiv.org/abs/1708.04896, algorithm 1), or none.

    Its area is uniform in ``erase_area``, its position uniform where it fits. Departures from the paper: width over
    height is log-uniform and not uniform in 0.3..1/0.3, so that what is upright is as frequent as what is flat; and a
    rectangle that would be wider or higher than the image is cut to it, where the paper draws anew.
    """
    chosen, area, shape, x, y = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    if chosen >= config.erase:
        return None
    least, greatest = config.erase_area
    area = least + (greatest - least) * area
    stretch = math.exp((2 * shape - 1) * -math.log(_NARROWEST) / 2)
    width, height = min(1.0, math.sqrt(area) * stretch), min(1.0, math.sqrt(area) / stretch)
    left, top = x * (1 - width), y * (1 - height)
    return left, top, left + width, top + height


def vary(pixels: Tensor, views: Sequence[View], transform: Transform) -> Tensor:
    """Change the colours of images and erase parts of them, as their views say; they are cropped already.

    Args:
        pixels: uint8 (B, 3, S, S), on any device; other sides if the transform holds several images.
        views: B of them.
        transform: that made the pixels.

    Returns:
        uint8, of the same shape.
    """
    pixels = recolour(pixels, [view.colour for view in views])
    boxes = [view.erased for view in views]
    if any(box is not None for box in boxes):
        for part, images in transform.images(pixels):
            images.copy_(erase(images, boxes, part.mean))
    return pixels


def erase(pixels: Tensor, boxes: Sequence[Box | None], mean: Sequence[float]) -> Tensor:
    """Erase a rectangle of each image: its pixels become the encoder's mean, which is 0 once they are normalised.

    The paper prefers random values; the mean, which it tried as well, needs no random numbers where the model runs.

    Args:
        pixels: uint8 (B, 3, S, S), on any device.
        boxes: B rectangles, relative; ``None`` erases nothing.
        mean: of each channel, in 0..1.

    Returns:
        uint8 (B, 3, S, S).
    """
    side = torch.arange(pixels.shape[-1], device=pixels.device)
    corners = torch.tensor([box or (0.0, 0.0, 0.0, 0.0) for box in boxes], dtype=torch.float64, device=pixels.device)
    x0, y0, x1, y1 = (corners * len(side)).round().unsqueeze(-1).unbind(1)
    erased = ((side >= y0) & (side < y1)).unsqueeze(-1) & ((side >= x0) & (side < x1)).unsqueeze(-2)
    colour = (255 * torch.tensor(mean, device=pixels.device)).round().to(torch.uint8).view(3, 1, 1)
    return torch.where(erased.unsqueeze(1), colour, pixels)


def crop_maps(memory: Memory, boxes: Sequence[Box]) -> Memory:
    """Cut a box from the maps of each photo, a memory on a grid, and enlarge it to the size of the maps, bilinearly.

    What a cell saw of its surroundings it keeps, so this is only nearly the map of the cropped photo.

    Args:
        memory: of B photos.
        boxes: B times left, top, right and bottom, relative to the photo.

    Raises:
        ConfigError: the places are no grid.
    """
    if memory.grid is None:
        raise ConfigError("data.augment.stored: these places are no grid; leave it out for regions")
    left, top, right, bottom = torch.tensor(list(boxes), dtype=torch.float32).unbind(1)
    zero = torch.zeros_like(left)
    places = torch.stack([right - left, zero, left + right - 1, zero, bottom - top, top + bottom - 1], dim=1)
    maps = memory.vectors.float().unflatten(1, memory.grid).permute(0, 3, 1, 2)
    sampling = F.affine_grid(places.view(-1, 2, 3), list(maps.shape), align_corners=False)
    maps = F.grid_sample(maps, sampling, padding_mode="border", align_corners=False)
    return Memory.of_grid(maps.permute(0, 2, 3, 1).flatten(1, 2).to(memory.vectors.dtype), memory.grid)


def recolour(pixels: Tensor, colours: Sequence[tuple[float, float, float]]) -> Tensor:
    """Change brightness, then contrast, then saturation of images, each by its factors, as torchvision does.

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
