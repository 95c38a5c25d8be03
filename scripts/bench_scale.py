"""Measure the growth of time, memory and bytes, fit it, and write ``docs/scale.md`` with its plot.

Example: python scripts/bench_scale.py

Every point is measured in its own process on synthetic data: features of 49 cells with 64 numbers for the store, real
model sizes for training and search. The points are stored in ``docs/scale.json``; ``--draw`` only writes the page and
the plot from them. Rates of the whole program are those in ``docs/performance.json`` (``scripts/bench.py``).

A point alone: python scripts/bench_scale.py --point store 10000
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from captioner import files
from captioner.benchmark.benchmark import machine
from captioner.benchmark.worker import peak_memory
from captioner.collection.plan import open_plan
from captioner.data.annotations import read_captions
from captioner.data.batches import Captions
from captioner.data.transform import Transform
from captioner.decoders import DECODERS
from captioner.encoders.encoder import Encoder, EncoderConfig
from captioner.encoders.grid import GridConfig, GridEncoder
from captioner.evaluation.cider import CiderD
from captioner.evaluation.metrics import Scorer
from captioner.features import FeatureStore, build_store
from captioner.machine.processes import Processes
from captioner.memory import Memory
from captioner.search.config import SearchConfig
from captioner.search.search import search as find
from captioner.text.vocabulary import Vocabulary

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards
import small_png

DOCS = Path(__file__).resolve().parent.parent / "docs"
RECORD, PLOT, PAGE = DOCS / "scale.json", DOCS / "scale.png", DOCS / "scale.md"
PERFORMANCE = DOCS / "performance.json"
WORDS = [f"word{number}" for number in range(3000)]
EXTRACTED = 192  # images
Values = dict[str, float]


class Sweep(NamedTuple):
    """A series of measurements.

    Attributes:
        title: of the plot's panel.
        axis: unit of the sizes.
        sizes: in rising order.
    """

    title: str
    axis: str
    sizes: tuple[int, ...]


MANY, SOME = (1_000, 3_000, 10_000, 30_000, 100_000), (1_000, 3_000, 10_000)
SWEEPS = {
    "store": Sweep("writing a feature store", "images", MANY),
    "read": Sweep("an epoch's reading of it, shuffled", "images", MANY),
    "annotations": Sweep("reading captions, vocabulary", "images", MANY),
    "plan": Sweep("cutting a folder into parts", "images", MANY),
    "cider": Sweep("CIDEr-D of one caption each", "images", MANY),
    "scores": Sweep("all metrics of pycocoevalcap", "images", SOME),
    "search": Sweep("beam search, width 3", "images", SOME),
    "width": Sweep("beam search of 400 images", "width of the beam", (1, 2, 3, 5, 8, 12)),
    "places": Sweep("beam search of 400 images", "cells", (49, 100, 196, 400, 784)),
    "captions": Sweep("training step, 32 images", "captions an image", (1, 2, 3, 5, 8)),
    "grid": Sweep("training step, 32 images x 5", "cells", (49, 100, 196, 400, 784)),
}


class Synthetic(Encoder):
    """Returns 7x7 cells of 64 random numbers."""

    Config = EncoderConfig

    def __init__(self) -> None:
        super().__init__()
        self.config, self.features, self.grid, self.stages = EncoderConfig(), 64, (7, 7), 1
        self.transform = Transform(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.random = torch.Generator().manual_seed(0)

    def forward(self, pixels: Tensor) -> Memory:
        """Return random features."""
        return Memory.of_grid(torch.randn(len(pixels), 49, 64, generator=self.random), (7, 7))


def sentence(chance: random.Random) -> str:
    """Write a caption of about eleven words, with the frequencies of Zipf's law."""
    return " ".join(WORDS[int(len(WORDS) ** chance.random()) - 1] for _ in range(chance.randint(8, 14)))


def store(folder: Path, images: int) -> Values:
    """Build a feature store; return its bytes."""
    picture = folder / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    began = time.perf_counter()
    build_store(folder / "store", Synthetic().eval(), [(str(i), picture) for i in range(images)], batch_size=64)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "bytes": float(sum(file.stat().st_size for file in (folder / "store").iterdir()))}


def read(folder: Path, images: int) -> Values:
    """Read a store in shuffled batches of 32 and, for comparison, its files one after the other."""
    store(folder, images)
    began = time.perf_counter()
    found = FeatureStore(folder / "store")
    opened = time.perf_counter() - began
    order = [str(i) for i in torch.randperm(images).tolist()]
    began = time.perf_counter()
    for start in range(0, images, 32):
        found.memory(order[start : start + 32])
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    for file in sorted((folder / "store").glob("*.npy")):
        file.read_bytes()
    return {"seconds": seconds, "open": opened, "plain": time.perf_counter() - began, "bytes": images * 49.0 * 64 * 2}


def annotations(folder: Path, images: int) -> Values:
    """Read COCO's caption JSON with five captions an image, build the vocabulary, encode the captions."""
    chance = random.Random(0)
    (folder / "photo.jpg").touch()
    records = [{"id": i, "file_name": "photo.jpg"} for i in range(images)]
    captions = [{"image_id": i % images, "id": i, "caption": sentence(chance)} for i in range(5 * images)]
    (folder / "captions_train2014.json").write_text(json.dumps({"images": records, "annotations": captions}))
    del captions, records
    began = time.perf_counter()
    photos = read_captions(folder / "captions_train2014.json", images=folder).images
    vocabulary = Vocabulary.build(caption for photo in photos for caption in photo.captions)
    encoded = [[vocabulary.encode(caption) for caption in photo.captions] for photo in photos]
    return {"seconds": time.perf_counter() - began, "images": float(len(encoded))}


def plan(folder: Path, pictures: int) -> Values:
    """Cut a folder of images into parts and list the unfinished ones."""
    (folder / "pictures").mkdir()
    for number in range(pictures):
        (folder / "pictures" / f"{number:06d}.jpg").touch()
    began = time.perf_counter()
    made = open_plan(
        str(folder / "pictures"), folder / "out", format="jsonl", column=None, size=1000, model="show_attend_tell"
    )
    made.unfinished()
    return {"seconds": time.perf_counter() - began, "bytes": float((folder / "out" / "plan.json").stat().st_size)}


def cider(folder: Path, images: int) -> Values:
    """Make CIDEr-D's reference statistics and score a caption of each image."""
    chance = np.random.default_rng(0)
    numbers = np.minimum(chance.zipf(1.3, size=(images, 6, 11)) + 3, 3000)
    began = time.perf_counter()
    reward = CiderD([photo[:5].tolist() for photo in numbers], words=3001)
    reward(list(range(images)), numbers[:, 5])
    return {"seconds": time.perf_counter() - began}


def scores(folder: Path, images: int) -> Values:
    """Score a caption of each image by BLEU, METEOR, ROUGE-L and CIDEr."""
    chance = random.Random(0)
    references = {str(i): [sentence(chance) for _ in range(5)] for i in range(images)}
    candidates = {str(i): sentence(chance) for i in range(images)}
    began = time.perf_counter()
    Scorer(references)(candidates, metrics=("BLEU", "METEOR", "ROUGE-L", "CIDEr"))
    return {"seconds": time.perf_counter() - began}


def soft_attention() -> Any:
    """Build its decoder in its default size, with new weights."""
    torch.manual_seed(0)
    kind = DECODERS["show_attend_tell"]
    return kind(kind.Config(), features=1280, words=3000)


def memory_of(images: int, places: int) -> Memory:
    """Make random features of a 1280-channel grid."""
    side = round(places**0.5)
    return Memory.of_grid(torch.randn(images, places, 1280), (side, side))


def searching(images: int, *, width: int = 3, places: int = 196) -> Values:
    """Search captions of 20 words, 40 images at a time."""
    decoder, memory = soft_attention().eval(), memory_of(40, places)
    config = SearchConfig(width=width, max_words=20, min_words=20)
    with torch.inference_mode():
        find(decoder, memory, config)
        began = time.perf_counter()
        for _ in range(images // 40):
            find(decoder, memory, config)
    return {"seconds": time.perf_counter() - began}


def training(*, captions: int = 5, places: int = 196) -> Values:
    """Train a few steps on 32 images with captions of 12 words; return the median step."""
    decoder, memory = soft_attention().train(), memory_of(32, places)
    optimiser = torch.optim.AdamW(decoder.parameters(), fused=True)
    batch = Captions.collate([[[1, *range(10, 22), 2]] * captions] * 32)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        logits = decoder(memory, batch.inputs).logits
        torch.nn.functional.cross_entropy(logits, batch.targets).backward()
        optimiser.step()
        optimiser.zero_grad()
        times.append(time.perf_counter() - began)
    return {"seconds": float(np.median(times[1:]))}


def extract(folder: Path, images: int) -> Values:
    """Encode images into a store with the default encoder, with all processes of torchrun."""
    processes = Processes.join()
    photos = sorted((DOCS.parent / "assets" / "examples").glob("*.[jp][pn]g"))
    encoder = GridEncoder(GridConfig(backbone="efficientnet_lite2")).eval().fast(torch.device("cpu"))
    chosen = [(str(i), photos[i % len(photos)]) for i in range(images)]
    build_store(folder / f"warm{processes.rank}", encoder, chosen[:16])
    processes.wait()
    began = time.perf_counter()
    build_store(folder / "store", encoder, chosen, shard=16, processes=processes)
    return {"seconds": time.perf_counter() - began}


POINTS: dict[str, Callable[[Path, int], Values]] = {
    "store": store,
    "read": read,
    "annotations": annotations,
    "plan": plan,
    "cider": cider,
    "scores": scores,
    "search": lambda folder, images: searching(images),
    "width": lambda folder, width: searching(400, width=width),
    "places": lambda folder, places: searching(400, places=places),
    "captions": lambda folder, captions: training(captions=captions),
    "grid": lambda folder, places: training(places=places),
    "extract": extract,
}


def measure(name: str, size: int, folder: Path) -> Values:
    """Measure a point in this process, with its peak memory."""
    before = peak_memory()
    values = POINTS[name](folder, size)
    return {**values, "start_mb": before, "peak_mb": peak_memory()}


def in_new_process(name: str, size: int, *, processes: int = 1, threads: int | None = None) -> Values:
    """Measure a point in a new process, or in several that work together."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*launcher, __file__, "--point", name, str(size), "--folder", folder]
        command += ["--threads", str(threads)] if threads else []
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    values: Values = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:12} {size:>7,} x{processes} {values}", flush=True)
    return values


class Fit(NamedTuple):
    """The line ``seconds = fixed + each * size``, its largest relative error, the exponent of the last two points."""

    fixed: float
    each: float
    error: float
    exponent: float
    largest: tuple[float, float]  # the last point

    def at(self, size: float) -> float:
        """Extrapolate from the last point, by its exponent or linearly (the larger); interpolate along the line."""
        last, seconds = self.largest
        if size <= last:
            return self.fixed + self.each * size
        return seconds * (size / last) ** max(1.0, self.exponent)

    @classmethod
    def of(cls, sizes: Sequence[int], seconds: Sequence[float]) -> Fit:
        """Fit by least squares of relative errors, with both coefficients at least zero."""
        x, y = np.array(sizes, float), np.array(seconds)
        design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
        fixed, each = np.linalg.lstsq(design, np.ones_like(x), rcond=None)[0]
        if fixed < 0:
            fixed, each = 0.0, float((x / y).sum() / ((x / y) ** 2).sum())
        error = float(np.abs((fixed + each * x) / y - 1).max())
        exponent = float(np.log(y[-1] / y[-2]) / np.log(x[-1] / x[-2]))
        return cls(float(fixed), float(each), error, exponent, (float(x[-1]), float(y[-1])))


TEXT = """# How it scales

The growth of time, memory and bytes with the number of images, captions, cells, hypotheses and processes, measured
from 1,000 to 100,000 images and extrapolated from there. `python scripts/bench_scale.py` measures again and writes this
page; the points are in [scale.json](scale.json). Machine: {processor}, {threads} threads, torch {torch}.

![Measured points and fitted lines of every sweep.](scale.png)

## What was measured

A line `fixed + each * size` is fitted to the points. *Off by* is its largest relative error at a point, *exponent* the
slope between the last two points on logarithmic axes; 1 is linear. Every point is measured in its own process.

{fits}

The sweeps of searches and training steps run the plain decoder in float32. The program is faster, as it packs the
decoder for a search and multiplies in bfloat16: [Performance](performance.md#speed) has its rates.

Time grows linearly with the images. CIDEr-D grows a little faster, because its table of n-grams outgrows the
processor's caches; it also needs the most memory, {cider:,.0f} MB at 100,000 images. A training step has a cost per
image, for the projections of its cells, and a cost per caption. A search has a cost per hypothesis and per cell. A
feature store takes {bytes:.4f} times the bytes of its numbers. It is read at {read:,.0f} MB/s in shuffled batches of
32, and at {plain:,.0f} MB/s file by file (both from the page cache, as the store of 100,000 small images fits in
memory). Additional memory at 100,000 images: {held}.

Encoding {photos} images with the default encoder (EfficientNet-Lite2, 448 pixels){note}:

{extract}

## COCO

123,287 images with 616,767 captions, five per image in a step. Encoding, training and captioning are at the rates of
[Performance](performance.md#speed): {features:.0f} images/s, {training:.0f} captions/s and {captioning:.0f} images/s.

{coco}

## A hundred million images

{million}

Assumptions: images of about 500 x 375 pixels. A worker is two cores like these. Workers share only the output folder
(parts are independent and nothing is exchanged), so their number divides the time. The network delivers images as fast
as they are encoded: {network:.1f} MB/s per worker, at 150 kB per image. Not measured at that size: listing a bucket
with so many names, and a file system with {parts:,} files in one folder; tar shards of some thousand images keep both
small.
"""


def duration(seconds: float) -> str:
    """Write a duration with two digits."""
    units = (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60), ("s", 1), ("ms", 1e-3))
    name, unit = next(((name, unit) for name, unit in units if seconds >= (2 if unit > 1 else 1) * unit), ("us", 1e-6))
    value = float(f"{seconds / unit:.2g}")
    return f"{value:,.0f} {name}" if value >= 10 else f"{value:g} {name}"


def rates() -> Values:
    """Return the rates of the program on files and in training: images and captions per second."""
    record = json.loads(PERFORMANCE.read_text(encoding="utf-8"))
    rows = {
        "captioning": ("folder", "captioning files"),
        "features": ("folder", "features of files"),
        "training": ("training", "training, show_attend_tell, bfloat16"),
    }
    return {
        name: next(row["ours"] for row in record[section] if row["name"].startswith(title))
        for name, (section, title) in rows.items()
    }


def page(record: dict[str, Any]) -> str:
    """Write the page from the points."""
    found, points = fits(record), record["points"]
    rows = [
        (
            f"{SWEEPS[name].title}, by {SWEEPS[name].axis}",
            f"{SWEEPS[name].sizes[0]:,} to {SWEEPS[name].sizes[-1]:,}",
            duration(fit.fixed) if fit.fixed > 1e-6 else "0",
            duration(fit.each),
            f"{100 * fit.error:.0f} %",
            f"{fit.exponent:.2f}",
        )
        for name, fit in found.items()
    ]
    last = {name: values[-1] for name, values in points.items()}
    numbers = last["store"]["size"] * 49 * 64 * 2
    alone = record["extract"][0]["seconds"]
    speed = rates()
    per_photo = 1 / speed["captioning"]
    extracted = [
        (f"{one['processes']} x {one['threads']}", f"{EXTRACTED / one['seconds']:.1f}", f"{alone / one['seconds']:.2f}")
        for one in record["extract"]
    ]
    held = ", ".join(
        f"{last[name]['peak_mb'] - last[name]['start_mb']:,.0f} MB for {SWEEPS[name].title}"
        for name in ("store", "annotations", "plan")
    )
    images, grid, regions = 123_287, 196 * 2048 * 2, 36 * 2048 * 2
    coco = [
        ("reading the annotations, vocabulary, encoding the captions", duration(found["annotations"].at(images))),
        ("store of ResNet-101's grid, 14x14x2048", f"{images * grid / 1e9:,.0f} GB"),
        ("store of 36 regions of 2048 numbers", f"{images * regions / 1e9:,.0f} GB"),
        ("encoding all images with the default encoder, here", duration(images / speed["features"])),
        (
            "an epoch of soft attention on a stored grid, decoder only, here",
            duration(5 * 113_287 / speed["training"]),
        ),
        ("captioning the 5,000 test images, encoding included", duration(5000 * per_photo)),
        ("scoring them by all metrics", duration(found["scores"].at(5000))),
        ("CIDEr-D's statistics for self-critical training", duration(found["cider"].at(113_287))),
    ]
    many, small = 100_000_000, last["store"]["bytes"] / last["store"]["size"]
    hours = many * per_photo / 3600
    million = [
        ("cutting them into parts, once", duration(found["plan"].at(many))),
        ("captioning on one worker", duration(many * per_photo)),
        ("workers that finish in a day", f"{hours / 24:,.0f}"),
        ("worker hours", f"{hours:,.0f}"),
        (
            "a store of 49 cells of 64 numbers, as measured here",
            f"{many * small / 1e12:.2f} TB",
        ),
        ("a store of ResNet-101's grid", f"{many * grid / 1e12:,.0f} TB"),
    ]
    text = TEXT.format(
        **record["machine"],
        **speed,
        note=record.get("note", ""),
        fits=cards.markdown_table(("what, by what", "sizes", "fixed", "each", "off by", "exponent"), rows),
        bytes=last["store"]["bytes"] / numbers,
        read=last["read"]["bytes"] / last["read"]["seconds"] / 1e6,
        plain=last["read"]["bytes"] / last["read"]["plain"] / 1e6,
        held=held,
        extract=cards.markdown_table(("processes x threads", "images/s", "times the first"), extracted),
        coco=cards.markdown_table(("what", "takes"), coco),
        million=cards.markdown_table(("what", "takes"), million),
        network=0.15 / per_photo,
        parts=many // 1000,
        photos=EXTRACTED,
        cider=last["cider"]["peak_mb"] - last["cider"]["start_mb"],
    )
    parts = text.split("\n\n")
    filled = [part if part[0] in "#|!" else textwrap.fill(part, 119, break_on_hyphens=False) for part in parts]
    return "\n\n".join(filled) + "\n"


def main() -> None:
    """Read the command line; measure, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", nargs=2, metavar=("NAME", "SIZE"), help="measure one point and print it")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help="that torch computes with")
    parser.add_argument("--draw", action="store_true", help="write page and plot from the points that are there")
    parser.add_argument("--only", nargs="+", choices=[*SWEEPS, "extract"], help="measure these again")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.point:
        name, size = arguments.point[0], int(arguments.point[1])
        with tempfile.TemporaryDirectory() as folder:
            values = measure(name, size, arguments.folder or Path(folder))
        if Processes.started().first:
            print(json.dumps(values))
        return
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {"points": {}}
    for name in [] if arguments.draw else arguments.only or [*SWEEPS, "extract"]:
        if name == "extract":
            record.pop("note", None)  # of the points that are replaced
            record["extract"] = [
                {
                    "processes": count,
                    "threads": threads,
                    **in_new_process(name, EXTRACTED, processes=count, threads=threads),
                }
                for count, threads in ((1, 1), (1, 2), (2, 1))
            ]
        else:
            record["points"][name] = [{"size": size, **in_new_process(name, size)} for size in SWEEPS[name].sizes]
        record["machine"] = {name: machine()[name] for name in ("processor", "torch")} | {
            "threads": torch.get_num_threads()
        }
        files.write_json(RECORD, record, indent=1)
    small_png.save_png(plot(record), PLOT)
    files.write_text(PAGE, page(record))


def fits(record: dict[str, Any]) -> dict[str, Fit]:
    """Fit all sweeps."""
    return {
        name: Fit.of([point["size"] for point in points], [point["seconds"] for point in points])
        for name, points in record["points"].items()
    }


def plot(record: dict[str, Any]) -> Figure:
    """Draw every sweep's points with its fitted line."""
    figure = Figure(figsize=(10, 10), dpi=110, layout="constrained")
    axes = figure.subplots(4, 3).flatten()
    for panel, (name, fit) in zip(axes, fits(record).items(), strict=False):
        points, sweep = record["points"][name], SWEEPS[name]
        sizes = [point["size"] for point in points]
        line = np.geomspace(sizes[0], sizes[-1], 50)
        scale = "log" if sizes[-1] >= 100 * sizes[0] else "linear"
        panel.plot(line, fit.fixed + fit.each * line, color="#4477aa", linewidth=1)
        panel.plot(sizes, [point["seconds"] for point in points], "o", color="#ee6677", markersize=4)
        panel.set(xscale=scale, yscale=scale, title=sweep.title, xlabel=sweep.axis, ylabel="seconds")
        panel.minorticks_off()
        if scale == "linear":
            panel.set_ylim(bottom=0)
        panel.title.set_fontsize(10)
        panel.spines[["top", "right"]].set_visible(False)
    panel = axes[len(record["points"])]
    for name, colour in (("store", "#4477aa"), ("annotations", "#ee6677"), ("plan", "#228833")):
        points = record["points"][name]
        held = [point["peak_mb"] - point["start_mb"] for point in points]
        panel.plot(
            [point["size"] for point in points], held, "o-", color=colour, markersize=4, label=SWEEPS[name].title
        )
    panel.set(xscale="log", title="memory beyond the program's own", xlabel="images", ylabel="MB")
    panel.title.set_fontsize(10)
    panel.legend(frameon=False, fontsize=7)
    panel.spines[["top", "right"]].set_visible(False)
    for unused in axes[len(record["points"]) + 1 :]:
        unused.set_visible(False)
    return figure


if __name__ == "__main__":
    main()
