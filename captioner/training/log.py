"""The log of a training run: ``log.jsonl`` in its folder, and its loggers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from captioner import files
from captioner.errors import CaptionerError, ConfigError, first_line
from captioner.training.logger import LOGGERS, Logger
from captioner.training.recipe import RunConfig

LOG = "log.jsonl"


class Log:
    """``log.jsonl``, from which a resumed run removes entries after the saved state, and the run's loggers.

    A logger that fails while the run trains is left out from then on, with a warning.

    Args:
        config: settings of the run.
        resumed_at: the step of the saved state; ``None`` for a new run.
        warn: called with a warning.

    Raises:
        ConfigError: a logger cannot be started.
        FileError: the disk is full or fails; all methods raise it.
    """

    def __init__(self, config: RunConfig, resumed_at: int | None, warn: Callable[[str], object]) -> None:
        self.path, self.warn = config.output / LOG, warn
        if resumed_at is None:
            self.path.unlink(missing_ok=True)
        elif self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            files.write_text(self.path, "".join(line for line in lines if _is_up_to(line, resumed_at)))
        self.loggers: dict[str, Logger] = {}
        for name in config.logger:
            try:
                self.loggers[name] = LOGGERS[name](config, resumed_at)
            except CaptionerError:
                raise
            except Exception as error:  # of any type, by a library
                raise ConfigError(f"logger {name!r}: {type(error).__name__}: {first_line(error)}") from error
        with files.writing(self.path):
            self.file = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close())

    def step(self, step: int, values: dict[str, float]) -> None:
        """Log the loss and metrics of a step; loggers get those of every tenth."""
        self._write({"step": step, **{name: round(value, 6) for name, value in values.items()}})
        if step % 10 == 0:
            self._add("train", values, step)

    def evaluation(self, epoch: int, step: int, values: dict[str, float]) -> None:
        """Log the dev scores after an epoch."""
        self._write({"step": step, "epoch": epoch, "dev": values})
        self._add("dev", values, step)

    def _write(self, record: dict[str, Any]) -> None:
        with files.writing(self.path):
            self.file.write(json.dumps(record) + "\n")

    def _add(self, group: str, values: dict[str, float], step: int) -> None:
        for name, logger in list(self.loggers.items()):
            try:
                logger.add({f"{group}/{key}": value for key, value in values.items()}, step)
            except CaptionerError:
                raise
            except Exception as error:  # a network error must not end the run
                del self.loggers[name]
                self.warn(
                    f"logger {name!r}: {type(error).__name__}: {first_line(error)}; the run continues without it, and "
                    f"{self.path} has all values"
                )
                with suppress(Exception):
                    logger.close()

    def close(self) -> None:
        """Close the file and the loggers."""
        with files.writing(self.path):
            self.file.close()
        for name, logger in self.loggers.items():
            try:
                logger.close()
            except CaptionerError:
                raise
            except Exception as error:
                self.warn(f"logger {name!r}: {type(error).__name__}: {first_line(error)}")


def _is_up_to(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
