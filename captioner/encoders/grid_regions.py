"""The cells of a grid and the regions of a detector in one memory.

A grid covers the whole image, a region has the size of its object: Luo et al. 2021 (https://arxiv.org/abs/2101.06462)
and Nguyen et al. 2022 (https://arxiv.org/abs/2207.09666) found that each helps the other.

Tensor letters: B images, N cells, R regions of an image with padding, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from captioner.data.transform import Transform
from captioner.encoders.encoder import ENCODERS, Encoder, EncoderConfig
from captioner.encoders.grid import GridConfig, GridEncoder
from captioner.encoders.regions import RegionConfig, RegionEncoder
from captioner.errors import EncoderError
from captioner.memory import Memory

if TYPE_CHECKING:
    from PIL import Image

GRID, REGIONS = "grid", "regions"


class GridRegionConfig(EncoderConfig):
    """Settings of the two encoders."""

    grid: GridConfig = Field(default_factory=GridConfig, description="of the grid's encoder")
    regions: RegionConfig = Field(default_factory=RegionConfig, description="of the regions' encoder")


class StackedTransform(Transform):
    """One image at the sizes of two encoders in one array (3, S, W): each encoder gets the same input as alone.

    This class has the settings of the first transform, which fills the upper part. Both parts are centred, so mirroring
    the array mirrors both.

    Attributes:
        second: the second encoder's transform.
    """

    second: Transform

    @classmethod
    def of(cls, first: Transform, second: Transform) -> StackedTransform:
        """Stack two transforms.

        Raises:
            EncoderError: they show different parts of an image, or cannot both be centred.
        """
        if first.view != second.view:
            raise EncoderError(
                f"grid+regions: the grid's images are fitted by {first.fit} and the regions' by {second.fit}, and "
                "they must show the same; set grid.fit=squash"
            )
        if (first.size - second.size) % 2:
            raise EncoderError(
                f"grid+regions: the sizes {first.size} and {second.size} must both be even; change grid.size"
            )
        return cls(**first.model_dump(), second=second)

    @property
    def decode_size(self) -> int:
        """The larger of the two."""
        return max(super().decode_size, self.second.decode_size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Both images, one above the other."""
        return (3, self.size + self.second.size, max(self.size, self.second.size))

    def pixels(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return both images in one array."""
        both = np.zeros(self.shape, dtype=np.uint8)
        for part, pixels in zip(self._split(both), (super().pixels(image), self.second.pixels(image)), strict=True):
            part[...] = pixels
        return both

    def split(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels (B, 3, S, S) of each transform from those of both."""
        return self._split(pixels)

    def images(self, pixels: Tensor) -> tuple[tuple[Transform, Tensor], ...]:
        """Return each transform with its part."""
        first, second = self._split(pixels)
        return (self, first), (self.second, second)

    def _split(self, both: Any) -> tuple[Any, Any]:
        """Return the views of an array or tensor that hold the two images."""
        width = self.shape[2]
        first, second = ((width - size) // 2 for size in (self.size, self.second.size))
        return (
            both[..., : self.size, first : first + self.size],
            both[..., self.size :, second : second + self.second.size],
        )


@ENCODERS.register("grid+regions")
class GridRegionEncoder(Encoder):
    """The cells of a :class:`GridEncoder`, then the regions of a :class:`RegionEncoder`.

    The memory is the direct sum of both: a cell's vector is its features followed by zeros, a region's is zeros
    followed by its features, and D is the sum of both D. The first linear layer of any decoder or refiner is then one
    layer for cells and another for regions, as in the papers above. The pooled vectors are concatenated. Cells and
    regions have boxes; cells have no labels.

    The grid's last stages can be cut off and tuned; the detector stays frozen.

    Args:
        config: the settings.
        parts: the two encoders; ``None`` builds them.
    """

    Config: ClassVar[type[EncoderConfig]] = GridRegionConfig
    grid = None

    def __init__(self, config: GridRegionConfig, parts: tuple[GridEncoder, RegionEncoder] | None = None) -> None:
        super().__init__()
        self.config: GridRegionConfig = config
        self.cells, self.regions = parts or (GridEncoder(config.grid), RegionEncoder(config.regions))
        self.transform = self.stacked = StackedTransform.of(self.cells.transform, self.regions.transform)
        self.features = self.cells.features + self.regions.features
        self.classes = self.regions.classes
        self.stages = self.cells.stages

    @property
    def parts(self) -> Mapping[str, Encoder]:
        """The two encoders."""
        return {GRID: self.cells, REGIONS: self.regions}

    def forward(self, pixels: Tensor) -> Memory:
        """Encode pixels (B, 3, S, W) uint8 from :class:`StackedTransform`."""
        cells, regions = self.stacked.split(pixels)
        return join(self.cells(cells), self.regions(regions))

    def front(self, cut: int) -> Encoder:
        """Cut off the grid's last ``cut`` stages."""
        if not cut:
            return self
        cells = self.cells.front(cut)
        return GridRegionEncoder(self.config.model_copy(update={GRID: cells.config}), (cells, self.regions))

    def tail(self, cut: int) -> nn.Module:
        """Return the grid's last ``cut`` stages."""
        return self if cut == self.stages else self.cells.tail(cut)

    def finish(self, memory: Memory, cut: int) -> Memory:
        """Run the grid's last ``cut`` stages."""
        if not cut:
            return memory
        cells, regions = separate(memory, regions=self.regions.config.regions, features=self.regions.features)
        return join(self.cells.finish(cells, cut), regions)

    def copy_weights(self, other: Encoder, stages: int) -> None:
        """Copy the last stages of an encoder of the same settings, or of a grid encoder into those of the grid."""
        if isinstance(other, GridEncoder):
            self.cells.copy_weights(other, stages)
        else:
            super().copy_weights(other, stages)

    def fast(self, device: torch.device) -> Encoder:
        """Return the encoder with both parts in their fast form."""
        if type(self) is not GridRegionEncoder:  # a subclass may have other layers
            return super().fast(device)
        cells, regions = self.cells.fast(device), self.regions.fast(device)
        if cells is self.cells and regions is self.regions:
            return self
        assert isinstance(cells, GridEncoder)
        fast = GridRegionEncoder(self.config, (cells, regions))
        fast._fingerprint = self.fingerprint()
        return fast


def join(cells: Memory, regions: Memory) -> Memory:
    """Return the direct sum of a grid's memory (B, N, D) and one of regions (B, R, D'): (B, N + R, D + D')."""
    (b, n, d), r = cells.vectors.shape, regions.n_vectors
    boxes = cells.image_boxes()
    assert boxes is not None and regions.boxes is not None and regions.mask is not None
    assert regions.labels is not None and regions.scores is not None
    vectors = cells.vectors.new_zeros(b, n + r, d + regions.vectors.shape[2])
    vectors[:, :n, :d], vectors[:, n:, d:] = cells.vectors, regions.vectors
    return Memory(
        vectors,
        torch.cat([cells.pooled, regions.pooled.to(cells.pooled.dtype)], dim=1),
        mask=torch.cat([regions.mask.new_ones(b, n), regions.mask], dim=1),
        boxes=torch.cat([boxes.to(regions.boxes.dtype), regions.boxes], dim=1),
        labels=torch.cat([regions.labels.new_full((b, n), -1), regions.labels], dim=1),
        scores=torch.cat([regions.scores.new_zeros(b, n), regions.scores], dim=1),
    )


def separate(memory: Memory, *, regions: int, features: int) -> tuple[Memory, Memory]:
    """Undo :func:`join`, given the number of regions and of their features."""
    assert memory.boxes is not None and memory.mask is not None
    assert memory.labels is not None and memory.scores is not None
    n, d = memory.n_vectors - regions, memory.vectors.shape[2] - features
    side = isqrt(n)  # images are square
    return Memory(memory.vectors[:, :n, :d], memory.pooled[:, :d], grid=(side, side)), Memory(
        memory.vectors[:, n:, d:],
        memory.pooled[:, d:],
        mask=memory.mask[:, n:],
        boxes=memory.boxes[:, n:],
        labels=memory.labels[:, n:],
        scores=memory.scores[:, n:],
    )
