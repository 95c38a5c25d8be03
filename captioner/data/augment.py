"""Random crops, colours and erasing of training images, drawn again in every epoch.

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

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, like Pillow's grey
_MIN_ASPECT = 0.3  # width over height of an erased rectangle; the widest is its inverse (Zhong 2017)


class AugmentConfig(Settings):
    """Random augmentation of training images, except mirroring: ``data.flips``, which feature stores support.

    Augmented images are encoded in every epoch, which needs a GPU. With ``stored``, crops are cut from stored maps.
    """

    crop: float = Field(
        1.0, gt=0, le=1, description="least share of an image's area in a random crop (Szegedy 2015); 1 for no crops"
    )
    colour: float = Field(
        0.0, ge=0, lt=1, description="brightness, contrast and saturation change by factors from 1 - this to 1 + this"
    )
    erase: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the images with a random rectangle erased (Zhong 2017 erase it in half of them)",
    )
    erase_area: tuple[float, float] = Field(
        (0.02, 0.4), description="least and greatest share of the encoder's input that the rectangle covers"
    )
    stored: bool = Field(
        False,
        description="crop the stored maps at the input of the tuned stages instead of the images, which are then "
        "encoded once; excludes colour and erase",
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
        """Whether the images themselves are varied, which rules out stored features."""
        return self.active and not self.stored


class View(NamedTuple):
    """The augmentation of one image in one epoch.

    Attributes:
        box: the crop.
        colour: factors of brightness, contrast and saturation.
        erased: the erased part of the crop, if any.
    """

    box: Box
    colour: tuple[float, float, float]
    erased: Box | None = None


def draw_view(config: AugmentConfig, generator: torch.Generator) -> View:
    """Draw a view: an area uniform in ``crop..1``, a shape log-uniform in 3/4..4/3 (Szegedy 2015), a uniform position.

    A crop wider or higher than the image is cut to it. The erased part is drawn last, which leaves the other draws as
    they are without erasing.
    """
    area, shape, x, y, *colour = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
    area = config.crop + (1 - config.crop) * area
    stretch = math.exp((2 * shape - 1) * math.log(4 / 3) / 2) if config.crop < 1 else 1.0
    brightness, contrast, saturation = (1 + config.colour * (2 * factor - 1) for factor in colour)
    erased = draw_erased(config, generator) if config.erase else None
    return View(_rectangle(area, stretch, x, y), (brightness, contrast, saturation), erased)


def draw_erased(config: AugmentConfig, generator: torch.Generator) -> Box | None:
    """Draw a rectangle to erase (Zhong 2017, https://arxiv.org/abs/1708.04896, algorithm 1), or none.

    Its area is uniform in ``erase_area``, its position uniform where it fits. Departures from the paper: width over
    height is log-uniform in 0.3..1/0.3, which makes upright and flat rectangles equally frequent, and a rectangle wider
    or higher than the image is cut to it instead of drawn again.
    """
    chosen, area, shape, x, y = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    if chosen >= config.erase:
        return None
    least, greatest = config.erase_area
    area = least + (greatest - least) * area
    return _rectangle(area, math.exp((2 * shape - 1) * -math.log(_MIN_ASPECT) / 2), x, y)


def _rectangle(area: float, stretch: float, x: float, y: float) -> Box:
    """Return a box of this area and a shape of ``stretch`` squared, cut to the image; x and y in 0..1 place it."""
    width, height = min(1.0, math.sqrt(area) * stretch), min(1.0, math.sqrt(area) / stretch)
    left, top = x * (1 - width), y * (1 - height)
    return left, top, left + width, top + height


def apply_views(pixels: Tensor, views: Sequence[View], transform: Transform) -> Tensor:
    """Change the colours of cropped images and erase parts of them.

    Args:
        pixels: uint8 (B, 3, S, S), on any device; other sides if the transform holds several images.
        views: one for each image.
        transform: the transform of the images.

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
    """Replace a rectangle of each image by the encoder's mean, which is 0 when normalised.

    The paper prefers random values; the mean, which it also tested, needs no random numbers on the device.

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
    """Cut a box from the grid of each image and enlarge it to the size of the grid, bilinearly.

    Each cell keeps the influence of its surroundings, so this approximates the grid of the cropped image.

    Args:
        memory: of B images.
        boxes: B relative xyxy boxes.

    Raises:
        ConfigError: the memory is not a grid.
    """
    if memory.grid is None:
        raise ConfigError("data.augment.stored: the features are not a grid; leave it out for regions")
    left, top, right, bottom = torch.tensor(list(boxes), dtype=torch.float32).unbind(1)
    zero = torch.zeros_like(left)
    affine = torch.stack([right - left, zero, left + right - 1, zero, bottom - top, top + bottom - 1], dim=1)
    maps = memory.vectors.float().unflatten(1, memory.grid).permute(0, 3, 1, 2)
    sampling = F.affine_grid(affine.view(-1, 2, 3), list(maps.shape), align_corners=False)
    maps = F.grid_sample(maps, sampling, padding_mode="border", align_corners=False)
    return Memory.of_grid(maps.permute(0, 2, 3, 1).flatten(1, 2).to(memory.vectors.dtype), memory.grid)


def recolour(pixels: Tensor, colours: Sequence[tuple[float, float, float]]) -> Tensor:
    """Change the brightness, then the contrast, then the saturation of images like torchvision.

    Args:
        pixels: uint8 (B, 3, S, S), on any device.
        colours: factors of brightness, contrast and saturation for each image; 1 changes nothing.

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
