"""What captioning costs with each of some models: time, throughput, memory, parameters.

Each model lives in a process of its own. They are timed in turns, one photo or batch each, the order rotating from
round to round: whatever else slows the machine down meets all of them. Medians and quartiles are reported, and the
speed against the first model as the median over rounds of the ratio within a round, in which a slow minute cancels out.

Letters in shapes: R rounds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from captioner.benchmark.worker import About, Job, serve
from captioner.errors import EvaluationError
from captioner.evaluation.sums import Array


@dataclass(frozen=True)
class Spread:
    """Something measured many times: median, 95th percentile, and quartiles."""

    p50: float
    p95: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array) -> Spread:
        """Summarise measurements (R,)."""
        return cls(*(float(value) for value in np.percentile(values, (50, 95, 25, 75))))


@dataclass(frozen=True)
class Timing:
    """A model at one size of batch.

    Attributes:
        batch: photos at once.
        encode: milliseconds a batch.
        decode: milliseconds a batch, of the search for captions.
        total: milliseconds a batch; reading the photos is not in it, which is the same for all models of one input
            size.
        throughput: photos a second.
        speed: how many times as fast as the first model.
    """

    batch: int
    encode: Spread
    decode: Spread
    total: Spread
    throughput: Spread
    speed: Spread


@dataclass(frozen=True)
class Cost:
    """What a model costs; see :class:`captioner.benchmark.worker.About`."""

    about: About
    timings: list[Timing]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Cost:
        """Make it again of what :func:`dataclasses.asdict` made of it and JSON kept."""
        about = {**record["about"], "memory": {int(size): peak for size, peak in record["about"]["memory"].items()}}
        timings: list[dict[str, Any]] = [
            {name: Spread(**value) if isinstance(value, dict) else value for name, value in timing.items()}
            for timing in record["timings"]
        ]
        return cls(About(**about), [Timing(**timing) for timing in timings])


def time_models(
    jobs: Mapping[str, Job], *, rounds: int, progress: Callable[[str, int, int], None] | None = None
) -> tuple[dict[str, Cost], dict[str, EvaluationError]]:
    """Time models in turns. One that cannot be loaded, or fails, is left out.

    Args:
        jobs: by name; all with the same sizes of batches.
        rounds: how often each model is timed at each size of batch, after its warm-up.
        progress: called with (title of the phase, done, all).

    Returns:
        The costs by name, with speeds against the first that could be timed, and the errors of the others.
    """
    batches = sorted(next(iter(jobs.values())).batches)
    seconds = {name: np.zeros((len(batches), rounds, 2)) for name in jobs}
    errors: dict[str, EvaluationError] = {}
    with ExitStack() as stack:
        # One after the other, so that they load and warm up undisturbed.
        workers: dict[str, Connection] = {}
        abouts: dict[str, About] = {}
        for number, (name, job) in enumerate(jobs.items()):
            if progress:
                progress("Loading and warming up", number, len(jobs))
            workers[name] = stack.enter_context(_process(job))
            try:
                abouts[name] = _answer(workers[name], name)
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
    return {name: Cost(abouts[name], summarise(batches, seconds[name], seconds[timed[0]])) for name in timed}, errors


def turns(names: Sequence[str], turn: int) -> list[str]:
    """Return in which order the models have their turn: each is first, second and so on equally often."""
    first = turn % max(1, len(names))
    return [*names[first:], *names[:first]]


def summarise(batches: Sequence[int], seconds: Array, first: Array) -> list[Timing]:
    """Turn the seconds of encoding and of searching, (sizes of batches, R, 2), of a model and of the first one into timings."""
    timings = []
    for size, mine, baseline in zip(batches, seconds, first, strict=True):
        encode, decode, total = 1000 * mine[:, 0], 1000 * mine[:, 1], 1000 * mine.sum(1)
        throughput, speed = 1000 * size / total, baseline.sum(1) / mine.sum(1)
        timings.append(Timing(size, *(Spread.of(values) for values in (encode, decode, total, throughput, speed))))
    return timings


@contextmanager
def _process(job: Job) -> Iterator[Connection]:
    """Run a worker, and end it."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=serve, args=(its, job), daemon=True)
    process.start()
    its.close()
    try:
        yield mine
    except BaseException:
        process.terminate()
        raise
    finally:
        mine.close()
        process.join(10)
        if process.is_alive():
            process.terminate()
            process.join()


def _ask(connection: Connection, question: tuple[int, int], name: str) -> Any:
    with suppress(OSError):  # of a process that has died, as is told when it does not answer
        connection.send(question)
    return _answer(connection, name)


def _answer(connection: Connection, name: str) -> Any:
    try:
        answer = connection.recv()
    except (EOFError, OSError):
        answer = "its process died, perhaps for want of memory"
    if isinstance(answer, str):
        raise EvaluationError(f"{name}: could not be timed: {answer}")
    return answer
