"""Captioning the parts of a collection, here or on a Ray cluster, with the same code."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from captioner.captioner import Captioner
from captioner.collection.captioned import captioned
from captioner.collection.items import Item, images
from captioner.collection.limits import BadPart
from captioner.collection.plan import Plan
from captioner.data import rows
from captioner.errors import BulkError, first_line
from captioner.machine.packages import require
from captioner.registry import import_code, imported_code

if TYPE_CHECKING:
    from captioner.translation.translator import Translator


@dataclass
class BulkReport:
    """Counts and errors of the parts captioned in this run.

    Attributes:
        parts: number finished.
        images: number captioned.
        failed: number of images and parts that could not be read.
        errors: their names and reasons; at most the first hundred.
    """

    parts: int = 0
    images: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)

    def __add__(self, other: BulkReport) -> BulkReport:
        return BulkReport(
            self.parts + other.parts,
            self.images + other.images,
            self.failed + other.failed,
            [*self.errors, *other.errors][:100],
        )


class Bulk:
    """Captions the parts of a plan. Each worker has one, and loads the model once.

    Args:
        plan: the parts.
        model: a model's name or folder.
        batch_size: images captioned at once.
        device, engine, threads: see :meth:`Captioner.from_pretrained`.
        translator: loads the translator of the captions; ``None`` without one.
        search: search settings that replace the model's own.
    """

    def __init__(
        self,
        plan: Plan,
        model: str,
        *,
        batch_size: int = 32,
        device: str = "auto",
        engine: str = "auto",
        threads: int | None = None,
        translator: Callable[[], Translator] | None = None,
        **search: Any,
    ) -> None:
        self.plan, self.model, self.batch_size = plan, model, batch_size
        self.captioner = Captioner.from_pretrained(model, device=device, engine=engine, threads=threads, **search)
        self.translator = translator() if translator else None

    def __call__(self, number: int) -> BulkReport:
        """Caption a part and write its file, unless the file exists."""
        path = self.plan.file(number)
        if path.exists():  # from a worker that died before it could report
            return BulkReport(1)
        report = BulkReport(1)
        try:
            more = ("language", "translation") if self.translator else ()
            with rows.writer(path, more=more) as write:
                for row in self._rows(number):
                    write(row)
                    if row["error"] is None:
                        report.images += 1
                    else:
                        report.failed += 1
                        if len(report.errors) < 100:
                            report.errors.append(f"{row['image']}: {row['error']}")
        except OSError as error:
            raise BulkError(
                f"{path}: cannot be written ({error.strerror or error}); the parts before it are finished, and the "
                "same command resumes"
            ) from None
        return report

    def _rows(self, number: int) -> Iterator[rows.Row]:
        """Yield a row for each image of a part, in order, and one for the part if it cannot be read to its end."""
        for item, result in captioned(
            self.captioner, self._items(number), translator=self.translator, batch_size=self.batch_size
        ):
            yield rows.row(item.name, result, model=self.model, stamp=item.stamp)

    def _items(self, number: int) -> Iterator[Item]:
        part = self.plan.parts[number]
        try:
            yield from images(part, column=self.plan.column)
        except BadPart as error:
            path = self.plan.file(number)
            yield Item(part.address, None, f"{error}; once it is repaired or replaced, delete {path} and run again")


def bulk(
    plan: Plan, worker: Callable[[], Bulk], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> BulkReport:
    """Caption the unfinished parts of a plan, one after the other.

    Args:
        plan: the parts.
        worker: makes a :class:`Bulk`; not called if every part is finished.
        progress: called with (finished parts, all parts).

    Raises:
        CaptionerError: the model cannot be used, or a file cannot be written.
    """
    with plan.locked():
        left = plan.unfinished()
        return _total(plan, left, map(worker(), left) if left else iter(()), progress)


def bulk_on_ray(
    plan: Plan,
    worker: Callable[[], Bulk],
    *,
    workers: int,
    cpus: int = 1,
    gpus: float = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BulkReport:
    """Caption the unfinished parts of a plan on the running Ray cluster, or on a new one on this machine.

    If a worker dies, another one captions its part. All workers must see the output's folder.

    Args:
        plan: the parts.
        worker: makes a :class:`Bulk` in each worker.
        workers: number of workers.
        cpus: CPUs per worker.
        gpus: GPUs per worker.
        progress: called with (finished parts, all parts).

    Raises:
        BulkError: Ray is not installed, or a part failed repeatedly.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it reports the end of every worker as an error
    require("--ray:", "ray", error=BulkError)

    code = imported_code()

    class Worker:  # called by Ray, which makes one in each worker
        def __init__(self) -> None:
            for source in code:
                import_code(source)
            self.work = worker()

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            report = self.work(int(row["item"]))
            return {"report": json.dumps(asdict(report))}

    with plan.locked():
        left = plan.unfinished()
        if not left:
            return _total(plan, left, iter(()), progress)
        return _on_ray(plan, left, Worker, workers=workers, cpus=cpus, gpus=gpus, progress=progress)


def _on_ray(
    plan: Plan,
    left: list[int],
    worker: Any,
    *,
    workers: int,
    cpus: int,
    gpus: float,
    progress: Callable[[int, int], None],
) -> BulkReport:
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    started = not ray.is_initialized()
    if started:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = (
            ray.data.from_items(left, override_num_blocks=len(left))
            .map(
                worker,
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(left))),
                num_cpus=cpus,
                num_gpus=gpus or None,
            )
            .iter_rows()
        )
        reports = (BulkReport(**json.loads(row["report"])) for row in rows)
        return _total(plan, left, reports, progress)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise BulkError(f"{plan.folder}: {first_line(cause)}; the same command resumes") from None
    finally:
        if started:
            ray.shutdown()


def _total(
    plan: Plan, left: list[int], reports: Iterator[BulkReport], progress: Callable[[int, int], None]
) -> BulkReport:
    total, before = BulkReport(), len(plan.parts) - len(left)
    progress(before, len(plan.parts))
    for report in reports:
        total += report
        progress(before + total.parts, len(plan.parts))
    return total
