"""Make the figures and tables of the README and the documentation again, from the shipped models.

Example: python scripts/readme.py --data data/flickr8k

With ``--data`` the models caption Flickr8k's dev split and are timed, which takes minutes; ``assets/benchmark.json``
keeps the result. Without it, figures and tables are made from the files in ``assets/``. The README holds its table of
scores; the documentation's tables are written when the site is built (``scripts/docs/inline.py``). The translators'
scores are in ``assets/translation.json``, which ``scripts/bench_translation.py`` writes, and the tables of
``docs/howto/quality.md`` in ``docs/howto/quality.json`` (``scripts/quality.py``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from captioner import Captioner, Translator, files
from captioner.benchmark import markdown, report_tables
from captioner.benchmark.cost import ModelCost
from captioner.benchmark.groups import Group
from captioner.evaluation.bootstrap import Difference, Interval
from captioner.figures import figure
from captioner.figures.alignment import Alignment
from captioner.store import shipped
from captioner.store.card import device_of

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards
import quality
import small_png

ROOT = Path(__file__).resolve().parent.parent
ASSETS, README = ROOT / "assets", ROOT / "README.md"
IMAGE, HEATMAP, LARGEST = ASSETS / "examples" / "photographer.png", ASSETS / "heatmap.png", 300_000
BENCHMARK, TRANSLATION = ASSETS / "benchmark.json", ASSETS / "translation.json"
SENTENCE, ALIGNMENT = "Two young children are playing with a big brown dog on the beach.", ASSETS / "alignment.png"
METRICS = ("BLEU", "chrF")
MODELS = [name for name in cards.TITLES if name in shipped()]  # in the lineage's order


def draw(drawn: Image.Image, path: Path) -> None:
    """Save a figure and print its size."""
    size = small_png.save_png(drawn, path, colours=256, largest=LARGEST)
    print(f"{path.relative_to(ROOT)}: {size:,} bytes")


def keep(record: dict[str, Any]) -> None:
    """Save the part of a benchmark's record that the tables show: scores over all images, costs and the machine."""
    whole = {name: record["quality"]["groups"][0][name] for name in ("name", "photos", "scores", "differences")}
    about = {name: record[name] for name in ("captioner", "data", "split", "resamples", "seed", "rounds")}
    files.write_json(BENCHMARK, {**about, "quality": whole, "cost": record["cost"]}, indent=1)


def benchmark_tables(record: dict[str, Any]) -> str:
    """Write the tables of quality and of speed, each with its note."""
    scores, differences = (
        {
            model: {name: kind(**value) for name, value in values.items()}
            for model, values in record["quality"][part].items()
        }
        for part, kind in (("scores", Interval), ("differences", Difference))
    )
    whole = Group(record["quality"]["name"], record["quality"]["photos"], scores, differences)
    costs = {name: ModelCost.of(cost) for name, cost in record["cost"].items()}
    chosen = report_tables.scores(whole), report_tables.timings(costs)
    return "\n\n".join(text for table in chosen for text in (markdown.write(table), table.note))


def translation_table(record: dict[str, Any]) -> str:
    """Write the table of the translators, with the signatures of their scores."""
    rows = []
    for name, model in record["models"].items():
        scores = [
            f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
            for score in (model["search"][search][metric] for search in ("greedy", "beam 5") for metric in METRICS)
        ]
        speed = model["search"]["greedy"]["sentences_per_second"]
        minutes = f"{model['minutes']:.0f} on {device_of(model)}"
        rows.append((name, *scores, f"{model['parameters'] / 1e6:.1f}", f"{speed:.0f}", minutes))
    searches = (f"{metric}, {search}" for search in ("greedy", "beam 5") for metric in METRICS)
    head = ("model", *searches, "M parameters", "sentences/s, greedy", "minutes")
    signatures = "; ".join(f"{name} `{text}`" for name, text in model["signatures"].items())
    return f"{cards.markdown_table(head, rows)}\n\nIn percent, with 95 % intervals over sentences. {signatures}."


def table(name: str) -> str:
    """Write a table: "benchmark", "scores", "translation", or "quality_" with a name in ``docs/howto/quality.json``.

    Raises:
        KeyError: there is no such table.
    """
    if name == "scores":
        return cards.models_table()
    if name.startswith(quality.PREFIX):
        return quality.write(quality.tables()[name.removeprefix(quality.PREFIX)])
    path, write = {"benchmark": (BENCHMARK, benchmark_tables), "translation": (TRANSLATION, translation_table)}[name]
    return write(json.loads(path.read_text(encoding="utf-8")))


def main() -> None:
    """Read the command line and make figures and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of Flickr8k")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmark"), help="folder of the benchmark (default: %(default)s)"
    )
    parser.add_argument(
        "--features", type=Path, action="append", default=[], help="feature store of the dev images; one per encoder"
    )
    parser.add_argument("--rounds", type=int, default=30, help="how often each model is timed (default: %(default)s)")
    arguments = parser.parse_args()
    draw(figure(Captioner.from_pretrained()(IMAGE), width=900).image(), HEATMAP)
    draw(Alignment(Translator.for_language("de")(SENTENCE)).sheet().image(), ALIGNMENT)
    if arguments.data is not None:
        data = ["--data", str(arguments.data), "--split", "dev", "--output", str(arguments.output)]
        data += ["--rounds", str(arguments.rounds)]
        for store in arguments.features:
            data += ["--features", str(store)]
        subprocess.run([sys.executable, "-m", "captioner", "benchmark", *MODELS, *data], check=True)
        keep(json.loads((arguments.output / "benchmark.json").read_text(encoding="utf-8")))
    files.write_text(README, cards.put_between(README.read_text(encoding="utf-8"), "scores", table("scores")))


if __name__ == "__main__":
    main()
