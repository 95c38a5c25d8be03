"""The data, scores and training runs that a model's config records.

``about["scores"]`` of a captioner has the scores of each data set under its short name, such as ``flickr8k``: the
``split``, the number of ``images``, the ``search``, and ``metrics`` with the ``value`` of each and its 95 % interval
from ``low`` to ``high``. That of a translator has ``{metric: value}`` for each search, that of a detector
``{metric: value}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captioner.store.config import DETECTOR, ONNX, TRANSLATOR, kind_in

_DATASETS = {
    "flickr8k": "Flickr8k",
    "flickr30k": "Flickr30k",
    "coco": "COCO",
    "multi30k": "Multi30k",
    "pascal-voc-2012": "Pascal VOC 2012",
}


@dataclass(frozen=True)
class Result:
    """The scores of a model on one data set.

    Attributes:
        data: short name of the data set, such as ``flickr8k``; names joined by ``+`` if the scores are the means over
            several; empty if it is not recorded.
        split: its split.
        search: the search that wrote the captions or translations; empty for a detector.
        scores: fractions by metric.
    """

    data: str
    split: str
    search: str
    scores: dict[str, float]


def datasets_of(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the data that a model was trained on, first that on which it was scored."""
    return _short_names(config.get("about", {}).get("data"))


def _short_names(text: Any) -> list[str]:
    """Return the short names of data sets, given their names joined by ``+`` or commas, each once."""
    names = str(text or "").replace("+", ",").split(",")
    short = (re.sub(r"[^\w.-]+", "-", name.strip().partition("/")[0].lower()) for name in names)
    return list(dict.fromkeys(name for name in short if name))


def dataset_name(dataset: str) -> str:
    """Return a data set's name, or several joined by ``+``, as the authors write it, if it is known."""
    return " and ".join(_DATASETS.get(name, name) for name in dataset.split("+"))


def results_of(config: Mapping[str, Any]) -> list[Result]:
    """Return the recorded scores of a model with its own search, for each data set; an export has none.

    Of a model that was only scored in training, these are the score of the saved epoch and the search that was used
    there.
    """
    about, kind = config.get("about", {}), kind_in(config)
    scores = about.get("scores") or {}
    names = _short_names(about.get("dev_data")) or datasets_of(config)[:1]
    data, split = "+".join(names), about.get("dev", "validation")
    if kind == ONNX:
        return []
    if kind == DETECTOR:
        return [Result(data, split, "", dict(scores))] if scores else []
    own = search_name(config["model"]["search"]["width"])
    if kind == TRANSLATOR and own in scores:
        return [Result(data, split, own, dict(scores[own]))]
    if found := [
        Result(
            name, each["split"], each["search"], {metric: score["value"] for metric, score in each["metrics"].items()}
        )
        for name, each in scores.items()
        if isinstance(each, dict) and "metrics" in each
    ]:
        return found
    for metric in ("CIDEr", "BLEU"):
        if (score := about.get(f"dev_{metric.lower()}")) is not None:
            recipe = about.get("recipe")
            searched = search_name(recipe["evaluation"]["search"]["width"]) if recipe else "unknown"
            return [Result(data, split, searched, {metric: score})]
    return []


def search_name(width: int) -> str:
    """Name a search as the tables do."""
    return "greedy" if width == 1 else f"beam {width}"


def stages_of(about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the records of the stages of a model's training, the first one first."""
    return [*(stages_of(about["start"]) if about.get("start") else []), about]


def runs_of(about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the records of all training runs behind a model, the first one first.

    Those are the runs of its stages, and of the model from which a stage took its encoder.
    """
    runs: list[Mapping[str, Any]] = []
    for stage in stages_of(about):
        donors = runs_of(stage["encoder_from"]) if stage.get("encoder_from") else []
        runs += [run for run in (*donors, stage) if run not in runs]
    return runs


def minutes_by_device(about: Mapping[str, Any]) -> dict[str, float]:
    """Return the minutes of all training runs whose weights a model contains, by :func:`device_of` each run."""
    minutes: dict[str, float] = {}
    for run in runs_of(about):
        minutes[device_of(run)] = minutes.get(device_of(run), 0.0) + run.get("minutes", 0.0)
    return minutes


def training_time(about: Mapping[str, Any]) -> str:
    """Write :func:`minutes_by_device` as ``265 minutes on two CPU cores and 5 minutes on one NVIDIA H200``."""
    return " and ".join(f"{minutes:.0f} minutes on {name}" for name, minutes in minutes_by_device(about).items())


def device_of(run: Mapping[str, Any]) -> str:
    """Name the device of a training run and, if they are recorded, how many cores or GPUs it used."""
    name, count = run.get("device", "cpu"), run.get("devices")
    if name == "cpu" and count is None:
        return "a CPU"
    number = {1: "one", 2: "two", None: "one"}.get(count, str(count))
    kind = "CPU core" if name == "cpu" else name
    return f"{number} {kind}" + ("s" if name == "cpu" and count != 1 else "")
