"""The log of a training run: ``log.jsonl`` and TensorBoard curves."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from captioner import files

LOG = "log.jsonl"


class Log:
    """``log.jsonl`` and TensorBoard curves. On resuming, entries after the saved state are removed.

    Raises:
        FileError: the disk is full or fails; all methods raise it.
    """

    def __init__(self, output: Path, resumed_at: int | None) -> None:
        self.path = output / LOG
        if resumed_at is None:
            self.path.unlink(missing_ok=True)
        elif self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            files.write_text(self.path, "".join(line for line in lines if _is_up_to(line, resumed_at)))
        self.curves = Curves(output / "curves", resumed_at)
        with files.writing(self.path):
            self.file = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close())

    def step(self, step: int, values: dict[str, float]) -> None:
        """Log the loss and metrics of a step."""
        self._write({"step": step, **{name: round(value, 6) for name, value in values.items()}})
        if step % 10 == 0:
            self.curves.add({f"train/{name}": value for name, value in values.items()}, step)

    def evaluation(self, epoch: int, step: int, values: dict[str, float]) -> None:
        """Log the dev scores after an epoch."""
        self._write({"step": step, "epoch": epoch, "dev": values})
        self.curves.add({f"dev/{name}": value for name, value in values.items()}, step)

    def _write(self, record: dict[str, Any]) -> None:
        with files.writing(self.path):
            self.file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Close the file and the curves."""
        with files.writing(self.path):
            self.file.close()
        self.curves.close()


class Curves:
    """Scalars for TensorBoard, in an event file for each start of the run.

    torch's ``SummaryWriter`` writes in a thread, which prints a traceback when the disk is full.

    Args:
        folder: folder of the event files.
        resumed_at: the step after which TensorBoard drops earlier scalars; ``None`` for a new run.
    """

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        with files.writing(self.path):
            folder.mkdir(exist_ok=True)
            self.file = open(self.path, "wb")  # noqa: SIM115 (closed by close())
        self.writer = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        if resumed_at is not None:
            self._write(step=resumed_at + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, values: dict[str, float], step: int) -> None:
        """Add a value to each named curve."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=Summary(value=scalars))

    def _write(self, **fields: Any) -> None:
        with files.writing(self.path):
            self.writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
            self.file.flush()

    def close(self) -> None:
        """Close the file."""
        with files.writing(self.path):
            self.file.close()


def _is_up_to(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
