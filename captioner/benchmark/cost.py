"""Cost of captioning with each model: time, throughput, memory, parameters.

Each model runs in its own process. The models are timed in turns, one image or batch each, and their order rotates from
round to round: any other load on the machine affects all of them. Medians and quartiles are reported. The speed
relative to the first model is the median over rounds of the ratio within a round, in which a slow minute cancels out.

Letters in shapes: B batch sizes, R rounds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from captioner.benchmark.worker import About, TimingJob, serve
from captioner.caption import Array
from captioner.errors import EvaluationError


@dataclass(frozen=True)
class Percentiles:
    """Median, 95th percentile and quartiles of repeated measurements."""

    p50: float
    p95: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array) -> Percentiles:
        """Summarise measurements (R,)."""
        return cls(*(float(value) for value in np.percentile(values, (50, 95, 25, 75))))


@dataclass(frozen=True)
class Timing:
    """Timing of a model at one batch size.

    Attributes:
        batch: images per batch.
        encode: encoding time in milliseconds per batch.
        decode: caption search time in milliseconds per batch.
        total: milliseconds per batch, without reading the images, which takes the same time for all models with the
            same input size.
        throughput: images per second.
        speed: speed relative to the first model, as a factor.
    """

    batch: int
    encode: Percentiles
    decode: Percentiles
    total: Percentiles
    throughput: Percentiles
    speed: Percentiles


@dataclass(frozen=True)
class ModelCost:
    """Cost of a model; see :class:`captioner.benchmark.worker.About`."""

    about: About
    timings: list[Timing]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ModelCost:
        """Restore a cost from its :func:`dataclasses.asdict` record after a JSON round trip."""
        about = {**record["about"], "memory": {int(size): peak for size, peak in record["about"]["memory"].items()}}
        timings: list[dict[str, Any]] = [
            {name: Percentiles(**value) if isinstance(value, dict) else value for name, value in timing.items()}
            for timing in record["timings"]
        ]
        return cls(About(**about), [Timing(**timing) for timing in timings])


def time_models(
    jobs: Mapping[str, TimingJob], *, rounds: int, progress: Callable[[str, int, int], None] | None = None
) -> tuple[dict[str, ModelCost], dict[str, EvaluationError]]:
    """Time models in turns; a model that cannot be loaded or fails is left out.

    Args:
        jobs: jobs by model name, all with the same batch sizes.
        rounds: how often each model is timed at each batch size, after its warm-up.
        progress: called with (title of the phase, done, total).

    Returns:
        The costs by name, with speeds relative to the first model that could be timed, and the errors of the others.
    """
    batches = sorted(next(iter(jobs.values())).batches)
    seconds = {name: np.zeros((len(batches), rounds, 2)) for name in jobs}
    errors: dict[str, EvaluationError] = {}
    with ExitStack() as stack:
        # One after another, to load and warm up undisturbed.
        workers: dict[str, Connection] = {}
        abouts: dict[str, About] = {}
        for number, (name, job) in enumerate(jobs.items()):
            if progress:
                progress("Loading and warming up", number, len(jobs))
            workers[name] = stack.enter_context(_process(job))
            try:
                abouts[name] = _receive(workers[name], name)
            except EvaluationError as error:
                errors[name] = error
        for turn in range(rounds):
            for number, size in enumerate(batches):
                for name in turns([name for name in jobs if name not in errors], turn):
                    try:
                        seconds[name][number, turn] = _ask(workers[name], (size, turn * size), name)
                    except EvaluationError as error:
                        errors[name] = error
            if progress:
                progress("Timing", turn + 1, rounds)
    timed = [name for name in jobs if name not in errors]
    return {
        name: ModelCost(abouts[name], summarise(batches, seconds[name], seconds[timed[0]])) for name in timed
    }, errors


def turns(names: Sequence[str], turn: int) -> list[str]:
    """Return the order of the models in a round; over the rounds, each is equally often first, second and so on."""
    first = turn % max(1, len(names))
    return [*names[first:], *names[:first]]


def summarise(batches: Sequence[int], seconds: Array, first: Array) -> list[Timing]:
    """Summarise the measured times of a model.

    Args:
        batches: B batch sizes.
        seconds: (B, R, 2) seconds of encoding and of searching.
        first: (B, R, 2) seconds of the first model, the baseline.
    """
    timings = []
    for size, times, baseline in zip(batches, seconds, first, strict=True):
        encode, decode, total = 1000 * times[:, 0], 1000 * times[:, 1], 1000 * times.sum(1)
        throughput, speed = 1000 * size / total, baseline.sum(1) / times.sum(1)
        timings.append(Timing(size, *(Percentiles.of(values) for values in (encode, decode, total, throughput, speed))))
    return timings


@contextmanager
def _process(job: TimingJob) -> Iterator[Connection]:
    """Run a worker process and end it on exit."""
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=serve, args=(child, job), daemon=True)
    process.start()
    child.close()
    try:
        yield parent
    except BaseException:
        process.terminate()
        raise
    finally:
        parent.close()
        process.join(10)
        if process.is_alive():
            process.terminate()
            process.join()


def _ask(connection: Connection, question: tuple[int, int], name: str) -> Any:
    with suppress(OSError):  # the process has died; _receive reports it
        connection.send(question)
    return _receive(connection, name)


def _receive(connection: Connection, name: str) -> Any:
    try:
        answer = connection.recv()
    except (EOFError, OSError):
        answer = "its process died, possibly because it ran out of memory"
    if isinstance(answer, str):
        raise EvaluationError(f"{name}: could not be timed: {answer}")
    return answer
