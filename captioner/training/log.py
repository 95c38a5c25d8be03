"""The output of a training run while it runs: ``log.jsonl``, TensorBoard curves, and the progress bar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from captioner import files

LOG = "log.jsonl"


class Log:
    """``log.jsonl`` and TensorBoard curves. On resuming, entries after the saved state are dropped."""

    def __init__(self, output: Path, resumed_at: int | None) -> None:
        self.path, self.folder = output / LOG, output / "curves"
        path = self.path
        if resumed_at is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            files.write_text(
                path,
                "".join(
                    line
                    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
                    if _is_up_to(line, resumed_at)
                ),
            )
        with files.writing(path):
            self.file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close())
        with files.writing(self.folder):
            self.curves = SummaryWriter(self.folder, purge_step=resumed_at)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Log a step's loss and its parts."""
        self._write({"step": step, **{name: round(value, 6) for name, value in values.items()}})
        if step % 10 == 0:
            self._draw({f"train/{name}": value for name, value in values.items()}, step)

    def evaluation(self, epoch: int, step: int, values: dict[str, float]) -> None:
        """Log the dev scores after an epoch."""
        self._write({"step": step, "epoch": epoch, "dev": values})
        self._draw({f"dev/{name}": value for name, value in values.items()}, step)

    def _write(self, record: dict[str, Any]) -> None:
        with files.writing(self.path):
            self.file.write(json.dumps(record) + "\n")

    def _draw(self, values: dict[str, float], step: int) -> None:
        with files.writing(self.folder):
            for name, value in values.items():
                self.curves.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the file and the curves."""
        with files.writing(self.path):
            self.file.close()
        with files.writing(self.folder):
            self.curves.close()


def _is_up_to(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False


def bar(console: Console) -> Progress:
    """Make a progress bar that ends with a field for text, ``info``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, TextColumn("{task.fields[info]}"), console=console, refresh_per_second=2)
