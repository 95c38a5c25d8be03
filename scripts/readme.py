"""Score the shipped captioners, and make the figures and tables of the README and the documentation.

Example: python scripts/readme.py --data data

With ``--data``, all captioners are scored on both dev sets and the grounding test and timed, which takes minutes
(``scripts/scores.py``); ``assets/benchmark.json`` keeps the result, and the configs and cards of the models get their
scores. Without it, figures and tables are made from the files in ``assets/``. The README holds its table of scores; the
documentation's tables are written when the site is built (``scripts/docs/inline.py``). The translators' scores are in
``assets/translation.json``, which ``scripts/bench_translation.py`` writes, and the tables of ``docs/howto/quality.md``
in ``docs/howto/quality.json`` (``scripts/quality.py``).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from captioner import Captioner, Translator, files
from captioner.figures import figure
from captioner.figures.alignment import Alignment
from captioner.store.history import device_of

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards
import quality
import scores
import small_png

ROOT = Path(__file__).resolve().parent.parent
ASSETS, README = ROOT / "assets", ROOT / "README.md"
IMAGE, HEATMAP, LARGEST = ASSETS / "examples" / "coffee.jpg", ASSETS / "heatmap.png", 300_000
TRANSLATION = ASSETS / "translation.json"
SENTENCE, ALIGNMENT = "Two young children are playing with a big brown dog on the beach.", ASSETS / "alignment.png"
METRICS = ("BLEU", "chrF")


def draw(drawn: Image.Image, path: Path) -> None:
    """Save a figure and print its size."""
    size = small_png.save_png(drawn, path, largest=LARGEST)
    print(f"{path.relative_to(ROOT)}: {size:,} bytes")


def translation_table(record: dict[str, Any]) -> str:
    """Write the table of the translators, with the signatures of their scores."""
    rows = []
    for name, model in record["models"].items():
        figures = [
            f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
            for score in (model["search"][search][metric] for search in ("greedy", "beam 5") for metric in METRICS)
        ]
        minutes = f"{model['minutes']:.0f} on {device_of(model)}"
        rows.append((name, *figures, f"{model['parameters'] / 1e6:.1f}", minutes))
    searches = (f"{metric}, {search}" for search in ("greedy", "beam 5") for metric in METRICS)
    head = ("model", *searches, "M parameters", "minutes")
    signatures = "; ".join(f"{name} `{text}`" for name, text in model["signatures"].items())
    return f"{cards.markdown_table(head, rows)}\n\nIn percent, with 95 % intervals over sentences. {signatures}."


def table(name: str) -> str:
    """Write a table: one of :func:`scores.table`, "translation", or "quality_" with a name in quality.json.

    Raises:
        KeyError: there is no such table.
    """
    if name == "translation":
        return translation_table(json.loads(TRANSLATION.read_text(encoding="utf-8")))
    if name.startswith(quality.PREFIX):
        return quality.write(quality.tables()[name.removeprefix(quality.PREFIX)])
    return scores.table(name)


def main() -> None:
    """Read the command line, score, and make figures and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with flickr8k, coco and boxes: score the models")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmark"), help="folder of the benchmarks (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=30,
        help="how often each model is timed; 0 keeps the recorded time and memory of models that did not change, for "
        "a machine that does other work (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.data is not None:
        record = scores.measure(arguments.data, arguments.output, rounds=arguments.rounds)
        scores.keep(record)
        cards.write_cards()
    draw(figure(Captioner.from_pretrained()(IMAGE), width=960).image(), HEATMAP)
    draw(Alignment(Translator.for_language("de")(SENTENCE)).sheet().image(), ALIGNMENT)
    files.write_text(README, cards.put_between(README.read_text(encoding="utf-8"), "scores", table("scores")))


if __name__ == "__main__":
    main()
