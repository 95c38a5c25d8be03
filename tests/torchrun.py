"""Running the program in several processes, and comparing what they made with what one process makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from captioner.training.state import STATE


def start(count: int, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start ``captioner`` in some processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.Popen(
        [*torchrun, "-m", "captioner", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end of processes, and return what they wrote."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out, err


def train(recipe: Path, changes: list[str], output: Path, *more: str) -> list[str | Path]:
    return ["train", recipe, *(part for change in changes for part in ("--set", change)), "--output", output, *more]


def losses(output: Path) -> list[float]:
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == list(
        range(1, 1 + sum("loss" in record for record in records))
    )
    return [record["loss"] for record in records if "loss" in record]


def assert_near(one: Path, two: Path) -> None:
    """Compare the losses and final weights of two runs: these by their norms, as Adam turns a gradient that is zero but
    for rounding into a step of either sign.
    """
    torch.testing.assert_close(torch.tensor(losses(one)), torch.tensor(losses(two)), rtol=1e-4, atol=1e-5)
    states = [load_file(output / STATE) for output in (one, two)]
    for name, tensor in states[0].items():
        if not name.startswith(("rng.", "optimiser.")) and tensor.is_floating_point():
            difference = (states[1][name] - tensor).norm()
            assert difference < 1e-3 * tensor.norm() + 1e-5, f"{name}: {difference} of {tensor.norm()}"
