"""One contestant in a process of its own, which does as it is told: encode and write captions for so many photos, and say how long that took.

It has the whole memory of its process to itself, so that the highest is the model's, and sleeps while another is timed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from captioner.backend import keep_freed_memory

MEGABYTE = 1e6


@dataclass(frozen=True)
class Job:
    """What a worker is started with.

    Attributes:
        model: its folder.
        device: a torch device, or ``auto``.
        search: settings of the search that differ from the model's.
        photos: files, decoded once and used again and again.
        batches: sizes of batches that will be asked for.
    """

    model: str
    device: str
    search: dict[str, Any]
    photos: list[str]
    batches: list[int]


@dataclass(frozen=True)
class About:
    """What a worker says of itself once it is warm.

    Attributes:
        encoder: number of parameters.
        decoder: number of parameters, a refiner's included.
        megabytes: size of the model's folder.
        memory: by size of batch the highest memory of the process in MB after warming up with it, the smallest first;
            Python and torch are in it.
        before: the same before the model was loaded.
        device_memory: highest memory of tensors on the device in MB; ``None`` on a CPU.
        device: what it runs on.
        threads: that torch computes with.
        width: of the beam.
        unreadable: photos that could not be used.
    """

    encoder: int
    decoder: int
    megabytes: float
    memory: dict[int, float]
    before: float
    device_memory: float | None
    device: str
    threads: int
    width: int
    unreadable: list[str]


def peak_memory() -> float:
    """Return the highest memory that this process has had in RAM, in MB; 0 where the system does not tell.

    On Linux it is the kernel's high-water mark of this program: ``ru_maxrss`` there begins at what the process that
    started it had.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")) / MEGABYTE
    except (OSError, StopIteration, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MEGABYTE


def serve(connection: Connection, job: Job) -> None:
    """Load the model, warm up, send :class:`About`; then answer each (size of batch, first photo) with the seconds of encoding and of searching.

    Any error is sent as its text, and ends the process.
    """
    keep_freed_memory()  # as the command line does
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a key pressed to interrupt reaches all processes; the first one ends the others
    try:
        contestant = Contestant(job)
        connection.send(contestant.about)
        while True:
            size, first = connection.recv()
            connection.send(contestant.time(size, first))
    except EOFError:  # the benchmark is over
        pass
    except Exception as error:  # whatever it is, the benchmark has to say it, and of which model
        connection.send(f"{type(error).__name__}: {error}")
    finally:
        connection.close()


class Contestant:
    """A model that is timed.

    Attributes:
        about: what there is to say of it.
    """

    def __init__(self, job: Job) -> None:
        import torch

        from captioner.data.images import load_image
        from captioner.errors import EvaluationError, ImageError
        from captioner.pipeline import Captioner

        before = peak_memory()
        self.captioner = Captioner.from_pretrained(job.model, device=job.device, **job.search)
        transform = self.captioner.model.encoder.transform
        pictures, unreadable = [], []
        for path in job.photos:
            try:
                pictures.append(torch.from_numpy(transform.pixels(load_image(path, min_size=transform.decode_size))))
            except ImageError as error:
                unreadable.append(str(error))
        if not pictures:
            raise EvaluationError(
                f"not one photo can be read to time a model with; the first error: {next(iter(unreadable), 'none was given')}"
            )
        self.pixels = torch.stack(pictures)
        device = self.captioner.device
        self._wait = torch.cuda.synchronize if device.type == "cuda" else None
        memory = {}
        for size in sorted(job.batches):
            for turn in range(3):
                self.time(size, turn * size)
            memory[size] = round(peak_memory(), 1)
        model = self.captioner.model
        self.about = About(
            encoder=sum(parameter.numel() for parameter in model.encoder.parameters()),
            decoder=sum(parameter.numel() for parameter in model.decoder.parameters()),
            megabytes=round(
                sum(os.path.getsize(file) for file in Path(job.model).iterdir() if file.is_file()) / MEGABYTE, 1
            ),
            memory=memory,
            before=round(before, 1),
            device_memory=round(torch.cuda.max_memory_allocated(device) / MEGABYTE, 1)
            if device.type == "cuda"
            else None,
            device=str(device),
            threads=torch.get_num_threads(),
            width=self.captioner.search.width,
            unreadable=unreadable,
        )

    def time(self, size: int, first: int) -> tuple[float, float]:
        """Caption ``size`` photos from the ``first`` on, beginning anew after the last; return the seconds of encoding and of searching."""
        import torch

        pixels = self.pixels[(torch.arange(size) + first) % len(self.pixels)]
        began = self._now()
        with torch.inference_mode():
            memory = self.captioner._encoder(pixels)
        encoded = self._now()
        self.captioner.caption_memory(memory)
        return encoded - began, self._now() - encoded

    def _now(self) -> float:
        if self._wait is not None:
            self._wait()
        return time.perf_counter()
