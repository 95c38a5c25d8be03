"""Score every shipped captioner once, by one path, into one record: ``assets/benchmark.json``.

``captioner benchmark`` scores the models on Flickr8k dev and COCO dev and times them, ``captioner ground`` compares the
attention of those that attend with the boxes of the grounding test (``docs/grounding_test.txt``). Each model uses its
own search. The README's table, the tables of the documentation, and the scores in each model's ``config.json`` and
card are written from the record alone. ``scripts/readme.py`` runs this; a test compares the record's SHA-256 of each
model's files with the model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner import files
from captioner.benchmark import markdown, report_tables
from captioner.benchmark.cost import ModelCost
from captioner.benchmark.groups import Group
from captioner.decoders import DECODERS
from captioner.evaluation.bootstrap import Difference, Interval
from captioner.store import FILES, change_about, read_config, shipped
from captioner.store.card import markdown_table
from captioner.store.history import dataset_name, minutes_by_device, search_name

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards

ROOT = Path(__file__).resolve().parent.parent
RECORD, GROUNDING_TEST = ROOT / "assets" / "benchmark.json", ROOT / "docs" / "grounding_test.txt"
MODELS = [name for name in cards.TITLES if name in shipped()]  # in the lineage's order
ATTENTION = "mean"  # of a Transformer's heads; see captioner ground --heads
#: the baselines of attention as :mod:`captioner.evaluation.grounding` names them, and as the tables do
BASELINES = {"uniform": "uniform attention", "centre": "the middle"}
Record = dict[str, Any]


@dataclass(frozen=True)
class DevSet:
    """A set of images on which models are chosen and scored (``docs/protocol.md``).

    Attributes:
        path: where its captions are in the folder of all data.
        split: its split.
    """

    path: str
    split: str


DEV_SETS = {"flickr8k": DevSet("flickr8k", "dev"), "coco": DevSet("coco/dataset_coco.json", "val")}


def measure(data: Path, output: Path, *, rounds: int) -> Record:
    """Score, ground and time the shipped captioners.

    Args:
        data: the folder with ``flickr8k``, ``coco`` and ``boxes``; see ``scripts/train_shipped.sh``.
        output: folder for the two benchmarks, each in a separate folder with the cache of its captions.
        rounds: how often each model is timed; 0 leaves out the time and memory.

    Raises:
        SystemExit: the boxes are not those of the grounding test.
        CalledProcessError: a model cannot be scored.
    """
    check_grounding_test(data / "boxes")
    found = {}
    for name, dev in DEV_SETS.items():
        folder = output / name
        timed = rounds if name == next(iter(DEV_SETS)) else 0
        sets = ["--data", data / dev.path, "--split", dev.split, "--output", folder]
        _captioner("benchmark", *MODELS, *sets, "--rounds", timed, "--photos", 0)
        found[name] = json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))
    grounded = {name: _grounding(name, data / "boxes", output) for name in MODELS if _attends(name)}
    first = next(iter(found.values()))
    record = {
        **{name: first[name] for name in ("captioner", "resamples", "seed")},
        "models": {name: identity(shipped()[name]) for name in MODELS},
        "scores": {name: _scores(each) for name, each in found.items()},
        "grounding": {
            "attention": ATTENTION,
            # A model whose captions name nothing that has a box has no attention to compare.
            "models": {name: each for name, each in grounded.items() if each["scores"]},
        },
        "rounds": rounds,
        "machine": first["machine"] if rounds else None,
        "cost": first["cost"],
    }
    rounded: Record = _rounded(record)
    return rounded


def _captioner(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "captioner", *map(str, words)], check=True)


def _attends(name: str) -> bool:
    return bool(DECODERS[read_config(shipped()[name])["model"]["decoder"]["name"]].attends)


def _grounding(name: str, boxes: Path, output: Path) -> Record:
    """Return what a model's attention scores on the grounding test, for the captions that it generates."""
    scores = output / f"grounding_{name}.json"
    data = (boxes / "captions_val.json", boxes / "instances_val.json", "--images", boxes / "images", "--split", "val")
    _captioner("ground", name, *data, "--heads", ATTENTION, "--output-scores", scores)
    found = json.loads(scores.read_text(encoding="utf-8"))
    return {"images": found["images"], **{key: found["grounding"]["generated"][key] for key in _GROUNDED}}


_GROUNDED = ("words", "photos", "absent", "scores")


def check_grounding_test(boxes: Path) -> None:
    """Check that the captioned images of a folder with boxes are exactly those of the grounding test.

    Raises:
        SystemExit: they are not.
    """
    lines = GROUNDING_TEST.read_text(encoding="utf-8").splitlines()
    listed = {int(line) for line in lines if not line.startswith("#")}
    read = [json.loads((boxes / name).read_text(encoding="utf-8")) for name in _BOX_FILES]
    captioned = {image["id"] for image in read[0]["images"]}
    there = {image.get("coco_id") for image in read[1]["images"] if image["id"] in captioned}
    if there != listed:
        sys.exit(
            f"{boxes}: {' and '.join(_BOX_FILES)} have {len(there - listed)} captioned images that are not in "
            f"{GROUNDING_TEST} and lack {len(listed - there)} that are; keep exactly the listed ones (coco_id)"
        )


_BOX_FILES = ("captions_val.json", "instances_val.json")


def _scores(benchmark: Record) -> Record:
    """Return the part of a benchmark's record that tables show: scores over all images, and diversity."""
    quality = benchmark["quality"]
    whole = quality["groups"][0]
    if quality["left_out"]:
        sys.exit(f"{benchmark['data']}: {quality['left_out']} images cannot be read: {quality['unreadable'][:3]}")
    return {
        "split": benchmark["split"],
        "images": whole["photos"],
        **{part: whole[part] for part in ("scores", "differences")},
        **{part: quality[part] for part in ("diversity", "people")},
    }


def identity(folder: Path) -> Record:
    """Return the values that determine the scores of a model: the SHA-256 of its files, and its search."""
    config = read_config(folder)
    return {
        "files": {name: listed["sha256"] for name, listed in config[FILES].items()},
        "search": config["model"]["search"],
    }


def _rounded(value: Any) -> Any:
    """Round all numbers of a record to six significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def with_costs_of(record: Record, before: Record) -> Record:
    """Return a record without time and memory with those that an earlier one has of the same models.

    Speeds are relative to the first model's, so there are none if that one is new.
    """
    costs = {
        name: cost for name, cost in before["cost"].items() if record["models"].get(name) == before["models"][name]
    }
    if next(iter(record["models"])) not in costs:
        costs = {}
    return {**record, "rounds": before["rounds"], "machine": before["machine"], "cost": costs}


def about_scores(record: Record, name: str) -> Record:
    """Return the entries of a model's ``about`` that hold its scores; see :mod:`captioner.store.history`."""
    entries: Record = {
        "scores": {
            data: {
                "split": each["split"],
                "images": each["images"],
                "search": search_name(record["models"][name]["search"]["width"]),
                "metrics": each["scores"][name],
                "distinct_captions": distinct_captions(each, name),
                "distinct_words": each["diversity"][name]["vocabulary"],
            }
            for data, each in record["scores"].items()
        }
    }
    if name in record["grounding"]["models"]:
        entries["grounding"] = record["grounding"]["models"][name]
    return entries


def distinct_captions(scores: Record, name: str) -> int:
    """Return how many of a model's captions on a dev set differ from each other."""
    return round(scores["diversity"][name]["distinct_captions"] * scores["images"])


def keep(record: Record) -> None:
    """Save a new record, and write its scores into the configs of the models."""
    if not record["rounds"] and RECORD.exists():
        record = with_costs_of(record, read())
    files.write_json(RECORD, record, indent=1)
    for name in record["models"]:
        change_about(shipped()[name], **about_scores(record, name))


def read() -> Record:
    """Read ``assets/benchmark.json``."""
    record: Record = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def selection_score(record: Record, name: str) -> float:
    """Return the mean of a model's CIDEr on the dev sets (``docs/protocol.md``)."""
    found = [each["scores"][name]["CIDEr"]["value"] for each in record["scores"].values()]
    return float(sum(found) / len(found))


def _percent(value: Mapping[str, float]) -> str:
    return Interval(**value).percent()


def _gain(value: Mapping[str, float]) -> str:
    text = Interval(**value).percent()
    return text if text.startswith("-") else f"+{text}"


def scores_table(record: Record) -> str:
    """Write the README's table: the shipped captioners with their own search, the best by the selection score last.

    A line below it has the number of candidates of each model that ``scripts/ship.py`` chose.
    """
    domains = record["scores"]
    chosen = ("BLEU-4", "METEOR", "CIDEr")
    first = next(iter(domains.values()))
    rows = []
    for name in sorted(record["models"], key=lambda name: selection_score(record, name)):
        about = read_config(shipped()[name])["about"]
        figures = [
            _percent(score) if metric == "CIDEr" else f"{100 * score['value']:.1f}"
            for each in domains.values()
            for metric, score in ((metric, each["scores"][name][metric]) for metric in chosen)
        ]
        grounding = record["grounding"]["models"].get(name)
        rows.append(
            (
                f"`{name}`",
                search_name(record["models"][name]["search"]["width"]),
                *figures,
                str(distinct_captions(first, name)),
                _gain(grounding["scores"]["pointing over centre"]) if grounding else "–",
                f"{about['decoder_parameters'] / 1e6:.1f}",
                " + ".join(f"{spent:.0f} on {device}" for device, spent in minutes_by_device(about).items()),
            )
        )
    head = (
        "model",
        "search",
        *(f"{dataset_name(data)} {metric}" for data in domains for metric in chosen),
        "distinct captions",
        "pointing over the middle",
        "M parameters",
        "minutes",
    )
    return "\n\n".join([markdown_table(head, rows, text_columns=2), *_candidates(list(record["models"]))])


def _candidates(models: Sequence[str]) -> list[str]:
    """Write how many candidates were compared for each model, if that is recorded for one."""
    abouts = {name: read_config(shipped()[name])["about"] for name in models}
    numbers = [
        f"`{name}` {about['candidates']['models'] * len(about['candidates']['beams'])}"
        for name, about in abouts.items()
        if "candidates" in about
    ]
    if not numbers:
        return []
    return [f"Candidates (models times beam widths) from which each was chosen: {', '.join(numbers)}."]


def domain_table(record: Record, data: str) -> str:
    """Write the table of all metrics on one dev set."""
    part = record["scores"][data]
    scores, differences = (
        {model: {metric: kind(**value) for metric, value in values.items()} for model, values in part[name].items()}
        for name, kind in (("scores", Interval), ("differences", Difference))
    )
    found = report_tables.scores(Group(dataset_name(data), part["images"], scores, differences))
    return f"{markdown.write(found)}\n\n{found.note}"


def diversity_table(record: Record) -> str:
    """Write the table of the diversity of the captions, next to that of people's first reference."""
    domains = record["scores"]
    head = ["captions of"]
    for data, each in domains.items():
        of = f", {dataset_name(data)}"
        head += [f"distinct captions of {each['images']:,}{of}", f"distinct words{of}", f"words in a caption{of}"]
    rows = []
    for name in (*record["models"], "people"):
        cells = [name]
        for each in domains.values():
            found = each["people"] if name == "people" else each["diversity"][name]
            cells += [
                f"{round(found['distinct_captions'] * each['images']):,}",
                f"{found['vocabulary']:,}",
                f"{found['words']:.1f}",
            ]
        rows.append(cells)
    return markdown_table(head, rows)


def grounding_table(record: Record) -> str:
    """Write the table of the attention of generated captions against boxes, and its gains over the baselines."""
    head = ["model", "words"]
    for metric in ("pointing", "mass"):
        head += [metric, *(f"over {label}" for label in BASELINES.values())]
    rows = []
    for name, found in record["grounding"]["models"].items():
        cells = [f"`{name}`", f"{found['words']:,}"]
        for metric in ("pointing", "mass"):
            cells += [_percent(found["scores"][metric])]
            cells += [_gain(found["scores"][f"{metric} over {baseline}"]) for baseline in BASELINES]
        rows.append(cells)
    return markdown_table(head, rows)


def speed_table(record: Record) -> str:
    """Write the table of speed with its note, or a sentence if these weights have not been timed."""
    costs = {name: ModelCost.of(cost) for name, cost in record["cost"].items()}
    if not costs:
        return "These models have not been timed; `captioner benchmark` times them on your machine."
    found = report_tables.timings(costs)
    return f"{markdown.write(found)}\n\n{found.note}"


def table(name: str) -> str:
    """Write a table from the record: ``scores``, ``scores_`` with a dev set, ``diversity``, ``grounding``, ``speed``.

    Raises:
        KeyError: there is no such table.
    """
    if name.startswith("scores_"):
        return domain_table(read(), name.removeprefix("scores_"))
    return TABLES[name](read())


TABLES = {"scores": scores_table, "diversity": diversity_table, "grounding": grounding_table, "speed": speed_table}
