"""The interface of training objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from captioner.data.batches import Captions
from captioner.data.dataset import CaptionedImage
from captioner.decoders.decoder import Decoder
from captioner.encoders import Refiner
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.settings import Settings
from captioner.text.vocabulary import Vocabulary


class Objective(nn.Module, ABC):
    """Computes the loss of a decoder on memories and captions.

    Attributes:
        done: share of the run that is finished, from 0 to 1; the loop sets it before every step.
    """

    Config: ClassVar[type[Settings]]
    done: float = 0.0

    @classmethod
    @abstractmethod
    def build(cls, config: Settings, images: Sequence[CaptionedImage], vocabulary: Vocabulary) -> Objective:
        """Build the objective for the training images."""

    @abstractmethod
    def forward(
        self, refiner: Refiner, decoder: Decoder, memory: Memory, captions: Captions
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the metrics to log, each a scalar; the first metric is shown next to the progress bar.

        Args:
            refiner: in training mode, also when this returns.
            decoder: in training mode, also when this returns.
            memory: of B images, before the refiner.
            captions: the reference captions of the images; means over them are weighted by their ``weights``.
        """


OBJECTIVES: Registry[type[Objective]] = Registry("objective")
