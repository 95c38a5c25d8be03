"""Regenerate the images and tables of the README from the shipped models.

Example: python scripts/readme.py --data data/flickr8k

With ``--data`` the models caption Flickr8k's dev split and are timed, which takes minutes; the results are stored in
``assets/benchmark.json``. Without it, images and tables are made from the stored results. The translators' scores come
from ``assets/translation.json`` (``scripts/bench_translation.py``).
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
from captioner.assets import shipped
from captioner.benchmark import report, tables
from captioner.benchmark.cost import Cost
from captioner.benchmark.groups import Group
from captioner.evaluation.bootstrap import Difference, Interval
from captioner.figures import figure
from captioner.figures.alignment import Alignment

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards
import pictures

ROOT = Path(__file__).resolve().parent.parent
ASSETS, README = ROOT / "assets", ROOT / "README.md"
PHOTO, PICTURE, LARGEST = ASSETS / "examples" / "photographer.png", ASSETS / "heatmap.png", 300_000
BENCHMARK, TRANSLATION = ASSETS / "benchmark.json", ASSETS / "translation.json"
SENTENCE, ALIGNMENT = "Two young children are playing with a big brown dog on the beach.", ASSETS / "alignment.png"
METRICS = ("BLEU", "chrF")
MODELS = [name for name in cards.TITLES if name in shipped()]  # in the lineage's order


def draw(drawn: Image.Image, picture: Path) -> None:
    """Save an image and print its size."""
    size = pictures.save_png(drawn, picture, colours=256, largest=LARGEST)
    print(f"{picture.relative_to(ROOT)}: {size:,} bytes")


def keep(record: dict[str, Any]) -> None:
    """Reduce a benchmark's record to the README's numbers: scores over all images, costs, and the machine."""
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
    costs = {name: Cost.of(cost) for name, cost in record["cost"].items()}
    chosen = tables.scores(whole), tables.timings(costs)
    return "\n\n".join(text for table in chosen for text in (report.write(table), table.note))


def translation_table(record: dict[str, Any]) -> str:
    """Write the table of the translators, with the signatures of their scores."""
    rows = []
    for name, model in record["models"].items():
        scores = [
            f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
            for score in (model["search"][search][metric] for search in ("greedy", "beam 5") for metric in METRICS)
        ]
        speed = model["search"]["greedy"]["sentences_per_second"]
        trained = f"{model['minutes']:.0f} ({cards.device(model)})"
        rows.append((name, *scores, f"{model['parameters'] / 1e6:.1f}", f"{speed:.0f}", trained))
    searches = (f"{metric}, {search}" for search in ("greedy", "beam 5") for metric in METRICS)
    head = ("model", *searches, "M parameters", "sentences/s, greedy", "minutes")
    signatures = "; ".join(f"{name} `{text}`" for name, text in model["signatures"].items())
    return f"{cards.markdown_table(head, rows)}\n\nIn percent, with 95 % intervals over sentences. {signatures}."


def sections() -> dict[str, str]:
    """Return the text between the README's marks, by their names."""
    record = json.loads(BENCHMARK.read_text(encoding="utf-8"))
    translation = json.loads(TRANSLATION.read_text(encoding="utf-8"))
    return {
        "benchmark": benchmark_tables(record),
        "scores": cards.models_table(),
        "translation": translation_table(translation),
    }


def main() -> None:
    """Read the command line and write images and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of Flickr8k")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmark"), help="folder of the benchmark (default: %(default)s)"
    )
    parser.add_argument(
        "--features", type=Path, action="append", default=[], help="feature store of the dev photos; one per encoder"
    )
    parser.add_argument("--rounds", type=int, default=30, help="how often each model is timed (default: %(default)s)")
    arguments = parser.parse_args()
    draw(figure(Captioner.from_pretrained()(PHOTO), width=900).image(), PICTURE)
    draw(Alignment(Translator.for_language("de")(SENTENCE)).sheet().image(), ALIGNMENT)
    if arguments.data is not None:
        data = ["--data", str(arguments.data), "--split", "dev", "--output", str(arguments.output)]
        data += ["--rounds", str(arguments.rounds)]
        for store in arguments.features:
            data += ["--features", str(store)]
        subprocess.run([sys.executable, "-m", "captioner", "benchmark", *MODELS, *data], check=True)
        keep(json.loads((arguments.output / "benchmark.json").read_text(encoding="utf-8")))
    text = README.read_text(encoding="utf-8")
    for name, inside in sections().items():
        text = cards.put_between(text, name, inside)
    files.write_text(README, text)


if __name__ == "__main__":
    main()
