"""The memory: an encoder's output, which a decoder attends to.

Letters in shapes: B images, N regions or cells, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Vectors, each with its region or cell of the image.

    Attributes:
        vectors: (B, N, D) features.
        mask: (B, N) bool, true where a vector is real; ``None`` when all are.
        pooled: (B, D) a vector for the whole image.
        grid: (rows, columns) of the cells in row-major order, else ``None``.
        boxes: (B, N, 4) relative xyxy boxes of regions, else ``None``.
        labels: (B, N) the class of each region, an index into the encoder's ``classes``; -1 where there is none.
        scores: (B, N) float32, the detector's confidence in the label; 0 where there is none.
        final_state: (B, 2, L, H) hidden state and cell of the L layers of a text encoder's LSTM after the last word,
            else ``None``; a decoder of translations can start from them.
    """

    vectors: Tensor
    pooled: Tensor
    mask: Tensor | None = None
    grid: tuple[int, int] | None = None
    boxes: Tensor | None = None
    labels: Tensor | None = None
    scores: Tensor | None = None
    final_state: Tensor | None = None

    @classmethod
    def of_grid(cls, features: Tensor, grid: tuple[int, int]) -> Memory:
        """Make a memory from grid features (B, rows * columns, D), pooled by their mean."""
        return cls(vectors=features, pooled=features.mean(dim=1), grid=grid)

    @classmethod
    def join(cls, memories: Sequence[Memory]) -> Memory:
        """Concatenate memories of one encoder along the images."""
        first, *others = memories
        if not others:
            return first
        return first._each(lambda name, tensor: torch.cat([tensor, *(getattr(other, name) for other in others)]))

    def __post_init__(self) -> None:
        if self.vectors.dim() != 3:
            raise ValueError(f"memory vectors must be (B, N, D), not {tuple(self.vectors.shape)}")
        b, n, d = self.vectors.shape
        if tuple(self.pooled.shape) != (b, d):
            raise ValueError(f"pooled must be {(b, d)}, not {tuple(self.pooled.shape)}")
        if self.grid is not None and self.grid[0] * self.grid[1] != n:
            raise ValueError(f"a grid of {self.grid} does not have {n} cells")
        if self.mask is not None and (tuple(self.mask.shape) != (b, n) or self.mask.dtype != torch.bool):
            raise ValueError(f"mask must be {(b, n)} bool, not {tuple(self.mask.shape)} {self.mask.dtype}")
        if self.boxes is not None and tuple(self.boxes.shape) != (b, n, 4):
            raise ValueError(f"boxes must be {(b, n, 4)}, not {tuple(self.boxes.shape)}")
        for name, tensor in (("labels", self.labels), ("scores", self.scores)):
            if tensor is not None and tuple(tensor.shape) != (b, n):
                raise ValueError(f"{name} must be {(b, n)}, not {tuple(tensor.shape)}")
        if self.final_state is not None and (self.final_state.dim() != 4 or self.final_state.shape[:2] != (b, 2)):
            raise ValueError(f"final_state must be ({b}, 2, L, H), not {tuple(self.final_state.shape)}")

    def __len__(self) -> int:
        """Return B, the number of images."""
        return self.vectors.shape[0]

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.vectors.device

    @property
    def n_vectors(self) -> int:
        """N, the number of regions or cells."""
        return self.vectors.shape[1]

    def image_boxes(self) -> Tensor | None:
        """Return the relative xyxy box of each region or cell, (B, N, 4); ``None`` for a memory without them."""
        if self.boxes is not None:
            return self.boxes
        if self.grid is None:
            return None
        rows, columns = self.grid
        device = self.vectors.device
        y, x = torch.meshgrid(
            torch.arange(rows, device=device) / rows, torch.arange(columns, device=device) / columns, indexing="ij"
        )
        cells = torch.stack([x, y, x + 1 / columns, y + 1 / rows], dim=-1).flatten(0, 1)
        return cells.unsqueeze(0).expand(len(self), -1, -1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Memory:
        """Move to a device and cast the floating-point tensors."""
        moved = self._each(lambda _, tensor: tensor.to(device=device))
        if dtype is None:
            return moved
        floating = ("vectors", "pooled", "boxes", "final_state")
        return moved._each(lambda name, tensor: tensor.to(dtype) if name in floating else tensor)

    def __getitem__(self, index: slice | Tensor) -> Memory:
        """Select images."""
        return self._each(lambda _, tensor: tensor[index])

    def _each(self, function: Callable[[str, Tensor], Tensor]) -> Memory:
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        changes: dict[str, Any] = {
            name: function(name, tensor) for name, tensor in parts.items() if isinstance(tensor, Tensor)
        }
        return replace(self, **changes)


@dataclass(frozen=True)
class Memories:
    """The memories of several encoders for the same images.

    Attributes:
        parts: one memory of B images for each encoder.
    """

    parts: tuple[Memory, ...]

    @classmethod
    def join(cls, memories: Sequence[Memories]) -> Memories:
        """Concatenate memories of the same encoders along the images."""
        return cls(tuple(Memory.join(parts) for parts in zip(*(each.parts for each in memories), strict=True)))

    def __len__(self) -> int:
        """Return B, the number of images."""
        return len(self.parts[0])

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.parts[0].device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Memories:
        """Move each memory as :meth:`Memory.to`."""
        return Memories(tuple(part.to(device, dtype) for part in self.parts))

    def __getitem__(self, index: slice | Tensor) -> Memories:
        """Select images."""
        return Memories(tuple(part[index] for part in self.parts))


#: the input of a search
Encoded: TypeAlias = Memory | Memories
