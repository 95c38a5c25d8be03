"""Put a trained model into ``assets/`` with its scores and a model card: a captioner in eight bits, or a translator.

Of several runs, for example the two stages of training, the best on dev is shipped. The scores are those of the weights
as stored.

Example: python scripts/ship.py runs/transformer runs/transformer-self-critical transformer --data data/flickr8k

Example: python scripts/ship.py runs/multi30k_transformer translator_en_de --data data/multi30k

A model folder may be given instead of a run. The shipped one itself is scored again and keeps its search:

Example: python scripts/ship.py assets/show_tell show_tell --data data/flickr8k
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
from captioner.features import FeatureStore
from captioner.model import CaptionModel
from captioner.model.checkpoint import load_model, save_model
from captioner.store import CARD, TRANSLATOR, read_config
from captioner.translation.bleu import evaluate_translation
from captioner.translation.model import TranslationModel, load_translator, save_translator

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards

ASSETS = Path(__file__).resolve().parent.parent / "assets"
WIDTHS = (1, 3, 5)
Scores = dict[int, dict[str, float]]  # by the beam's width


def main() -> None:
    """Score, choose, convert, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of training runs, or of models")
    parser.add_argument("name", choices=[*cards.TITLES, *cards.TRANSLATORS], help="name in assets/")
    parser.add_argument("--data", type=Path, required=True, help="Flickr8k; of a translator its sentences")
    parser.add_argument("--features", type=Path, help="feature store of the dev photos")
    parser.add_argument(
        "--encoder-bits",
        type=int,
        choices=(8, 16),
        default=16,
        help="of the encoder's tuned stages; 16 (default) keeps them equal to those of other models with this encoder",
    )
    parser.add_argument("--length-normalisation", type=float, help="default: 0.7, of translators 1")
    arguments = parser.parse_args()
    sources = [run / "best" if (run / "best").is_dir() else run for run in arguments.runs]
    ship = translator if arguments.name in cards.TRANSLATORS else captioner
    folder = ship(sources, arguments)
    print(folder, f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB")


def captioner(sources: list[Path], arguments: argparse.Namespace) -> Path:
    """Ship the best of some captioners."""
    dev = read_captions(arguments.data).split("dev")
    normalisation = 0.7 if arguments.length_normalisation is None else arguments.length_normalisation
    half = ("encoder.",) if arguments.encoder_bits == 16 else ()
    candidates: list[tuple[Path, CaptionModel, Scores]] = []
    for source in sources:
        with tempfile.TemporaryDirectory() as temporary:
            folder = save_model(Path(temporary) / "model", load_model(source), dtype=torch.int8, half=half)
            model = load_model(folder)
        features = FeatureStore(arguments.features, encoder=model.encoder) if arguments.features else None
        scores: Scores = {}
        for width in WIDTHS:
            found = evaluate(
                Captioner.from_model(model, width=width, length_normalisation=normalisation),
                dev,
                features=features,
                metrics=("BLEU", "METEOR", "ROUGE-L", "CIDEr"),
            ).scores
            scores[width] = found
            show(source, width, scores)
        candidates.append((source, model, scores))
    source, model, scores = max(candidates, key=lambda candidate: best(candidate[2], "CIDEr")[1])
    about = read_config(source)["about"]
    if source.resolve() != ASSETS / arguments.name:  # a new model
        search = {"width": best(scores, "CIDEr")[0], "length_normalisation": normalisation}
        model.config = model.config.model_copy(update={"search": model.config.search.model_copy(update=search)})
    about["scores"] = {cards.search_name(width): dict(values) for width, values in scores.items()}
    about["decoder_parameters"] = model.decoder_size
    about |= {"bits": 8, "encoder_bits": arguments.encoder_bits}
    folder = save_model(ASSETS / arguments.name, model, about=about, dtype=torch.int8, half=half)
    files.write_text(folder / CARD, cards.card(folder))
    return folder


def translator(sources: list[Path], arguments: argparse.Namespace) -> Path:
    """Ship the best of some translators, in sixteen bits."""
    normalisation = 1.0 if arguments.length_normalisation is None else arguments.length_normalisation
    candidates: list[tuple[Path, TranslationModel, Scores, dict[str, str]]] = []
    for source in sources:
        with tempfile.TemporaryDirectory() as temporary:
            model = load_translator(
                save_translator(Path(temporary) / "model", load_translator(source), dtype=torch.float16)
            )
        scores: Scores = {}
        signatures: dict[str, str] = {}
        for width in WIDTHS:
            made = Translator(model, width=width, length_normalisation=normalisation)
            found, _ = evaluate_translation(made, arguments.data)
            scores[width] = {metric: score.value for metric, score in found.scores.items()}
            signatures = found.signatures
            show(source, width, scores)
        candidates.append((source, model, scores, signatures))
    source, model, scores, signatures = max(candidates, key=lambda candidate: best(candidate[2], "BLEU")[1])
    about = read_config(source, TRANSLATOR)["about"]
    search = {"width": best(scores, "BLEU")[0], "length_normalisation": normalisation}
    model.config = model.config.model_copy(update={"search": model.config.search.model_copy(update=search)})
    about["scores"] = {cards.search_name(width): values for width, values in scores.items()}
    about["signatures"] = signatures
    about["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    folder = save_translator(ASSETS / arguments.name, model, about=about, dtype=torch.float16)
    files.write_text(folder / CARD, cards.translator_card(folder))
    return folder


def best(scores: Scores, metric: str) -> tuple[int, float]:
    """Return the beam width with the best score by a metric, and the score."""
    width = max(scores, key=lambda width: scores[width][metric])
    return width, scores[width][metric]


def show(source: Path, width: int, scores: Scores) -> None:
    """Print the scores of a width in percent."""
    percents = {metric: round(100 * value, 1) for metric, value in scores[width].items()}
    print(f"{source}, {cards.search_name(width)}: {percents}", flush=True)


if __name__ == "__main__":
    main()
