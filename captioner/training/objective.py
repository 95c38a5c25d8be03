"""What every training objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from captioner.data.batches import Captions
from captioner.data.dataset import Photo
from captioner.decoders.base import Decoder
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.settings import Settings
from captioner.text.vocabulary import Vocabulary


class Objective(nn.Module, ABC):
    """Says what a decoder's captions of some memories cost. Its buffers are part of a run's state.

    Attributes:
        done: share of the run that is over, from 0 to 1; the loop sets it before every step.
    """

    Config: ClassVar[type[Settings]]
    done: float = 0.0

    @classmethod
    @abstractmethod
    def build(cls, config: Settings, photos: Sequence[Photo], vocabulary: Vocabulary) -> Objective:
        """Build it for the photos to learn from."""

    @abstractmethod
    def forward(self, decoder: Decoder, memory: Memory, captions: Captions) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and what to write down of it, each a scalar; the first is shown.

        Args:
            decoder: in training mode, and left so.
            memory: of B images.
            captions: what people said of them.
        """


OBJECTIVES: Registry[type[Objective]] = Registry("objective")
