"""The whole benchmark: quality, cost, and the folder of what came out."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import captioner
from captioner import checkpoint, files
from captioner.benchmark import page, report
from captioner.benchmark.cost import Cost, time_models
from captioner.benchmark.quality import Quality, assess
from captioner.benchmark.worker import Job
from captioner.captioner import Captioner
from captioner.data.captions import CaptionData
from captioner.errors import CheckpointError
from captioner.evaluation.bootstrap import RESAMPLES
from captioner.evaluation.scores import DEFAULT_METRICS

TABLE, RECORD, PLOT, PAGE = "table.md", "benchmark.json", "plot.png", "photos.html"
FORMAT = 1


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark found.

    Attributes:
        quality: scores, intervals and tests.
        costs: of each model; empty if nothing was timed.
        folder: where the report is.
        notes: what a reader of the numbers must know, besides those of the quality.
    """

    quality: Quality
    costs: dict[str, Cost]
    folder: Path
    notes: list[str]


def benchmark(
    models: Sequence[str | Path],
    data: CaptionData,
    output: str | Path,
    *,
    split: str = "",
    features: Sequence[str | Path] = (),
    metrics: Sequence[str] = DEFAULT_METRICS,
    device: str = "auto",
    search: Mapping[str, Any] | None = None,
    batches: Sequence[int] = (1, 16),
    rounds: int = 30,
    resamples: int = RESAMPLES,
    seed: int = 0,
    shown: int = 12,
    progress: Callable[[str, int, int], None] | None = None,
) -> Benchmark:
    """Hold captioners against each other on the same photos.

    Writes ``table.md``, ``benchmark.json``, ``plot.png`` (if something was timed) and ``photos.html``.

    Args:
        models: shipped models by name, model folders, or ``user/model`` on the hub; the others are compared with the first.
        data: the photos, a split.
        output: the folder to write to.
        split: its name, for the report.
        features: feature stores to caption from, instead of the photos; what is timed always begins with pixels.
        metrics: see :class:`captioner.evaluation.scores.Scorer`.
        device: a torch device, or ``auto``.
        search: settings of the search for all models; what is not given is each model's own.
        batches: sizes of batches to time.
        rounds: how often each is timed; 0 times nothing.
        resamples: of the intervals and tests.
        seed: of the resampling.
        shown: photos on the page.
        progress: called with (what is done, done, all).

    Raises:
        CheckpointError: a model does not exist or is damaged, or the same one was given twice.
        EvaluationError: see :func:`captioner.benchmark.quality.assess` and :func:`captioner.benchmark.cost.time_models`.
    """
    output, folders, settings = Path(output), named(models), dict(search or {})
    load = {name: partial(Captioner.from_pretrained, folder, device=device, **settings) for name, folder in folders.items()}
    quality = assess(
        load,
        data,
        features=[str(store) for store in features],
        metrics=metrics,
        batch_size=max(batches, default=16),
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    by_id = {photo.image_id: photo for photo in data.photos}
    notes = _cautions(split)
    costs: dict[str, Cost] = {}
    if rounds:
        photos = [str(by_id[image].path) for image in quality.images[: max(32, *batches)]]
        jobs = {name: Job(str(folder), device, settings, photos, sorted(set(batches))) for name, folder in folders.items()}
        costs = time_models(jobs, rounds=rounds, progress=None if progress is None else partial(progress, "Timing"))
        notes += [f"not timed with: {problem}" for problem in next(iter(costs.values())).about.unreadable]
    metric = "CIDEr" if "CIDEr" in quality.metrics else quality.metrics[-1]
    pages = [
        page.Shown(
            image=quality.images[number],
            path=by_id[quality.images[number]].path,
            references=by_id[quality.images[number]].captions,
            captions={name: captions[number] for name, captions in quality.captions.items()},
            scores={name: each[metric][number] for name, each in quality.each.items()},
        )
        for number in page.most_different(quality, shown, metric)
    ]
    notes += page.look(pages, load)
    title = f"{data.name}, {split}" if split else data.name
    files.write_text(output / TABLE, report.markdown(title, quality, costs, resamples=resamples, notes=notes))
    files.write_text(output / PAGE, page.page(title, quality, pages, metric))
    if costs:
        report.plot(output / PLOT, quality, costs)
    about = {"data": data.name, "split": split, "resamples": resamples, "seed": seed, "search": settings, "rounds": rounds, "batches": list(batches)}
    record = {
        "format": FORMAT,
        "captioner": captioner.__version__,
        **about,
        "machine": machine(),
        "models": {name: str(folder) for name, folder in folders.items()},
        "quality": asdict(quality),
        "cost": {name: asdict(cost) for name, cost in costs.items()},
        "notes": notes,
    }
    files.write_json(output / RECORD, record, indent=1)
    return Benchmark(quality, costs, output, notes)


def named(models: Sequence[str | Path]) -> dict[str, Path]:
    """Find models and name each by its folder (that of the run, if it is a run's ``best`` or ``last``), or as it was given if others are named so.

    Raises:
        CheckpointError: a model does not exist, or the same one was given twice.
    """
    folders = [checkpoint.locate(model) for model in models]
    if not folders:
        raise CheckpointError("no model comes with this copy of captioner; give some with --model")
    short = [_name(folder.resolve()) if Path(model).is_dir() else str(model) for model, folder in zip(models, folders, strict=True)]
    names = [name if short.count(name) == 1 else str(model) for name, model in zip(short, models, strict=True)]
    if len(set(names)) < len(names):
        raise CheckpointError(f"models {', '.join(names)}: the same one is named twice; leave one out")
    return dict(zip(names, folders, strict=True))


def _name(folder: Path) -> str:
    return folder.parent.name if folder.name in ("best", "last") else folder.name


def machine() -> dict[str, Any]:
    """Describe where the benchmark ran."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": load and [round(value, 2) for value in load],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpus:
            return next(line.partition(":")[2].strip() for line in cpus if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _cautions(split: str) -> list[str]:
    if split in ("dev", "val"):
        return [
            f"Models whose best epoch was chosen on {split} look better on it than on photos that nobody has used; report a test split in a paper."
        ]
    if split in ("train", "restval"):
        return [f"Models that learned from {split} have seen these photos; report a test split in a paper."]
    return []
