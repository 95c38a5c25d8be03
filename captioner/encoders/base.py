"""What every encoder of pictures is.

Tensor letters: B images, S side of the transformed picture in pixels, N places, D features.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from captioner.config import Settings
from captioner.data.transform import Transform
from captioner.memory import Memory
from captioner.registry import Registry


class EncoderConfig(Settings):
    """Settings that every encoder shares."""


class Encoder(nn.Module, ABC):
    """Turns pictures into a memory.

    Attributes:
        transform: how a picture becomes pixels; part of the encoder, so that training and use cannot differ.
        features: D.
        grid: (rows, columns) if the places are a grid, else ``None``.
    """

    Config: ClassVar[type[EncoderConfig]]
    config: EncoderConfig
    transform: Transform
    features: int
    grid: tuple[int, int] | None
    _fingerprint: str | None = None

    @abstractmethod
    def forward(self, pixels: Tensor) -> Memory:
        """Encode pixels (B, 3, S, S) uint8, as :meth:`Transform.pixels` gives them."""

    def fingerprint(self) -> str:
        """Return a hash of settings, transform and weights: two encoders with the same one give the same memories.

        It is taken once, of the weights at their first precision; call :meth:`forget_fingerprint` after changing them.
        """
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def forget_fingerprint(self) -> None:
        """Have the next :meth:`fingerprint` look at the weights again."""
        self._fingerprint = None

    def _hash(self) -> str:
        digest = hashlib.sha256()
        settings = {"config": self.config.model_dump(mode="json"), "transform": self.transform.model_dump(mode="json")}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if not name.endswith("num_batches_tracked"):
                digest.update(name.encode())
                digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()


ENCODERS: Registry[type[Encoder]] = Registry("encoder")
