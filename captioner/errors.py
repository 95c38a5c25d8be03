"""The errors that users see, all of them subclasses of :class:`CaptionerError`.

A message names the object, the fault and what to do. The command line prints it without a traceback and exits with a
non-zero status.
"""

from __future__ import annotations

from pathlib import Path


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error message, or the error's type if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def count(number: int, unit: str) -> str:
    """Return a number with its unit, in the plural unless it is 1: ``1,024 images``."""
    return f"{number:,} {unit}{'s' * (number != 1)}"


class CaptionerError(Exception):
    """The base class of all errors with a message for users."""


class ImageError(CaptionerError):
    """An image that cannot be read.

    Attributes:
        source: the file, or a description of the object.
        reason: the fault and what to do, without the file's name.
    """

    def __init__(self, source: str | Path, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = str(source)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        # Exceptions are pickled with ``args``, which do not match the two-argument constructor.
        return (type(self), (self.source, self.reason))


class AnnotationError(CaptionerError):
    """A caption file that cannot be read, or a malformed record in strict mode."""


class FeatureStoreError(CaptionerError):
    """A feature store that is damaged, incomplete, or made by another encoder."""


class CheckpointError(CaptionerError):
    """A model folder that is missing, damaged, foreign, or newer than this program."""


class ConfigError(CaptionerError):
    """A setting that does not exist or has an invalid value."""


class EncoderError(CaptionerError):
    """A backbone that is unknown or unsuitable, or whose weights cannot be found."""


class EvaluationError(CaptionerError):
    """Captions that cannot be scored, or a scorer that failed."""


class DownloadError(CaptionerError):
    """An archive that cannot be downloaded, checked or unpacked, or a disk that is too small for it."""


class FileError(CaptionerError):
    """A file or folder that cannot be written."""


class BulkError(CaptionerError):
    """A collection that cannot be read or cut, or an output that belongs to another one."""
