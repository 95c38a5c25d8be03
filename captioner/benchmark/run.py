"""The whole benchmark: quality, cost, and the folder of what came out."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import captioner
from captioner import files
from captioner.backend import choose_device
from captioner.benchmark import page, report
from captioner.benchmark.captions import caption_all
from captioner.benchmark.contestants import Contestant, find
from captioner.benchmark.cost import Cost, time_models
from captioner.benchmark.latex import latex as in_latex
from captioner.benchmark.listener import Listener
from captioner.benchmark.plot import plot
from captioner.benchmark.quality import Quality, assess
from captioner.benchmark.store import Key, Store, stamp
from captioner.benchmark.worker import Job
from captioner.data.dataset import CaptionData, Photo
from captioner.errors import CaptionerError
from captioner.evaluation.bootstrap import RESAMPLES
from captioner.evaluation.scores import DEFAULT_METRICS, metric_families
from captioner.pipeline import Captioner

TABLE, LATEX, RECORD, PLOT, PAGE, CACHE = "table.md", "table.tex", "benchmark.json", "plot.png", "photos.html", "cache"
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
    models: Sequence[str | Path | Contestant],
    data: CaptionData,
    output: str | Path,
    *,
    training: CaptionData | None = None,
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
    latex: bool = False,
    fresh: bool = False,
    listener: Listener | None = None,
) -> Benchmark:
    """Hold captioners against each other on the same photos.

    Writes ``table.md``, ``table.tex`` (on request), ``benchmark.json``, ``plot.png`` (if something was timed) and
    ``photos.html``. Captions and timings are kept in ``cache`` as soon as they are there, and used again by the next
    call; see :mod:`captioner.benchmark.store`.

    A model or a photo that cannot be used is reported to the listener and left out.

    Args:
        models: shipped models by name, model folders, ``user/model`` on the hub, or contestants; the others are
            compared with the first.
        data: the photos, a split.
        output: the folder to write to.
        training: the split that was learned from, by which novel captions are told; ``None`` if the data has none.
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
        latex: also write the tables in LaTeX.
        fresh: use nothing that an earlier call kept.
        listener: is told how far it is and what went wrong.

    Raises:
        CheckpointError: the same model was given twice, or none can be found.
        ConfigError: there is no such device.
        EvaluationError: no model is left, or see :func:`captioner.benchmark.quality.assess`.
        FeatureStoreError: a store is damaged.
    """
    listener, output, settings = listener or Listener(), Path(output), dict(search or {})
    metric_families(metrics)  # an unknown metric is refused before the captioning, not after
    contestants = find(models, listener.failed)
    store = Store(output / CACHE)
    if fresh:
        store.clear()
    said = caption_all(
        contestants,
        data,
        store=store,
        features=features,
        device=device,
        search=settings,
        batch_size=max(batches, default=16),
        listener=listener,
    )
    contestants = [contestant for contestant in contestants if contestant.name in said.captions]
    listener.progress("Scoring", 0, None)
    quality = assess(contestants, said, data, training=training, metrics=metrics, resamples=resamples, seed=seed)
    by_id = {photo.image_id: photo for photo in data.photos}
    notes = _cautions(split)
    costs: dict[str, Cost] = {}
    where = machine()
    if rounds:
        photos = [by_id[image] for image in quality.images[: max(32, *batches)]]
        costs, where = _timed(
            contestants, photos, device, settings, sorted(set(batches)), rounds, store, where, listener
        )
        notes += [
            f"not timed with: {problem}" for problem in next((cost.about.unreadable for cost in costs.values()), [])
        ]
    pages = [_shown(quality, number, by_id) for number in page.most_different(quality, shown)]
    for contestant in contestants:
        load = partial(Captioner.from_pretrained, contestant.folder, device=device, **settings)
        try:
            notes += page.look(pages, contestant.name, load, listener.bar(f"Drawing attention, {contestant.name}"))
        except CaptionerError as error:
            listener.failed(f"{contestant.name}: its attention cannot be shown: {error}")
    title = f"{data.name}, {split}" if split else data.name
    files.write_text(output / TABLE, report.markdown(title, quality, costs, resamples=resamples, notes=notes))
    if latex:
        files.write_text(output / LATEX, in_latex(title, quality, costs, resamples=resamples))
    if costs:
        plot(output / PLOT, quality, costs)
    picture = (output / PLOT).read_bytes() if costs else None
    files.write_text(output / PAGE, page.page(title, quality, costs, pages, resamples=resamples, plot=picture))
    about = {
        "data": data.name,
        "split": split,
        "resamples": resamples,
        "seed": seed,
        "search": settings,
        "rounds": rounds,
        "batches": list(batches),
    }
    record = {
        "format": FORMAT,
        "captioner": captioner.__version__,
        **about,
        "machine": where,
        "models": {contestant.name: str(contestant.folder) for contestant in contestants},
        "quality": asdict(quality),
        "cost": {name: asdict(cost) for name, cost in costs.items()},
        "notes": notes,
    }
    files.write_json(output / RECORD, record, indent=1)
    return Benchmark(quality, costs, output, notes)


def _timed(
    contestants: Sequence[Contestant],
    photos: Sequence[Photo],
    device: str,
    search: dict[str, Any],
    batches: list[int],
    rounds: int,
    store: Store,
    here: dict[str, Any],
    listener: Listener,
) -> tuple[dict[str, Cost], dict[str, Any]]:
    """Return what each model costs, measured now or kept from an earlier call, and the machine as it was then; one that fails is reported."""
    key: Key = {
        "models": [[contestant.name, contestant.fingerprint] for contestant in contestants],
        "photos": [[str(photo.path), stamp(photo.path)] for photo in photos],
        "search": search,
        "device": str(choose_device(device)),
        "batches": batches,
        "rounds": rounds,
        "captioner": captioner.__version__,
        "machine": {name: value for name, value in here.items() if name != "load"},
    }
    if (kept := store.timings(key)) is not None:
        listener.note(f"timings are used again from {store.folder}")
        return {name: Cost.of(cost) for name, cost in kept["costs"].items()}, kept["machine"]
    jobs = {
        one.name: Job(str(one.folder), device, search, [str(photo.path) for photo in photos], batches)
        for one in contestants
    }
    costs, errors = time_models(jobs, rounds=rounds, progress=listener.progress)
    for error in errors.values():
        listener.failed(str(error))
    if not errors:
        store.keep_timings(key, {"costs": {name: asdict(cost) for name, cost in costs.items()}, "machine": here})
    return costs, here


def _shown(quality: Quality, number: int, photos: Mapping[str, Photo]) -> page.Shown:
    photo = photos[quality.images[number]]
    return page.Shown(
        image=photo.image_id,
        path=photo.path,
        references=photo.captions,
        captions={name: captions[number] for name, captions in quality.captions.items()},
        scores={name: each[quality.metric][number] for name, each in quality.each.items()},
    )


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
