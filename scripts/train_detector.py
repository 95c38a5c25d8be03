"""Train the small detector of the region encoder and put it into ``assets/detector``.

Example: python scripts/train_detector.py --data data/boxes --output runs/detector

DATA holds ``images/``, ``instances_train.json`` and ``instances_val.json`` in COCO's format. An image whose boxes are
incomplete lists its completely labelled categories in ``labelled_categories``. The same command resumes a stopped run.

Letters in shapes: B images, S side of the square in pixels, K boxes of an image, C learned classes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from captioner import files
from captioner.data.batches import prefetch
from captioner.data.images import load_image
from captioner.data.loader import ImageLoader
from captioner.encoders.detector import build_detector, parts
from captioner.encoders.faster_rcnn import Detector, DetectorConfig
from captioner.errors import AnnotationError, CaptionerError, CheckpointError
from captioner.machine.backend import choose_device, device_name, fast_dtype
from captioner.store import CARD, DETECTOR
from captioner.store.weights import write_folder
from captioner.training.log import Log
from captioner.training.recipe import OptimiserConfig, RunConfig
from captioner.training.resume import differences
from captioner.training.schedule import learning_rate_factor
from captioner.training.state import RunProgress as State
from captioner.training.state import load_state, read_settings, save_state

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "detector"
STATE = "state.safetensors"
OTHER, CROWD = 0, -1  # labels of boxes of rare classes, which are not learned, and of crowds


@dataclass(frozen=True)
class LabelledImage:
    """An image and its boxes.

    Attributes:
        path: its file.
        boxes: (K, 4) relative xyxy.
        labels: (K,) from 1, or ``OTHER`` or ``CROWD``.
        listed: (C,) bool, the classes whose objects are all boxed.
        complete: whether the objects of all classes are boxed, the rare ones too.
    """

    path: Path
    boxes: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    listed: np.ndarray[Any, Any]
    complete: bool


def read(folder: Path, split: str) -> dict[str, Any]:
    """Read a split's annotations; every image gets its ``labelled_categories``."""
    path = folder / f"instances_{split}.json"
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        every = [category["id"] for category in data["categories"]]
        for image in data["images"]:
            image.setdefault("labelled_categories", every)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnnotationError(f"{path}: not readable as COCO's instances ({type(error).__name__}: {error})") from None
    return data


def frequent(data: dict[str, Any], least: int) -> dict[str, int]:
    """Return names and ids of the categories that have at least ``least`` boxes, without crowds."""
    counts = Counter(box["category_id"] for box in data["annotations"] if not box.get("iscrowd"))
    return {category["name"]: category["id"] for category in data["categories"] if counts[category["id"]] >= least}


def images_of(folder: Path, data: dict[str, Any], classes: dict[str, int]) -> list[LabelledImage]:
    """Turn annotations into images with boxes."""
    numbers = {category: number for number, category in enumerate(classes.values(), start=1)}
    boxes: dict[int, list[Any]] = {image["id"]: [] for image in data["images"]}
    for box in data["annotations"]:
        boxes[box["image_id"]].append(box)
    photos = []
    for image in data["images"]:
        mine, listed = boxes[image["id"]], set(image["labelled_categories"])
        places = np.array([box["bbox"] for box in mine], dtype=np.float32).reshape(-1, 4)
        places[:, 2:] += places[:, :2]
        places /= np.array([image["width"], image["height"]] * 2, dtype=np.float32)
        labels = [CROWD if box.get("iscrowd") else numbers.get(box["category_id"], OTHER) for box in mine]
        photos.append(
            LabelledImage(
                path=folder / "images" / image["file_name"],
                boxes=places,
                labels=np.array(labels, dtype=np.int64),
                listed=np.array([category in listed for category in numbers]),
                complete=listed >= {category["id"] for category in data["categories"]},
            )
        )
    return photos


def window(chance: random.Random, smallest: float) -> tuple[float, float, float, float]:
    """Draw a crop, relative xyxy: with probability 1/2 the whole image, else sides of ``smallest`` or more."""
    if chance.random() < 0.5:
        return (0.0, 0.0, 1.0, 1.0)
    width, height = chance.uniform(smallest, 1), chance.uniform(smallest, 1)
    x, y = chance.uniform(0, 1 - width), chance.uniform(0, 1 - height)
    return (x, y, x + width, y + height)


def target(photo: LabelledImage, shown: Sequence[float], flip: bool, size: int, trust: float) -> dict[str, Tensor]:
    """Return the targets of a crop for :meth:`Detector.forward`; objects of which little is left are ignored."""
    corner, extent = np.array(shown[:2]), np.array(shown[2:]) - np.array(shown[:2])
    whole = (photo.boxes.reshape(-1, 2, 2) - corner) / extent
    boxes = whole.clip(0, 1)
    area = np.prod(whole[:, 1] - whole[:, 0], axis=1)
    left = np.prod(boxes[:, 1] - boxes[:, 0], axis=1) / np.maximum(area, 1e-9)
    if flip:
        boxes[:, :, 0] = 1 - boxes[:, ::-1, 0]
    boxes *= size
    seen = (left >= 0.4) & ((boxes[:, 1] - boxes[:, 0]).min(axis=1) >= 2)  # the regression takes the logarithm of sides
    labels = photo.labels
    places = boxes.reshape(-1, 4).astype(np.float32)
    ignored = (left > 0) & (~seen | (labels == CROWD))
    return {
        "boxes": torch.from_numpy(places[seen & (labels > 0)]),
        "labels": torch.from_numpy(labels[seen & (labels > 0)]),
        "others": torch.from_numpy(places[seen & (labels == OTHER)]),
        "ignored": torch.from_numpy(places[ignored]),
        "listed": torch.from_numpy(photo.listed),
        "trust": torch.tensor(1.0 if photo.complete else trust),
    }


def batches(
    photos: Sequence[LabelledImage], detector: Detector, options: argparse.Namespace, epoch: int, skip: int
) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
    """Yield an epoch's batches from ``skip`` on: pixels (B, 3, S, S) and targets.

    Random numbers depend only on seed, epoch and image.
    """
    order = list(range(len(photos)))
    random.Random(f"{options.seed} {epoch}").shuffle(order)
    transform = detector.transform

    def load(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        chance = random.Random(f"{options.seed} {epoch} {number}")
        flip, shown = chance.random() < 0.5, window(chance, options.smallest)
        image = load_image(photos[number].path)
        box = [round(share * side) for share, side in zip(shown, image.size * 2, strict=True)]
        box[2:] = [max(high, low + 1) for low, high in zip(box[:2], box[2:], strict=True)]
        exact = [edge / side for edge, side in zip(box, image.size * 2, strict=True)]
        pixels = torch.from_numpy(transform.pixels(image.crop((box[0], box[1], box[2], box[3]))))
        return pixels.flip(-1) if flip else pixels, target(photos[number], exact, flip, transform.size, options.trust)

    with ThreadPoolExecutor(options.workers) as pool:
        for first in range(skip * options.batch, len(order) - options.batch + 1, options.batch):
            pixels, targets = zip(*pool.map(load, order[first : first + options.batch]), strict=True)
            yield torch.stack(pixels), list(targets)


@torch.inference_mode()
def detections(
    detector: Detector, data: dict[str, Any], folder: Path, classes: dict[str, int], batch: int = 8
) -> list[dict[str, Any]]:
    """Detect in all images; return COCO's results."""
    detector.eval()
    device, ids = next(detector.parameters()).device, list(classes.values())
    results = []
    for loaded in ImageLoader(
        [folder / "images" / image["file_name"] for image in data["images"]],
        detector.transform,
        batch_size=batch,
        workers=2,
    ):
        if loaded.errors:
            raise loaded.errors[0][1]
        with autocast(device):
            found = detector(detector.transform.normalise(loaded.pixels.to(device)))
        for position, one in zip(loaded.positions, found, strict=True):
            image = data["images"][position]
            boxes = one["boxes"].cpu() / detector.transform.size * torch.tensor([image["width"], image["height"]] * 2)
            boxes[:, 2:] -= boxes[:, :2]
            for box, label, score in zip(boxes.tolist(), one["labels"].tolist(), one["scores"].tolist(), strict=True):
                results.append({"image_id": image["id"], "category_id": ids[label - 1], "bbox": box, "score": score})
    return results


def average_precision(
    data: dict[str, Any], results: list[dict[str, Any]], classes: dict[str, int]
) -> dict[str, tuple[int, float, float]]:
    """Return each class's number of boxes, AP@0.5 and AP@[.5:.95] by COCO's evaluation, on the images that list it.

    A class without a box is left out.
    """
    found: dict[str, tuple[int, float, float]] = {}
    truth = COCO()
    truth.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a lot
        truth.createIndex()
        ours = truth.loadRes(results) if results else COCO()
        for name, category in classes.items():
            images = [image["id"] for image in data["images"] if category in image["labelled_categories"]]
            count = len(truth.getAnnIds(imgIds=images, catIds=[category], iscrowd=False)) if images else 0
            if not count:
                continue
            judge = COCOeval(truth, ours, "bbox")
            judge.params.imgIds, judge.params.catIds = images, [category]
            judge.evaluate()
            judge.accumulate()
            precision = judge.eval["precision"][:, :, 0, 0, -1]  # thresholds x recalls; all areas, 100 detections
            found[name] = (count, float(precision[0].mean()), float(precision.mean()))
    return found


def autocast(device: torch.device) -> torch.autocast:
    """Round to the type that is fast on the device, if there is one."""
    dtype = fast_dtype(device)
    return torch.autocast(device.type, None if dtype == torch.float32 else dtype, enabled=dtype != torch.float32)


class Run:
    """A training run in its folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.output, self.console = (
            options,
            Path(options.output),
            Console(stderr=True, highlight=False, soft_wrap=True),
        )
        self.device = choose_device(options.device)
        torch.manual_seed(options.seed)
        self.train, self.val = read(options.data, "train"), read(options.data, "val")
        self.classes = frequent(self.train, options.min_boxes)
        if not self.classes:
            raise AnnotationError(f"{options.data}: no category has {options.min_boxes} boxes; lower --min-boxes")
        self.photos = images_of(options.data, self.train, self.classes)
        config = DetectorConfig(backbone=options.backbone, size=options.size)
        self.detector = build_detector(config, list(self.classes), pretrained=not options.random_weights).to(
            self.device
        )
        self.detector.body.trunk[: options.frozen].requires_grad_(False)
        self.average = copy.deepcopy(self.detector).eval().requires_grad_(False)
        body = {id(parameter) for parameter in self.detector.body.parameters()}
        tuned = [parameter for parameter in self.detector.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [
                {
                    "params": [parameter for parameter in tuned if id(parameter) in body],
                    "rate": options.rate * options.backbone_rate,
                },
                {"params": [parameter for parameter in tuned if id(parameter) not in body], "rate": options.rate},
            ],
            lr=0.0,
            weight_decay=options.weight_decay,
        )
        self.schedule = OptimiserConfig(learning_rate=options.rate, warmup=0.05, schedule="cosine")
        self.steps = len(self.photos) // options.batch  # an epoch's
        if not self.steps:
            raise AnnotationError(
                f"{options.data}: {len(self.photos)} photos do not fill a batch of {options.batch}; lower --batch"
            )
        self.state = State()
        unsettled = ("data", "output", "assets", "device", "workers", "save_minutes", "evaluate_every", "ship_only")
        settled = {name: value for name, value in vars(options).items() if name not in unsettled}
        self.settings = json.dumps({**settled, "classes": self.classes}, sort_keys=True)

    def modules(self) -> dict[str, nn.Module]:
        """Return the contents of the state file."""
        return {"detector": self.detector, "average": self.average}

    def save(self) -> None:
        """Write the state for resuming."""
        save_state(self.output / STATE, self.state, self.modules(), self.optimiser, self.settings)

    def run(self) -> None:
        """Train or resume, evaluate, ship."""
        resumed = (self.output / STATE).exists() or self.options.ship_only
        if resumed:
            if found := differences(read_settings(self.output / STATE), json.loads(self.settings)):
                raise CheckpointError(
                    f"{self.output / STATE}: this run was started with other settings of {', '.join(found)}; resume "
                    "with the same ones, or give another --output"
                )
            self.state = load_state(self.output / STATE, self.modules(), self.optimiser)
        self.output.mkdir(parents=True, exist_ok=True)
        log = Log(RunConfig(output=self.output), self.state.step if resumed else None, warnings.warn)
        try:
            if not (self.options.ship_only or self.state.finished):
                self.learn(log)
            self.ship(self.evaluate(log))
        finally:
            log.close()

    def learn(self, log: Log) -> None:
        """Train the remaining epochs."""
        began, before, saved = time.monotonic(), self.state.seconds, time.monotonic()
        total = self.steps * self.options.epochs
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        info = TextColumn("{task.fields[info]}")
        with Progress("{task.description}", *columns, info, console=self.console, refresh_per_second=2) as shown:
            task = shown.add_task("training", total=total, completed=self.state.step, info="")
            for epoch in range(self.state.epoch, self.options.epochs):
                for pixels, targets in prefetch(
                    batches(self.photos, self.detector, self.options, epoch, self.state.batch)
                ):
                    values = self.step(pixels, targets)
                    log.step(self.state.step, values)
                    shown.update(
                        task,
                        completed=self.state.step,
                        info=f"loss {values['loss']:.3f}  {values['images_per_second']:.1f} images/s",
                    )
                    self.state.seconds = before + time.monotonic() - began
                    if self.state.step % 50 == 0:  # for logs without a progress bar
                        each = self.state.seconds / self.state.step
                        losses = "  ".join(
                            f"{name.removeprefix('loss_')} {value:.3f}"
                            for name, value in values.items()
                            if name.startswith("loss")
                        )
                        left = each * (total - self.state.step) / 60
                        self.console.print(
                            f"step {self.state.step:,} of {total:,}: {losses}  {each:.2f} s a step, "
                            f"{left:.0f} minutes left"
                        )
                    if time.monotonic() - saved > 60 * self.options.save_minutes:
                        self.save()
                        saved = time.monotonic()
                self.state.epoch, self.state.batch = epoch + 1, 0
                self.state.finished = self.state.epoch == self.options.epochs
                if not self.state.finished and self.state.epoch % self.options.evaluate_every == 0:
                    self.evaluate(log)
                self.save()

    def step(self, pixels: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, float]:
        """Take a step on one batch."""
        began = time.perf_counter()
        factor = learning_rate_factor(self.state.step, self.steps * self.options.epochs, self.schedule)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * factor
        self.detector.train()
        targets = [{name: tensor.to(self.device) for name, tensor in one.items()} for one in targets]
        with autocast(self.device):
            losses = self.detector(self.detector.transform.normalise(pixels.to(self.device)), targets)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for group in self.optimiser.param_groups for p in group["params"]], 5.0)
        if not torch.isfinite(norm):
            raise SystemExit(
                f"training diverged at step {self.state.step} (the gradient is {float(norm)}); lower --rate"
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.state.step += 1
        self.state.batch += 1
        decay = min(0.998, (1 + self.state.step) / (10 + self.state.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.detector.parameters()), 1 - decay)
        values = {"loss": float(loss.detach()), **{name: float(value.detach()) for name, value in losses.items()}}
        seconds = time.perf_counter() - began
        return {**values, "gradient_norm": float(norm), "images_per_second": len(pixels) / seconds}

    def evaluate(self, log: Log) -> dict[str, tuple[int, float, float]]:
        """Score the averaged weights on the validation images."""
        results = detections(self.average, self.val, self.options.data, self.classes)
        scores = average_precision(self.val, results, self.classes)
        log.evaluation(
            self.state.epoch,
            self.state.step,
            means(scores) | {f"AP@0.5 {name}": score[1] for name, score in scores.items()},
        )
        self.console.print(
            f"epoch {self.state.epoch}: "
            + "  ".join(f"{name} {100 * value:.1f}" for name, value in means(scores).items())
        )
        return scores

    def ship(self, scores: dict[str, tuple[int, float, float]]) -> None:
        """Write the averaged weights in 16 bits, with their scores."""
        options = self.options
        about = {
            "data": "COCO, Pascal VOC 2012",
            "photos": len(self.photos),
            "boxes": sum(int((photo.labels > 0).sum()) for photo in self.photos),
            "validation_photos": len(self.val["images"]),
            "epochs": self.state.epoch,
            "frozen_stages": options.frozen,
            "seed": options.seed,
            "device": device_name(self.device),
            "devices": torch.get_num_threads() if self.device.type == "cpu" else 1,
            "minutes": self.state.seconds / 60,
            "parameters": sum(parameter.numel() for parameter in self.average.parameters()),
            "scores": means(scores),
            "classes": {
                name: {"boxes": count, "AP@0.5": half, "AP@[.5:.95]": mean}
                for name, (count, half, mean) in scores.items()
            },
        }
        weights, config = parts(self.average, half=True)
        config["about"] = about
        folder = write_folder(options.assets, DETECTOR, weights=weights, config=config, others={})
        files.write_text(folder / CARD, cards.detector_card(folder))
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        print(f"{folder}: {size:.1f} MB" + ("; more than 25 MB, too large to be shipped" if size > 25 else ""))


def means(scores: dict[str, tuple[int, float, float]]) -> dict[str, float]:
    """Return the means over classes."""
    count = max(1, len(scores))
    return {
        "mAP@0.5": sum(score[1] for score in scores.values()) / count,
        "mAP@[.5:.95]": sum(score[2] for score in scores.values()) / count,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and train."""
    small = DetectorConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images/ and instances_{train,val}.json")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run: state and log")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder of the finished detector")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--rate", type=float, default=5e-4, help="highest learning rate")
    parser.add_argument("--backbone-rate", type=float, default=0.1, help="share of it for the backbone")
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument(
        "--frozen",
        type=int,
        default=6,
        help="number of the backbone's first stages to freeze, its stem included; an EfficientNet has 9",
    )
    parser.add_argument("--min-boxes", type=int, default=35, help="fewest boxes of a learned class")
    parser.add_argument(
        "--trust",
        type=float,
        default=0.3,
        help="weight of background in images where not all classes are boxed; above 0",
    )
    parser.add_argument("--smallest", type=float, default=0.5, help="smallest side of a random crop, relative")
    parser.add_argument("--backbone", default=small.backbone)
    parser.add_argument(
        "--size", type=int, default=small.size, help="side of the squashed image in pixels, a multiple of 32"
    )
    parser.add_argument("--random-weights", action="store_true", help="start without ImageNet weights (for tests)")
    parser.add_argument("--evaluate-every", type=int, default=4, help="epochs between evaluations")
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--workers", type=int, default=2, help="threads that load images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ship-only", action="store_true", help="evaluate and ship the run without further training")
    try:
        Run(parser.parse_args(arguments)).run()
    except CaptionerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
