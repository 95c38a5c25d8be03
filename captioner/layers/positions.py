"""Where things are, as vectors: the place of a region in a picture, the place of a word in a sentence.

Tensor letters: B images, N places, D features, T steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from captioner.memory import Memory


class Geometry(nn.Module):
    """A learned vector of each place's box, to be added to its features: a linear map of (x0, y0, x1, y1, width, height, area), all relative.

    A cell of a grid is a box like any other, so that regions and grids are told where they are in the same way. It
    starts at zero: an untrained one changes nothing.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.project = nn.Linear(7, features)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, memory: Memory) -> Tensor:
        """Return (B, N, D), or zeros (1, 1, D) for a memory whose places are not in a picture."""
        weight = self.project.weight
        boxes = memory.places_in_picture()
        if boxes is None:
            return weight.new_zeros(1, 1, weight.shape[0])
        boxes = boxes.to(weight.dtype)
        size = boxes[..., 2:] - boxes[..., :2]
        described = torch.cat([boxes, size, size.prod(-1, keepdim=True)], dim=-1)
        out: Tensor = self.project(described)
        return out


def sinusoidal(steps: int, features: int, *, device: torch.device | None = None) -> Tensor:
    """Return the positional encoding (T, D) of Vaswani 2017, section 3.5: ``sin(t / 10000^(2i/D))`` in even places, the cosine in odd ones."""
    position = torch.arange(steps, device=device, dtype=torch.float64).unsqueeze(1)
    rate = torch.exp(
        torch.arange(0, features, 2, device=device, dtype=torch.float64) * (-math.log(10_000.0) / features)
    )
    out = torch.zeros(steps, features, device=device, dtype=torch.float64)
    out[:, 0::2] = torch.sin(position * rate)
    out[:, 1::2] = torch.cos(position * rate[: features // 2])
    return out
