"""Average the weights of runs that started from the same model: a uniform model soup.

The average of runs with other settings or seeds is often better than each, at the cost of one model (Wortsman 2022,
https://arxiv.org/abs/2203.05482, section 2). Check the scores.

Example: python scripts/soup.py runs/a runs/b --output runs/soup
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from captioner.model.checkpoint import load_model, save_model
from captioner.store import read_config

ORIGINS = ("start", "encoder_from")  # records of other models, kept once if all began with the same


def main() -> None:
    """Read, average, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of training runs, or of models")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model to write")
    arguments = parser.parse_args()
    folders = [run / "best" if (run / "best").is_dir() else run for run in arguments.runs]
    models = [load_model(folder) for folder in folders]
    for model in models:
        model.set_consensus(None)  # n-grams of different models have nothing to average
    first, *others = models
    for folder, model in zip(folders[1:], models[1:], strict=True):
        same = (first.config.encoder, first.config.refiner, first.config.decoder, first.vocabulary)
        if (model.config.encoder, model.config.refiner, model.config.decoder, model.vocabulary) != same:
            sys.exit(f"{folder}: has other settings or words than {folders[0]}; average runs that began with one model")
    with torch.no_grad():
        for mean, *rest in zip(*(model.parameters() for model in models), strict=True):
            mean.copy_(torch.stack([mean, *rest]).mean(0))
    first.tuned_stages = max(model.tuned_stages for model in models)
    about, *abouts = (read_config(folder)["about"] for folder in folders)
    about = {key: value for key, value in about.items() if key not in ("scores", "grounding")}  # of other weights
    averaged = [
        {key: value for key, value in each.items() if key not in ORIGINS or value != about.get(key)} for each in abouts
    ]
    save_model(arguments.output, first, about={**about, "averaged_with": averaged})
    print(f"{arguments.output}: the mean of {1 + len(others)} models")


if __name__ == "__main__":
    main()
