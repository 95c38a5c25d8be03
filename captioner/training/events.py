"""Callbacks for the progress, notes and warnings of a training run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)


def _ignore(*_: object) -> None:
    """Ignore the call."""


@dataclass(frozen=True)
class Events:
    """Callbacks that are called while a model is trained. By default, notes and warnings are logged.

    Attributes:
        progress: called with (title of the phase, done, total, details such as the loss).
        note: called with information, for example the scores of an epoch.
        warn: called with a problem that limits the result, for example an image that is left out.
    """

    progress: Callable[[str, int, int, str], object] = _ignore
    note: Callable[[str], object] = log.info
    warn: Callable[[str], object] = log.warning


SILENT = Events(note=_ignore, warn=_ignore)
