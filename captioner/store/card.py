"""Model cards, the pages of models on the hub, written from the config alone.

The first lines are metadata for the hub: the task, the training data and the scores
(``model-index``). A score is on a card only if it is in the config's ``about``; an export has none, as they were
measured on the model that it was made from.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from captioner.store.config import CAPTIONER, DETECTOR, ONNX, TRANSLATOR, kind_in
from captioner.store.history import (
    dataset_name,
    datasets_of,
    device_of,
    results_of,
    runs_of,
    search_name,
    stages_of,
    training_time,
)

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
OBJECTIVES = {
    "cross_entropy": "Cross-entropy",
    "self_critical": "Self-critical training (Rennie et al. 2017) on CIDEr-D",
}
#: the hub's name of the task, ours, and that of the class that loads the model
_TASKS = {
    CAPTIONER: ("image-to-text", "Image captioning", "Captioner"),
    ONNX: ("image-to-text", "Image captioning", "Captioner"),
    TRANSLATOR: ("translation", "Translation", "Translator"),
    DETECTOR: ("object-detection", "Object detection", ""),
}
_ENGLISH = {"flickr8k", "flickr30k", "coco"}  # whose captions are in English
_HUB_METRICS = {"BLEU": "bleu", "METEOR": "meteor", "ROUGE-L": "rouge", "CIDEr": "cider", "chrF": "chrf"}
_WIDTH = 119


def metadata(config: Mapping[str, Any], name: str, *, license: str | None = None) -> str:
    """Return the metadata of a model as YAML, for the top of its card.

    Args:
        config: the model's ``config.json``.
        name: of the model.
        license: the hub's identifier of the licence of the weights, if it is known.
    """
    from huggingface_hub import EvalResult, ModelCardData

    kind, model = kind_in(config), config["model"]
    task, task_name, _ = _TASKS[kind]
    datasets = datasets_of(config)
    results = [
        EvalResult(
            task_type=task,
            task_name=task_name,
            dataset_type=result.data,
            dataset_name=config["about"]["data"] if kind == DETECTOR else dataset_name(result.data),
            dataset_split=result.split,
            metric_type=_hub_metric(metric),
            metric_name=metric,
            metric_value=round(100 * value, 1),
            metric_args={"search": result.search} if result.search else None,
        )
        for result in results_of(config)
        if result.data and "+" not in result.data  # the hub has no place for means over data sets
        for metric, value in result.scores.items()
    ]
    tags = {CAPTIONER: ["image-captioning"], ONNX: ["image-captioning", "onnx"]}.get(kind, [])
    if "decoder" in model:
        tags.append(model["decoder"]["name"].replace("_", "-"))
    languages = (
        [model["source"], model["target"]]
        if kind == TRANSLATOR
        else []
        if kind == DETECTOR
        else ["en"] * bool(_ENGLISH & set(datasets))
    )
    languages = [language for language in languages if re.fullmatch("[a-z]{2,3}", language)]  # the hub refuses others
    data = ModelCardData(
        license=license,
        library_name="captioner",
        pipeline_tag=task,
        language=languages or None,
        datasets=datasets or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=tags or None,
        model_name=name,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _hub_metric(metric: str) -> str:
    return _HUB_METRICS.get(metric.split("-")[0] if metric.startswith("BLEU") else metric, metric.split("@")[0].lower())


def default(config: Mapping[str, Any], name: str) -> str:
    """Return the card of a model that nobody wrote one for.

    Args:
        config: the model's ``config.json``.
        name: of the model: a folder's, or ``user/model``.
    """
    about = config.get("about", {})
    kind = kind_in(config)
    where = name if "/" in name else "path/to/this/folder"
    use = {
        "Captioner": f"""    from captioner import Captioner
    print(Captioner.from_pretrained("{where}")("photo.jpg"))""",
        "Translator": f"""    from captioner import Translator
    print(Translator.from_pretrained("{where}")("Two dogs run."))""",
        "": "    captioner features DATA --encoder regions --output FEATURES",
    }[_TASKS[kind][2]]
    parts = [
        f"---\n{metadata(config, name.rpartition('/')[2])}\n---",
        f"# {name}",
        textwrap.fill(_summary(config), _WIDTH),
        use,
        *(_exported(config) if kind == ONNX else [f"## Scores\n\n{_scores(config)}"]),
        f"## Recipe\n\n{_recipe(about)}",
        "## Data and terms\n\n"
        + textwrap.fill(
            "This card was generated from `config.json`, which does not contain the licences of the training data and "
            "of the weights. Add both here before you publish the model.",
            _WIDTH,
        ),
        f"## Limits\n\n{textwrap.fill(_LIMITS[kind], _WIDTH)}",
    ]
    return "\n\n".join(parts) + "\n"


_CAPTION_LIMITS = (
    "It describes other subjects than those of its training images in terms of these, often wrongly, and a wrong "
    "caption looks like a right one. It has the biases of its captions. Do not use it where a wrong description does "
    "harm."
)
_LIMITS = {
    CAPTIONER: _CAPTION_LIMITS,
    ONNX: _CAPTION_LIMITS,
    TRANSLATOR: "Texts unlike its training sentences are often translated wrongly, without a warning.",
    DETECTOR: "Objects of classes that it was not trained on are rarely detected, and then as another class.",
}


def renamed(card: str, config: Mapping[str, Any], name: str) -> str:
    """Return a card under another name if it is :func:`default`'s or there is none; another's is left as it is."""
    return default(config, name) if not card.strip() or card == default(config, title_of(card)) else card


def title_of(card: str) -> str:
    """Return the first heading of a card, which is the model's name; empty if it has none."""
    return next((line.removeprefix("# ") for line in card.splitlines() if line.startswith("# ")), "")


def _summary(config: Mapping[str, Any]) -> str:
    about, kind, model = config.get("about", {}), kind_in(config), config["model"]
    if kind == DETECTOR:
        what = f"A Faster R-CNN on {model.get('backbone')} for captioner's region encoder"
    elif kind == TRANSLATOR:
        what = (
            f"A translator from `{model['source']}` to `{model['target']}`, with the decoder {model['decoder']['name']}"
        )
    else:
        decoder, encoder = model["decoder"]["name"], model["encoder"]
        backbone = f" of {encoder['backbone']}" if "backbone" in encoder else ""
        what = f"An image captioner: the decoder {decoder} over the encoder {encoder['name']}{backbone}"
    size = next(
        (
            f" ({about[unit]:,} {unit}" + (f" with {about['captions']:,} captions" if "captions" in about else "") + ")"
            for unit in ("photos", "pairs")
            if unit in about
        ),
        "",
    )
    data = about.get("data")
    trained = f"It was trained on {data}{size}." if data else "Its training data is not recorded."
    return f"{what}, made with captioner {config['captioner']}. {trained}"


def _exported(config: Mapping[str, Any]) -> list[str]:
    """Describe the source of an exported captioner and the differences from it."""
    source, agreement = config.get("source"), config["agreement"]
    bits = " in eight bits" if config["graphs"]["int8"] else ""
    text = (
        f"It was exported to ONNX{bits} from {f'the captioner `{source}`' if source else 'a captioner'}, runs on "
        "onnxruntime and needs no torch. `encoder.onnx` computes features from pixels, `start.onnx` the decoder's "
        "first state from features, and `step.onnx` the log-probabilities of the next word from a word and a state. "
        "`config.json` has their inputs and outputs, the transform of images, and the training of the model."
    )
    compared = (
        f"Compared with the model on {agreement['photos']} images, with its own search: {agreement['same']} captions "
        f"are the same. At most, features differ by {agreement['features']:.0e} of their norm and log-probabilities by "
        f"{agreement['log_probabilities']:.0e}. The scores of the model were measured before the export and are not "
        "repeated here."
    )
    return ["## The export", textwrap.fill(text, _WIDTH), textwrap.fill(compared, _WIDTH)]


def _scores(config: Mapping[str, Any]) -> str:
    """Write a table of the recorded scores, or a sentence if there are none."""
    results = results_of(config)
    if not results:
        return "It has not been scored."
    metrics = list(results[0].scores)
    if kind_in(config) == DETECTOR:
        row = [f"{100 * value:.1f}" for value in results[0].scores.values()]
        return f"On its validation images, in percent:\n\n{markdown_table(metrics, [row], text_columns=0)}"
    rows = [
        (
            f"{dataset_name(result.data) or 'its data'}, {result.split}",
            result.search,
            *(f"{100 * result.scores[metric]:.1f}" for metric in metrics),
        )
        for result in results
    ]
    text = "In percent. The epoch was chosen on these images, so the scores are slightly optimistic."
    if any("+" in result.data for result in results):
        text += " Scores of several data sets are the means over them."
    return f"{text}\n\n{markdown_table(('data', 'search', *metrics), rows, text_columns=2)}"


def _recipe(about: Mapping[str, Any]) -> str:
    stages = [stage for stage in stages_of(about) if {"recipe", "epoch", "minutes"} <= stage.keys()]
    if not stages:
        return "Not recorded."
    lines = [*stage_lines(stages), ""]
    if len(runs_of(about)) > 1:
        total = f"All training runs that contributed to its weights took {training_time(about)}."
        lines += [textwrap.fill(total, _WIDTH), ""]
    return "\n".join([*lines, "All settings are in `config.json` under `about`."])


def stage_lines(stages: Sequence[Mapping[str, Any]], *, scored: bool = True) -> list[str]:
    """Describe each stage of a training run: recipe, time and, if ``scored``, its score during training."""
    lines: list[str] = []
    for number, stage in enumerate(stages, 1):
        recipe, settings = stage["recipe"], stage["recipe"].get("objective", {})
        name = settings.get("name", "cross_entropy")
        objective = OBJECTIVES.get(name, f"`{name}`")  # one that another file registered
        if settings.get("grounding"):
            objective += " with attention supervised by boxes (Liu et al. 2017)"
        if settings.get("bleu"):
            objective += " and BLEU-4"
        if teacher := stage.get("teacher"):
            both = "human captions and " if teacher["human_captions"] else ""
            objective += f" on {both}captions by `{teacher['name']}`"
        cost = f"{stage['minutes']:.0f} minutes on {device_of(stage)}"
        line = f"{number}. {objective}, epoch {stage['epoch']} of {recipe['epochs']}, {cost}"
        if scored:
            searched = search_name(recipe["evaluation"]["search"]["width"])
            metric = "CIDEr" if "dev_cider" in stage else "BLEU"
            line += f":\n   {metric} {100 * stage[f'dev_{metric.lower()}']:.1f} on dev with {searched}"
        lines.append(line + ".")
    if stages and stages[-1]["recipe"].get("consensus"):
        lines.append(f"{len(lines) + 1}. Consensus: ridge regression of the n-grams in captions of an image.")
    return lines


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Write a Markdown table; all but the first columns are numbers."""
    rule = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))
