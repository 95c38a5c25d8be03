"""Put a trained model into ``assets/`` with a model card: a captioner in eight bits, or a translator.

The default captioner also gets its graphs, which run it on a CPU.

A captioner and its beam width are chosen by ``docs/protocol.md``: of several runs, for example the two stages of
training, the one whose last epoch has the highest mean of CIDEr on Flickr8k dev and COCO dev, with its weights as
stored. ``scripts/readme.py`` scores what ships.

Example: python scripts/ship.py runs/transformer runs/transformer-self-critical transformer --data data

A model folder may be given instead of a run. Of translators, a run's best epoch is taken, and the best run by BLEU:

Example: python scripts/ship.py runs/multi30k_transformer translator_en_de --data data
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from captioner import Captioner, Translator, files
from captioner.data.annotations import read_captions
from captioner.evaluation.evaluate import evaluate
from captioner.model import CaptionModel
from captioner.model.checkpoint import load_model, save_model
from captioner.onnx.export import add_graphs, training_images
from captioner.store import CARD, DEFAULT, TRANSLATOR, read_config
from captioner.store.history import dataset_name, search_name
from captioner.translation.bleu import evaluate_translation
from captioner.translation.model import TranslationModel, load_translator, save_translator

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards
import scores

ASSETS = Path(__file__).resolve().parent.parent / "assets"
WIDTHS, CONSENSUS_WIDTHS = (3, 5), (10, 20)  # beam widths; the second ones are tried only with consensus
MIN_GAIN = 0.003  # of a wider beam over a narrower one
PRUNE = 3.0  # of a beam with consensus, chosen once by docs/protocol.md
TRANSLATOR_WIDTHS = (1, 3, 5)
CAPTIONER_NORMALISATION, TRANSLATOR_NORMALISATION = 0.7, 1.0
SCORES = ("scores", "grounding")  # what ``about`` has of other weights than those that are shipped now


def main() -> None:
    """Choose, convert, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of training runs, or of models")
    parser.add_argument("name", choices=[*cards.TITLES, *cards.TRANSLATORS], help="name in assets/")
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder with flickr8k and coco; for a translator, with multi30k"
    )
    arguments = parser.parse_args()
    if arguments.name in cards.TRANSLATORS:
        folder = translator(arguments.runs, arguments.name, arguments.data / "multi30k")
    else:
        folder = captioner(arguments.runs, arguments.name, arguments.data)
    print(folder, f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB")


def checkpoint(run: Path, name: str) -> Path:
    """Return the folder of a run's model, ``last`` or ``best``; a folder of another kind is the model itself."""
    return run / name if (run / name).is_dir() else run


def captioner(runs: list[Path], name: str, data: Path) -> Path:
    """Ship the best of some captioners.

    Args:
        runs: their runs, or model folders.
        name: of the model in ``assets/``.
        data: the folder with the dev sets; see :data:`scores.DEV_SETS`.
    """
    best: tuple[float, int, Path, CaptionModel] | None = None
    for source in (checkpoint(run, "last") for run in runs):
        with tempfile.TemporaryDirectory() as temporary:
            folder = save_model(Path(temporary) / "model", load_model(source), dtype=torch.int8, half=())
            model = load_model(folder)
        widths = (*WIDTHS, *CONSENSUS_WIDTHS) if model.consensus is not None else WIDTHS
        by_width = {width: selection_score(source, model, width, data) for width in widths}
        width = chosen_width(by_width)
        if best is None or by_width[width] > best[0]:
            best = by_width[width], width, source, model
    assert best is not None
    score, width, source, model = best
    print(f"{name}: {source}, {search_name(width)}, {100 * score:.1f}", flush=True)
    search = {"width": width, "length_normalisation": CAPTIONER_NORMALISATION}
    if width in CONSENSUS_WIDTHS:
        search["prune"] = PRUNE
    model.config = model.config.model_copy(update={"search": model.config.search.model_copy(update=search)})
    about = {key: value for key, value in read_config(source)["about"].items() if key not in SCORES}
    about |= {"decoder_parameters": model.decoder_size, "bits": 8, "encoder_bits": 8}
    about["candidates"] = {
        "models": len(runs),
        "beams": [*WIDTHS, *(CONSENSUS_WIDTHS if model.consensus is not None else ())],
    }
    folder = save_model(ASSETS / name, model, about=about, dtype=torch.int8, half=())
    if name == DEFAULT:
        print(f"{name}: {add_graphs(folder, calibrate=training_images(data / 'flickr8k'))}", flush=True)
    files.write_text(folder / CARD, cards.card(folder))
    return folder


def selection_score(source: Path, model: CaptionModel, width: int, data: Path) -> float:
    """Return and print the mean of CIDEr on the dev sets, a fraction."""
    found = {}
    for name, dev in scores.DEV_SETS.items():
        made = Captioner.from_model(model, width=width, length_normalisation=CAPTIONER_NORMALISATION)
        images = read_captions(data / dev.path).split(dev.split)
        found[name] = evaluate(made, images, metrics=("CIDEr",)).scores["CIDEr"]
    mean = sum(found.values()) / len(found)
    each = ", ".join(f"{dataset_name(name)} {100 * score:.1f}" for name, score in found.items())
    print(f"{source}, {search_name(width)}: CIDEr {100 * mean:.1f} ({each})", flush=True)
    return mean


def chosen_width(found: dict[int, float]) -> int:
    """Return the beam width to ship: a wider beam must gain :data:`MIN_GAIN` over the width chosen so far.

    Args:
        found: the selection score of each width, a fraction, the narrowest first.
    """
    chosen, *wider = found
    for width in wider:
        if round(found[width] - found[chosen], 6) >= MIN_GAIN:
            chosen = width
    return chosen


def translator(runs: list[Path], name: str, data: Path) -> Path:
    """Ship the best of some translators, in sixteen bits."""
    candidates: list[tuple[Path, TranslationModel, dict[int, dict[str, float]], dict[str, str]]] = []
    for source in (checkpoint(run, "best") for run in runs):
        with tempfile.TemporaryDirectory() as temporary:
            model = load_translator(
                save_translator(Path(temporary) / "model", load_translator(source), dtype=torch.float16)
            )
        by_width: dict[int, dict[str, float]] = {}
        signatures: dict[str, str] = {}
        for width in TRANSLATOR_WIDTHS:
            made = Translator(model, width=width, length_normalisation=TRANSLATOR_NORMALISATION)
            found, _ = evaluate_translation(made, data)
            by_width[width] = {metric: score.value for metric, score in found.scores.items()}
            signatures = found.signatures
            percents = {metric: round(100 * value, 1) for metric, value in by_width[width].items()}
            print(f"{source}, {search_name(width)}: {percents}", flush=True)
        candidates.append((source, model, by_width, signatures))
    source, model, by_width, signatures = max(candidates, key=lambda candidate: best_bleu(candidate[2])[1])
    about = read_config(source, TRANSLATOR)["about"]
    search = {"width": best_bleu(by_width)[0], "length_normalisation": TRANSLATOR_NORMALISATION}
    model.config = model.config.model_copy(update={"search": model.config.search.model_copy(update=search)})
    about["scores"] = {search_name(width): values for width, values in by_width.items()}
    about["signatures"] = signatures
    about["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    folder = save_translator(ASSETS / name, model, about=about, dtype=torch.float16)
    files.write_text(folder / CARD, cards.translator_card(folder))
    return folder


def best_bleu(found: dict[int, dict[str, float]]) -> tuple[int, float]:
    """Return the beam width with the best BLEU, and that BLEU."""
    width = max(found, key=lambda width: found[width]["BLEU"])
    return width, found[width]["BLEU"]


if __name__ == "__main__":
    main()
