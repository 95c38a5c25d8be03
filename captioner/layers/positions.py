"""Positions as vectors: of a region or cell in an image, of a word in a sentence.

Tensor letters: B images, N regions or cells, D features, T steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from captioner.memory import Memory


class Geometry(nn.Module):
    """A learned vector for the box of each region or cell, to be added to its features.

    It is a linear map of (x0, y0, x1, y1, width, height, area), all relative. The map starts at zero.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.project = nn.Linear(7, features)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, memory: Memory) -> Tensor:
        """Return (B, N, D), or zeros (1, 1, D) for a memory without an image."""
        weight = self.project.weight
        boxes = memory.image_boxes()
        if boxes is None:
            return weight.new_zeros(1, 1, weight.shape[0])
        boxes = boxes.to(weight.dtype)
        size = boxes[..., 2:] - boxes[..., :2]
        inputs = torch.cat([boxes, size, size.prod(-1, keepdim=True)], dim=-1)
        out: Tensor = self.project(inputs)
        return out


def sinusoidal(steps: int, features: int, *, device: torch.device | None = None) -> Tensor:
    """Return the positional encoding (T, D) of the first steps (Vaswani 2017, section 3.5), float64."""
    return sinusoid(torch.arange(steps, device=device), features)


def sinusoid(positions: Tensor, features: int) -> Tensor:
    """Return the encoding (T, D), float64, of any positions or distances (T,), Vaswani 2017, section 3.5.

    Its even features are ``sin(t / 10000^(2i/D))``, its odd ones the cosine.
    """
    device, steps = positions.device, positions.shape[0]  # len() would be a constant in an exported graph
    position = positions.to(torch.float64).unsqueeze(1)
    rate = torch.exp(
        torch.arange(0, features, 2, device=device, dtype=torch.float64) * (-math.log(10_000.0) / features)
    )
    out = torch.zeros(steps, features, device=device, dtype=torch.float64)
    out[:, 0::2] = torch.sin(position * rate)
    # The cosine is written as a sine, since onnxruntime 1.27 has no cosine in 64 bits.
    out[:, 1::2] = torch.sin(position * rate[: features // 2] + math.pi / 2)
    return out
