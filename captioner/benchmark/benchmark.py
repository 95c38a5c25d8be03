"""The whole benchmark: quality, cost, and the output folder."""

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
from captioner.benchmark import html_page, markdown
from captioner.benchmark.cache import BenchmarkCache, Key, stamp
from captioner.benchmark.captions import caption_all
from captioner.benchmark.contestants import Contestant, GivenCaptions, find, source
from captioner.benchmark.cost import ModelCost, time_models
from captioner.benchmark.latex import latex as in_latex
from captioner.benchmark.listener import Listener
from captioner.benchmark.plot import plot
from captioner.benchmark.quality import Quality, assess
from captioner.benchmark.worker import TimingJob
from captioner.captioner import Captioner
from captioner.data.dataset import CaptionData, CaptionedImage
from captioner.errors import CaptionerError
from captioner.evaluation.bootstrap import DEFAULT_RESAMPLES
from captioner.evaluation.metrics import DEFAULT_METRICS, usable_families
from captioner.machine.backend import choose_device
from captioner.registry import imported_code

TABLE, LATEX, RECORD, PLOT, PAGE, CACHE = "table.md", "table.tex", "benchmark.json", "plot.png", "photos.html", "cache"
FORMAT = 1


@dataclass(frozen=True)
class Benchmark:
    """Results of a benchmark.

    Attributes:
        quality: scores, intervals and tests.
        costs: cost of each model; empty if nothing was timed.
        folder: the folder with the report.
        notes: caveats for readers of the numbers, in addition to the notes of the quality.
    """

    quality: Quality
    costs: dict[str, ModelCost]
    folder: Path
    notes: list[str]


def benchmark(
    models: Sequence[str | Path | Contestant | GivenCaptions],
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
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    shown: int = 12,
    latex: bool = False,
    fresh: bool = False,
    listener: Listener | None = None,
) -> Benchmark:
    """Compare models, and captions of other programs, on the same images.

    Writes ``table.md``, ``table.tex`` (on request), ``benchmark.json``, ``plot.png`` (if models were timed) and
    ``photos.html``, in place of the report of an earlier call. Captions and timings are saved in ``cache`` as soon as
    they exist and reused by the next call; see :mod:`captioner.benchmark.cache`.

    Models, files and images that cannot be used are reported to the listener and left out. Only images that all
    contestants captioned are scored.

    Args:
        models: the contestants: shipped models by name, model folders, ``user/model`` on the hub, ensembles of these by
            names joined by ``+``, or captions of another program as ``NAME=FILE``, in COCO's results format; see
            :func:`captioner.benchmark.contestants.find`. The others are compared with the first.
        data: the split to caption.
        output: the folder to write to.
        training: the training split, for counting novel captions; ``None`` if the data has none.
        split: name of the captioned split, for the report.
        features: feature stores to caption from instead of the images; timing always begins with pixels.
        metrics: see :class:`captioner.evaluation.metrics.Scorer`.
        device: a torch device, or ``auto``.
        search: search settings for all models; any other setting is the model's own.
        batches: batch sizes to time.
        rounds: how often each batch size is timed; 0 skips timing.
        resamples: number of resamples for intervals and tests.
        seed: seed of the resampling.
        shown: number of images on the page.
        latex: also write the tables in LaTeX.
        fresh: ignore the cache of earlier calls.
        listener: receives progress, notes and errors.

    Raises:
        CheckpointError: the same model was given twice, or none can be found.
        ConfigError: the device does not exist.
        EvaluationError: no model is left, or see :func:`captioner.benchmark.quality.assess`.
        FeatureStoreError: a store is damaged.
    """
    listener, output, settings = listener or Listener(), Path(output), dict(search or {})
    usable_families(metrics)  # reject unknown metrics before captioning, not after
    contestants = find(models, listener.failed)
    cache = BenchmarkCache(output / CACHE)
    if fresh:
        cache.clear()
    generated = caption_all(
        contestants,
        data,
        cache=cache,
        features=features,
        device=device,
        search=settings,
        batch_size=max(batches, default=16),
        listener=listener,
    )
    compared = [contestant for contestant in contestants if contestant.name in generated.captions]
    runnable = [contestant for contestant in compared if isinstance(contestant, Contestant)]
    listener.progress("Scoring", 0, None)
    quality = assess(runnable, generated, data, training=training, metrics=metrics, resamples=resamples, seed=seed)
    by_id = {image.image_id: image for image in data.images}
    notes = _cautions(split)
    costs: dict[str, ModelCost] = {}
    system = machine()
    if rounds and runnable:
        images = [by_id[image] for image in quality.images[: max(32, *batches)]]
        costs, system = _timed(
            runnable, images, device, settings, sorted(set(batches)), rounds, cache, system, listener
        )
        notes += [
            f"not used for timing: {problem}"
            for problem in next((cost.about.unreadable for cost in costs.values()), [])
        ]
    pages = [_shown_image(quality, number, by_id) for number in html_page.most_different(quality, shown)]
    for contestant in runnable:
        load = partial(Captioner.from_pretrained, contestant.model, device=device, engine="torch", **settings)
        try:
            notes += html_page.draw_attention(
                pages, contestant.name, load, listener.bar(f"Drawing attention, {contestant.name}")
            )
        except CaptionerError as error:
            listener.failed(f"{contestant.name}: attention cannot be shown: {error}")
    title = f"{data.name}, {split}" if split else data.name
    for name in (LATEX, PLOT):  # those of an earlier run, which this one need not have
        (output / name).unlink(missing_ok=True)
    files.write_text(output / TABLE, markdown.markdown(title, quality, costs, resamples=resamples, notes=notes))
    if latex:
        files.write_text(output / LATEX, in_latex(title, quality, costs, resamples=resamples))
    if costs:
        plot(output / PLOT, quality, costs)
    plotted = (output / PLOT).read_bytes() if costs else None
    files.write_text(
        output / PAGE,
        html_page.html_page(title, quality, costs, pages, resamples=resamples, plot=plotted, notes=notes),
    )
    record = {
        "format": FORMAT,
        "captioner": captioner.__version__,
        "data": data.name,
        "split": split,
        "resamples": resamples,
        "seed": seed,
        "search": settings,
        "rounds": rounds,
        "batches": list(batches),
        "machine": system,
        "models": {contestant.name: source(contestant) for contestant in compared},
        "quality": asdict(quality),
        "cost": {name: asdict(cost) for name, cost in costs.items()},
        "notes": notes,
    }
    files.write_json(output / RECORD, record, indent=1)
    return Benchmark(quality, costs, output, notes)


def _timed(
    contestants: Sequence[Contestant],
    images: Sequence[CaptionedImage],
    device: str,
    search: dict[str, Any],
    batches: list[int],
    rounds: int,
    cache: BenchmarkCache,
    system: dict[str, Any],
    listener: Listener,
) -> tuple[dict[str, ModelCost], dict[str, Any]]:
    """Return the cost of each model, measured now or cached, and the machine on which it was measured.

    Models that fail are reported and left out.
    """
    key: Key = {
        "models": [[contestant.name, contestant.fingerprint] for contestant in contestants],
        "photos": [[str(image.path), stamp(image.path)] for image in images],
        "search": search,
        "device": str(choose_device(device)),
        "batches": batches,
        "rounds": rounds,
        "captioner": captioner.__version__,
        "machine": {name: value for name, value in system.items() if name != "load"},
    }
    if (cached := cache.timings(key)) is not None:
        listener.note(f"timings are used again from {cache.folder}")
        return {name: ModelCost.of(cost) for name, cost in cached["costs"].items()}, cached["machine"]
    code = imported_code()
    jobs = {
        model.name: TimingJob(model.model, device, search, [str(image.path) for image in images], batches, code)
        for model in contestants
    }
    costs, errors = time_models(jobs, rounds=rounds, progress=listener.progress)
    for error in errors.values():
        listener.failed(str(error))
    if not errors:
        cache.save_timings(key, {"costs": {name: asdict(cost) for name, cost in costs.items()}, "machine": system})
    return costs, system


def _shown_image(quality: Quality, number: int, images: Mapping[str, CaptionedImage]) -> html_page.ShownImage:
    image = images[quality.images[number]]
    return html_page.ShownImage(
        image_id=image.image_id,
        path=image.path,
        references=image.captions,
        captions={name: captions[number] for name, captions in quality.captions.items()},
        scores={name: each[quality.metric][number] for name, each in quality.each.items()},
    )


def machine() -> dict[str, Any]:
    """Describe the machine on which the benchmark runs."""
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
            f"Models whose best epoch was selected on {split} tend to score higher on it than on unseen images; "
            "report a test split in a paper."
        ]
    if split in ("train", "restval"):
        return [f"Models trained on {split} have seen these images; report a test split in a paper."]
    return []
