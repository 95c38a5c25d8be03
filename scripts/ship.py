"""Put a trained captioner into ``assets/``: in eight bits, its dev scores in the config, and a model card.

What is scored is what ships, the weights in eight bits.

Example: python scripts/ship.py runs/flickr8k_show_attend_tell show_attend_tell --data data/flickr8k

A model folder may be given instead of a run, also the shipped one itself, which is then scored again and keeps its
search:

Example: python scripts/ship.py assets/show_tell show_tell --data data/flickr8k
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from captioner import Captioner, files
from captioner.checkpoint import CARD, load_model, read_config, save_model
from captioner.data.annotations import read_captions
from captioner.evaluation.evaluate import evaluate
from captioner.features import FeatureStore

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards

ASSETS = Path(__file__).resolve().parent.parent / "assets"
WIDTHS = (1, 3, 5)


def main() -> None:
    """Score, convert, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the training run, or of a model")
    parser.add_argument("name", choices=list(cards.TITLES), help="name in assets/")
    parser.add_argument("--data", type=Path, required=True, help="Flickr8k")
    parser.add_argument("--features", type=Path, help="feature store of the dev photos")
    parser.add_argument("--length-normalisation", type=float, default=0.7)
    arguments = parser.parse_args()

    source = arguments.run / "best" if (arguments.run / "best").is_dir() else arguments.run
    about = read_config(source)["about"]
    with tempfile.TemporaryDirectory() as temporary:
        model = load_model(save_model(Path(temporary) / "model", load_model(source), dtype=torch.int8))
    features = FeatureStore(arguments.features, encoder=model.encoder) if arguments.features else None
    dev = read_captions(arguments.data).split("dev")
    scores = {}
    for width in WIDTHS:
        captioner = Captioner(model, width=width, length_normalisation=arguments.length_normalisation)
        found = evaluate(captioner, dev, features=features, metrics=("BLEU", "METEOR", "ROUGE-L", "CIDEr")).scores
        assert found is not None  # dev has references
        scores[width] = found.values
        percents = {metric: round(100 * value, 1) for metric, value in found.values.items()}
        print(f"{arguments.name}, {cards.search_name(width)}: {percents}", flush=True)
    if source != arguments.run:  # a new model
        best = max(WIDTHS, key=lambda width: scores[width]["CIDEr"])
        search = {"width": best, "length_normalisation": arguments.length_normalisation}
        model.config = model.config.model_copy(update={"search": model.config.search.model_copy(update=search)})
    about["scores"] = {cards.search_name(width): dict(values) for width, values in scores.items()}
    about["decoder_parameters"] = sum(parameter.numel() for parameter in model.decoder.parameters())
    about["bits"] = 8
    folder = save_model(ASSETS / arguments.name, model, about=about, dtype=torch.int8)
    files.write_text(folder / CARD, cards.card(folder))
    print(folder, f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
