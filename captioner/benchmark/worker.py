"""A process that runs one model and times captioning on request.

The peak memory of the process is that of the model. The process is idle while another model is timed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from captioner.machine.backend import keep_freed_memory

MEGABYTE = 1e6


@dataclass(frozen=True)
class TimingJob:
    """Arguments of a worker.

    Attributes:
        model: the model folder, or those of an ensemble's members, joined.
        device: a torch device, or ``auto``.
        search: search settings that differ from the model's.
        images: image files, decoded once and used repeatedly.
        batches: batch sizes that will be requested.
        code: files and modules to import first.
    """

    model: str
    device: str
    search: dict[str, Any]
    images: list[str]
    batches: list[int]
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class About:
    """Description of a worker's model after warm-up.

    Attributes:
        encoder: number of parameters of the encoder, or of all of them.
        decoder: number of parameters of the decoders, including refiners.
        megabytes: size of the model folders in MB.
        memory: peak memory of the process in MB after warming up with each batch size, smallest size first; it
            includes Python and torch.
        before: peak memory in MB before the model was loaded.
        device_memory: peak memory of tensors on the device in MB; ``None`` on a CPU.
        device: the torch device.
        threads: number of torch threads.
        width: beam width.
        unreadable: errors of images that could not be read.
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
    """Return the peak resident memory of this process in MB; 0 where the system does not report it.

    On Linux it is the kernel's high-water mark (VmHWM) of this program, as ``ru_maxrss`` there starts at the memory of
    the parent process.
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


def serve(connection: Connection, job: TimingJob) -> None:
    """Load the model, warm up and send :class:`About`, then answer timing requests.

    A request is (batch size, first image), its answer the seconds of encoding and search. An error is sent as text and
    ends the process.
    """
    keep_freed_memory()  # as the command line does
    # Ctrl+C reaches all processes; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model = TimedModel(job)
        connection.send(model.about)
        while True:
            size, first = connection.recv()
            connection.send(model.time(size, first))
    except EOFError:  # the benchmark is over
        pass
    except Exception as error:  # of any kind: the benchmark reports it
        connection.send(f"{type(error).__name__}: {error}")
    finally:
        connection.close()


class TimedModel:
    """A model to time.

    Attributes:
        about: its description.
    """

    def __init__(self, job: TimingJob) -> None:
        import torch

        from captioner.captioner import Captioner
        from captioner.data.images import load_image
        from captioner.engines.model import torch_engine
        from captioner.errors import EvaluationError, ImageError
        from captioner.registry import import_code
        from captioner.store import locate_captioners

        for source in job.code:
            import_code(source)
        before = peak_memory()
        self.captioner = Captioner.from_pretrained(job.model, device=job.device, engine="torch", **job.search)
        self.engine = torch_engine(self.captioner.engine, "compare cost")
        transform = self.captioner.transform
        images, unreadable = [], []
        for path in job.images:
            try:
                images.append(torch.from_numpy(transform.pixels(load_image(path, min_size=transform.decode_size))))
            except ImageError as error:
                unreadable.append(str(error))
        if not images:
            raise EvaluationError(
                f"none of the images for timing can be read; the first error: {next(iter(unreadable), 'none reported')}"
            )
        self.pixels = torch.stack(images)
        device = self.engine.device
        self._wait = torch.cuda.synchronize if device.type == "cuda" else None
        memory = {}
        for size in sorted(job.batches):
            for turn in range(3):
                self.time(size, turn * size)
            memory[size] = round(peak_memory(), 1)
        encoder = sum(parameter.numel() for part in self.engine.encoders for parameter in part.parameters())
        files = [file for folder in locate_captioners(job.model) for file in folder.iterdir() if file.is_file()]
        self.about = About(
            encoder=encoder,
            decoder=self.engine.decoder_size,
            megabytes=round(sum(map(os.path.getsize, files)) / MEGABYTE, 1),
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
        """Caption ``size`` images from ``first`` on, cyclically; return the seconds of encoding and search."""
        import torch

        pixels = self.pixels[(torch.arange(size) + first) % len(self.pixels)]
        began = self._now()
        with torch.inference_mode():
            memory = self.engine.encode(pixels)
        encoded = self._now()
        self.engine.caption_memory(memory, self.captioner.search)
        return encoded - began, self._now() - encoded

    def _now(self) -> float:
        if self._wait is not None:
            self._wait()
        return time.perf_counter()
