"""The interface of image encoders.

Tensor letters: B images, S side of the transformed image in pixels, N regions or cells, D features.
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

from captioner.data.transform import Transform
from captioner.errors import EncoderError
from captioner.machine.backend import fast_dtype
from captioner.memory import Memory
from captioner.registry import Registry
from captioner.settings import Settings

_MAY_DOWNLOAD: ContextVar[bool] = ContextVar("may_download", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Build encoders only from weights on this machine: a recipe may download weights, loading a model may not."""
    token = _MAY_DOWNLOAD.set(False)
    try:
        yield
    finally:
        _MAY_DOWNLOAD.reset(token)


def may_download() -> bool:
    """Return whether weights may be downloaded; see :func:`without_downloads`."""
    return _MAY_DOWNLOAD.get()


class EncoderConfig(Settings):
    """Settings that every encoder shares."""

    #: settings added in later versions, which :meth:`identity` leaves out while they are unset
    added_later: ClassVar[frozenset[str]] = frozenset()

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the output, as plain values.

        Unset settings of later versions are left out, so older stores and models keep the identity of their encoder.
        """
        plain = self.model_dump(mode="json")
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, EncoderConfig):
                plain[name] = value.identity()
            elif name in self.added_later and not value:
                del plain[name]
        return plain


class Encoder(nn.Module, ABC):
    """Turns images into a memory.

    An encoder is a chain of stages; one that cannot be cut is a single stage. The last stages can be tuned while the
    others stay frozen: the output of :meth:`front` is stored once per image, and :meth:`finish` runs the rest.

    Attributes:
        transform: turns an image into pixels, the same in training and inference.
        features: D.
        grid: (rows, columns) of the cells, or ``None`` for regions.
        classes: the class names of a memory's ``labels``; empty without a detector.
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
        """Encode pixels (B, 3, S, S) uint8 from :meth:`Transform.pixels`."""

    def front(self, cut: int) -> Encoder:
        """Return the encoder without its last ``cut`` stages, on the same weights.

        Raises:
            EncoderError: the encoder has too few stages.
        """
        self._check_uncut(cut)
        return self

    def tail(self, cut: int) -> nn.Module:
        """Return the last ``cut`` stages, on the same weights; the encoder itself if these are all stages."""
        return self if cut == self.stages else nn.Sequential()

    def finish(self, memory: Memory, cut: int) -> Memory:
        """Turn the output of :meth:`front` into the memory of the whole encoder."""
        self._check_uncut(cut)
        return memory

    def _check_uncut(self, cut: int) -> None:
        if cut:
            raise EncoderError(f"encoder {type(self).__name__}: cannot be cut")

    @property
    def parts(self) -> Mapping[str, Encoder]:
        """The encoders that this one joins, by name, in order; empty for a single encoder."""
        return {}

    def copy_weights(self, other: Encoder, stages: int) -> None:
        """Copy the weights of the last ``stages`` stages of another encoder.

        Raises:
            EncoderError: its settings differ.
        """
        if other.config != self.config:
            raise EncoderError(
                f"the encoder has the settings {self.config.model_dump(mode='json')}, and the one to take weights from "
                f"{other.config.model_dump(mode='json')}"
            )
        self.tail(stages).load_state_dict(other.tail(stages).state_dict())

    def fast(self, device: torch.device) -> Encoder:
        """Return the encoder on ``device`` in the precision that is fast there.

        This is the encoder itself, or a faster copy with the fingerprint of the original.
        """
        return self.to(device)

    def _rounded(self, device: torch.device) -> Encoder:
        """Return the encoder, or a copy with weights in the precision that is fast on ``device``."""
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
        """Return one of the weights, for the device and the precision; an empty tensor if there is none."""
        return next(chain(self.parameters(), self.buffers(), [torch.empty(0)]))

    def fingerprint(self) -> str:
        """Return a hash of settings, transform and weights: encoders with equal hashes give equal memories."""
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
