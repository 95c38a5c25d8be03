"""Compare translators: BLEU and chrF with intervals, greedy and by beam, and BLEU by the length of the source.

Example: python scripts/bench_translation.py --data data/multi30k seq2seq=runs/multi30k_seq2seq \
attention=runs/multi30k_attention transformer=runs/multi30k_transformer

Results of models that are not given stay, if they are of the same data. It writes ``assets/translation.json``, the
source of the documentation's table (``scripts/readme.py``), and ``assets/translation.png``, the plot of figure 2 of
Bahdanau et al. 2015 (https://arxiv.org/abs/1409.0473).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from captioner import Translator, files
from captioner.benchmark.plot import MARKERS, PALETTE
from captioner.errors import CaptionerError
from captioner.evaluation.bootstrap import intervals
from captioner.store import TRANSLATOR, read_config
from captioner.translation.bleu import measure, score_intervals
from captioner.translation.model import load_translator
from captioner.translation.pairs import ParallelText, read_parallel

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards
import small_png

ASSETS = Path(__file__).resolve().parent.parent / "assets"
RECORD, PLOT = ASSETS / "translation.json", ASSETS / "translation.png"
WIDTHS = (1, 5)
EDGES = (0, 8, 10, 12, 14, 17, 100)  # words of the source, each range up to and including its second edge


def main() -> None:
    """Read the command line, translate, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER", help="a training run or a model's folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with val.en and val.de")
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    data = f"{arguments.data.name}/{arguments.split}"
    kept = files.read_json(RECORD, dict, error=CaptionerError) if RECORD.exists() else {}
    records: dict[str, Any] = kept["models"] if kept.get("data") == data else {}
    for given in arguments.runs:
        name, _, folder = given.partition("=")
        run = Path(folder)
        records[name] = record(run / "best" if (run / "best").is_dir() else run, arguments.data, arguments.split)
        print(name, json.dumps(records[name]["search"]), flush=True)
    files.write_json(RECORD, {"data": data, "models": records}, indent=1)
    small_png.save_png(plot(records), PLOT)


def record(folder: Path, data: Path, split: str) -> dict[str, Any]:
    """Translate a split by every search; return the scores, and the scores by length."""
    about = read_config(folder, TRANSLATOR)["about"]
    model = load_translator(folder)
    text = read_parallel(data, split, source=model.config.source, target=model.config.target)
    sources, references = [pair.source for pair in text.pairs], [pair.target for pair in text.pairs]
    value: dict[str, Any] = {
        **{name: about[name] for name in ("minutes", "epoch", "device", "devices") if name in about},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "search": {},
    }
    for width in WIDTHS:
        texts = [translation.text for translation in Translator(model, width=width)(sources, batch_size=64)]
        scored = score_intervals(texts, references)
        value["search"][cards.search_name(width)] = {
            **{metric: asdict(score) for metric, score in scored.scores.items()},
        }
    return {**value, "signatures": scored.signatures, "by_length": by_length(texts, text)}  # by the widest beam


def by_length(texts: list[str], text: ParallelText) -> list[dict[str, Any]]:
    """Return BLEU of the sentences of each range of source lengths, in words."""
    parts = [part for part in measure(texts, [pair.target for pair in text.pairs]) if part.names == ("BLEU",)]
    words = np.array([len(pair.source.split()) for pair in text.pairs])
    found = []
    for low, high in pairwise(EDGES):
        chosen = np.flatnonzero((words > low) & (words <= high))
        score = intervals(parts, images=chosen, resamples=1000)["BLEU"]
        mean = float(words[chosen].mean())
        found.append({"words": [low + 1, high], "mean": mean, "sentences": len(chosen), "BLEU": asdict(score)})
    return found


def plot(records: dict[str, Any]) -> Figure:
    """Draw BLEU by the length of the source."""
    figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for (name, value), marker, colour in zip(records.items(), MARKERS, PALETTE, strict=False):
        groups = value["by_length"]
        at = [group["mean"] for group in groups]
        axes.plot(at, [100 * group["BLEU"]["value"] for group in groups], marker=marker, color=colour, label=name)
        low, high = ([100 * group["BLEU"][bound] for group in groups] for bound in ("low", "high"))
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("words of the source (mean of each group)")
    axes.set_ylabel("BLEU, 95 % intervals")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
