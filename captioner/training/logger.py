"""The interface of loggers, which record the curves of a training run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from captioner.registry import Registry

if TYPE_CHECKING:
    from captioner.training.recipe import RunConfig


class Logger(ABC):
    """Records the curves of a run; only the first of several processes has one.

    Args:
        config: settings of the run; ``config.output`` is its folder.
        resumed_at: the step after which a resumed run continues, so values that an earlier start logged for later
            steps are invalid; ``None`` for a new run.
    """

    #: modules that its constructor imports; they are checked before any work is done
    needs: tuple[str, ...] = ()

    @abstractmethod
    def __init__(self, config: RunConfig, resumed_at: int | None) -> None: ...

    @abstractmethod
    def add(self, values: dict[str, float], step: int) -> None:
        """Add a value to each named curve: ``train/loss`` and others every ten steps, ``dev/CIDEr`` after an epoch."""

    @abstractmethod
    def close(self) -> None:
        """Close files and connections; also called after an error or an interruption."""


LOGGERS: Registry[type[Logger]] = Registry("logger", group="captioner.loggers")
