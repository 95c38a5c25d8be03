"""The interface of all encoders of pictures.

Tensor letters: B images, S side of the transformed picture in pixels, N places, D features.
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from captioner.backend import fast_dtype
from captioner.data.transform import Transform
from captioner.errors import EncoderError
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.settings import Settings

_MAY_DOWNLOAD: ContextVar[bool] = ContextVar("may_download", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Build encoders only of weights that are on this machine.

    A recipe that names a backbone asks for its weights; loading a model, which may be a stranger's, does not.
    """
    token = _MAY_DOWNLOAD.set(False)
    try:
        yield
    finally:
        _MAY_DOWNLOAD.reset(token)


def may_download() -> bool:
    """Return whether weights that are not on this machine may be downloaded; see :func:`without_downloads`."""
    return _MAY_DOWNLOAD.get()


class EncoderConfig(Settings):
    """Settings that every encoder shares."""

    #: settings that came later and, as long as they are not in use, do not count for :meth:`identity`
    later: ClassVar[frozenset[str]] = frozenset()

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide what the encoder gives, as plain values.

        Stores and models that were made before there was some setting thus remain those of the same encoder.
        """
        plain = self.model_dump(mode="json")
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, EncoderConfig):
                plain[name] = value.identity()
            elif name in self.later and not value:
                del plain[name]
        return plain


class Encoder(nn.Module, ABC):
    """Turns pictures into a memory.

    An encoder is a chain of stages. Its last ones can be trained cheaply while the others stay frozen: the output of
    the front is stored once for each picture, and :meth:`finish` does the rest. An encoder that cannot be cut is one
    stage.

    Attributes:
        transform: turns a picture into pixels; part of the encoder, so that training and use cannot differ.
        features: D.
        grid: (rows, columns) if the places are a grid, else ``None``.
        classes: names of what a memory's ``labels`` number; empty for an encoder without a detector.
        stages: the number of stages.
    """

    Config: ClassVar[type[EncoderConfig]]
    config: EncoderConfig
    transform: Transform
    features: int
    grid: tuple[int, int] | None
    classes: tuple[str, ...] = ()
    stages: int = 1
    _fingerprint: str | None = None

    @abstractmethod
    def forward(self, pixels: Tensor) -> Memory:
        """Encode pixels (B, 3, S, S) uint8, as :meth:`Transform.pixels` gives them."""

    def front(self, cut: int) -> Encoder:
        """Return the encoder without its last ``cut`` stages, on the same weights.

        Raises:
            EncoderError: there are not that many stages to cut off.
        """
        if cut:
            raise EncoderError(f"encoder {type(self).__name__}: cannot be cut")
        return self

    def tail(self, cut: int) -> nn.Module:
        """Return the last ``cut`` stages, on the same weights; the encoder itself if that is all of them."""
        return self if cut == self.stages else nn.Sequential()

    def finish(self, memory: Memory, cut: int) -> Memory:
        """Turn the output of :meth:`front` into the memory that the whole encoder would give."""
        if cut:
            raise EncoderError(f"encoder {type(self).__name__}: cannot be cut")
        return memory

    @property
    def parts(self) -> Mapping[str, Encoder]:
        """The encoders that this one joins, by name, in their order; none if it is not such a one."""
        return {}

    def adopt(self, other: Encoder, stages: int) -> None:
        """Copy the weights of the last ``stages`` stages of another encoder of the same settings.

        Raises:
            EncoderError: it has other settings.
        """
        if other.config != self.config:
            raise EncoderError(
                f"the encoder has the settings {self.config.model_dump(mode='json')}, and the one to take weights from "
                f"{other.config.model_dump(mode='json')}"
            )
        self.tail(stages).load_state_dict(other.tail(stages).state_dict())

    def fast(self, device: torch.device) -> Encoder:
        """Return the encoder on ``device`` at the precision that is fast there.

        This is the encoder itself, or a rounded copy with the fingerprint of the original.
        """
        dtype = fast_dtype(device)
        if dtype == torch.float32:
            return self.to(device)
        rounded = copy.deepcopy(self).to(device, dtype)
        rounded._fingerprint = self.fingerprint()
        return rounded

    @property
    def device(self) -> torch.device:
        """The device of its weights; the CPU if it has none."""
        return self._weight().device

    def _weight(self) -> Tensor:
        """Return one of the weights, which has the device and the precision of all; an empty one if there is none."""
        return next(chain(self.parameters(), self.buffers(), [torch.empty(0)]))

    def fingerprint(self) -> str:
        """Return a hash of settings, transform and weights: encoders with the same hash give the same memories."""
        if self._fingerprint is not None:
            return self._fingerprint
        digest = hashlib.sha256()
        settings = {"config": self.config.identity(), "transform": self.transform.model_dump(mode="json")}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if not name.endswith("num_batches_tracked"):
                digest.update(name.encode())
                digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()


ENCODERS: Registry[type[Encoder]] = Registry("encoder", group="captioner.encoders")
