"""Caption a data set by hard attention with other choices of the cells, to measure the gain of the model's choice.

Example: python scripts/ablate_hard_attention.py hard_attention data/flickr8k -o runs/cells
         captioner benchmark random=runs/cells/random.json chosen=runs/cells/chosen.json \
             expected=runs/cells/expected.json --data data/flickr8k --split dev -o runs/cells

Writes captions in COCO's results format: ``chosen`` is the model's own most probable cell, ``random`` a cell drawn
uniformly in each step, ``drawn`` a cell drawn from the weights, and ``expected`` the expected vector of soft attention.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from captioner import Captioner
from captioner.data.annotations import read_captions
from captioner.decoders import ShowAttendTell
from captioner.engines.model import model_engine
from captioner.errors import ConfigError
from captioner.evaluation.evaluate import generate
from captioner.evaluation.results import write_results

CHOICES: dict[str, Callable[[Tensor], Tensor]] = {
    "chosen": lambda alpha: alpha.argmax(-1),
    "random": lambda alpha: torch.randint(alpha.shape[-1], alpha.shape[:-1]),
    "drawn": lambda alpha: torch.multinomial(alpha.flatten(0, -2), 1).view(alpha.shape[:-1]),
    "expected": lambda alpha: torch.full(alpha.shape[:-1], -1),
}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model with hard attention on a grid")
    parser.add_argument("data", type=Path, help="a caption data set")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--features", type=Path, help="feature store to read instead of the images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results files")
    options = parser.parse_args()
    captioner = Captioner.from_pretrained(options.model)
    engine = model_engine(captioner.engine, "choose cells")
    decoder = engine.model.decoder
    if not isinstance(decoder, ShowAttendTell) or decoder.config.kind != "hard":
        raise ConfigError(f"{options.model}: has no hard attention")
    data = read_captions(options.data).split(options.split)
    features = engine.open_features(options.features) if options.features else None
    for name, choice in CHOICES.items():
        torch.manual_seed(options.seed)
        with patch.object(ShowAttendTell, "sampler", lambda self, images, captions, choice=choice: choice):
            captions, errors = generate(captioner, data, features=features)
        for error in errors:
            print(f"left out: {error}")
        write_results(options.output / f"{name}.json", captions)
        print(f"{options.output / name}.json: {len(captions):,} captions")


if __name__ == "__main__":
    main()
