"""The logger of TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from captioner import files
from captioner.training.logger import LOGGERS, Logger

if TYPE_CHECKING:
    from captioner.training.recipe import RunConfig


@LOGGERS.register("tensorboard")
class TensorBoard(Logger):
    """Writes an event file into the folder ``curves`` of a run, one for each of its starts.

    torch's ``SummaryWriter`` is not used, as its thread prints a traceback when the disk is full.

    Raises:
        FileError: the disk is full or fails; all methods raise it.
    """

    needs = ("tensorboard",)

    def __init__(self, config: RunConfig, resumed_at: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = config.output / "curves"
        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        with files.writing(self.path):
            folder.mkdir(exist_ok=True)
            self.file = open(self.path, "wb")  # noqa: SIM115 (closed by close())
        self.event, self.summary, self.writer = Event, Summary, RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        if resumed_at is not None:  # TensorBoard discards the scalars of earlier starts from this step on
            self._write(step=resumed_at + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, values: dict[str, float], step: int) -> None:
        scalars = [self.summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self.summary(value=scalars))

    def _write(self, **fields: Any) -> None:
        with files.writing(self.path):
            self.writer.write(self.event(wall_time=time.time(), **fields).SerializeToString())
            self.file.flush()

    def close(self) -> None:
        with files.writing(self.path):
            self.file.close()
