"""Cards: the hub's library can read them, and they state only what the config records."""

from __future__ import annotations

import json
from typing import Any

import pytest
from huggingface_hub import ModelCard

from captioner.store import CAPTIONER, CARD, CONFIG, DETECTOR, ONNX, TRANSLATOR, card, history, kind_of, shipped
from tests.hub import TASKS

CONFIGS: dict[str, dict[str, Any]] = {
    kind: {
        "captioner": "0.1.0",
        "kind": kind,
        "model": {
            "encoder": {"name": "grid", "backbone": "resnet18"},
            "decoder": {"name": "show_tell"},
            "search": {"width": 3},
        },
        "about": {},
    }
    for kind in (CAPTIONER, TRANSLATOR, ONNX)
} | {DETECTOR: {"captioner": "0.1.0", "kind": DETECTOR, "model": {"backbone": "resnet18"}, "about": {}}}
CONFIGS[TRANSLATOR]["model"] |= {"source": "en", "target": "de"}
CONFIGS[ONNX] |= {
    "graphs": {"int8": True},
    "source": "mine",
    "agreement": {"photos": 2, "same": 1, "features": 0.25, "log_probabilities": 0.5},
}
RECIPE = {"epochs": 9, "objective": {"name": "self_critical"}, "evaluation": {"search": {"width": 1}}}
STAGE = {"data": "my photos/train+coco/train", "epoch": 4, "minutes": 12.4, "dev_cider": 0.987, "recipe": RECIPE}


def parsed(text: str) -> Any:
    """Read a card as the hub's library does, which refuses malformed metadata."""
    return ModelCard(text, ignore_metadata_errors=False).data


def figures(data: Any) -> dict[tuple[str, str, str], float]:
    """Return the values of a card's metadata by data set, split and metric."""
    return {
        (result.dataset_type, result.dataset_split, result.metric_name): result.metric_value
        for result in data.eval_results or ()
    }


@pytest.mark.parametrize("name", sorted(shipped(None)))
def test_a_shipped_card_has_the_scores_of_its_config(name: str) -> None:
    folder = shipped(None)[name]
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    data = parsed((folder / CARD).read_text(encoding="utf-8"))
    scores = config["about"]["scores"]
    if kind_of(folder) == CAPTIONER:
        expected = {
            (data_set, each["split"], metric): score["value"]
            for data_set, each in scores.items()
            for metric, score in each["metrics"].items()
        }
        assert {data_set for data_set, *_ in expected} == {"flickr8k", "coco"}
    else:
        if kind_of(folder) == TRANSLATOR:
            width = config["model"]["search"]["width"]
            scores = scores["greedy" if width == 1 else f"beam {width}"]
        first = data.datasets[0]
        expected = {(first, "validation", metric): score for metric, score in scores.items()}
    assert figures(data) == {key: pytest.approx(100 * score, abs=0.05) for key, score in expected.items()}
    assert (data.library_name, data.license, data.model_name) == ("captioner", "apache-2.0", name)
    assert data.pipeline_tag in TASKS and data.datasets and data.metrics
    assert {result.task_type for result in data.eval_results} == {data.pipeline_tag}


def test_a_captioner_is_scored_on_each_data_set() -> None:
    """Both are in the metadata, with their own splits, and in the table."""

    def each(split: str, value: float) -> dict[str, Any]:
        metrics = {"CIDEr": {"value": value, "low": value - 0.1, "high": value + 0.1}}
        return {"split": split, "images": 9, "search": "beam 5", "metrics": metrics}

    scores = {"flickr8k": each("dev", 0.612), "coco": each("val", 0.834)}
    text = card.default(CONFIGS[CAPTIONER] | {"about": STAGE | {"scores": scores}}, "small")
    assert figures(parsed(text)) == {("flickr8k", "dev", "CIDEr"): 61.2, ("coco", "val", "CIDEr"): 83.4}
    assert "| Flickr8k, dev | beam 5 | 61.2 |\n| COCO, val | beam 5 | 83.4 |" in text


def test_a_mean_over_data_sets_is_not_the_score_of_one() -> None:
    text = card.default(CONFIGS[CAPTIONER] | {"about": STAGE | {"dev": "dev", "dev_data": "flickr8k+coco"}}, "run")
    assert figures(parsed(text)) == {}
    assert "| Flickr8k and COCO, dev | greedy | 98.7 |" in text and "means over them" in text
    one = card.default(CONFIGS[CAPTIONER] | {"about": STAGE | {"dev": "dev", "dev_data": "coco"}}, "run")
    assert figures(parsed(one)) == {("coco", "dev", "CIDEr"): 98.7} and "means over" not in one


def test_scores_of_an_older_form_are_not_read() -> None:
    """Older models have them by search; their score in training is left."""
    about = STAGE | {"scores": {"beam 3": {"CIDEr": 0.5}, "greedy": {"CIDEr": 0.4}}}
    assert list(figures(parsed(card.default(CONFIGS[CAPTIONER] | {"about": about}, "small"))).values()) == [98.7]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_card_of_an_unrecorded_model_claims_nothing(kind: str) -> None:
    text = card.default(CONFIGS[kind], "ada/small")
    data = parsed(text)
    assert (data.license, data.datasets, data.eval_results, data.metrics) == (None, None, None, None)
    assert data.language == (["en", "de"] if kind == TRANSLATOR else None)
    assert data.pipeline_tag in TASKS
    assert "not recorded" in text.replace("\n", " ") and ("not been scored" in text or kind == ONNX)
    assert ('from_pretrained("ada/small")' in text) == (kind != DETECTOR)


def test_a_trained_model_is_described_by_its_training() -> None:
    start = STAGE | {"recipe": RECIPE | {"objective": {"name": "cross_entropy"}}, "dev_cider": 0.5}
    text = card.default(CONFIGS[CAPTIONER] | {"about": STAGE | {"start": start, "dev": "val", "photos": 1234}}, "run")
    data = parsed(text)
    assert data.datasets == ["my-photos", "coco"] and data.language == ["en"] and data.model_name == "run"
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_split, result.metric_type, result.metric_value) == (
        "my-photos",
        "val",
        "cider",
        98.7,
    )
    assert result.metric_args == {"search": "greedy"}, "the search that was used in training, not the model's own"
    assert "1. Cross-entropy, epoch 4 of 9, 12 minutes on a CPU:\n   CIDEr 50.0 on dev with greedy." in text
    assert "2. Self-critical training (Rennie et al. 2017) on CIDEr-D" in text and "1,234 photos" in text


def test_the_card_names_boxes_and_consensus() -> None:
    first = STAGE | {"recipe": RECIPE | {"objective": {"name": "cross_entropy", "grounding": 1.0}}}
    last = STAGE | {"recipe": RECIPE | {"consensus": {"rank": 256}}, "start": first}
    lines = card.stage_lines(history.stages_of(last), scored=False)
    assert lines[0].startswith("1. Cross-entropy with attention supervised by boxes (Liu et al. 2017), epoch 4")
    assert lines[2] == "3. Consensus: ridge regression of the n-grams in captions of an image."
    assert len(lines) == 3


def test_an_objective_of_another_file_is_listed_by_its_name() -> None:
    stage = STAGE | {"recipe": RECIPE | {"objective": {"name": "mine"}}}
    assert card.stage_lines(history.stages_of(stage), scored=False)[0].startswith("1. `mine`, epoch 4")


def test_a_card_has_the_time_of_all_runs_if_there_are_several() -> None:
    about = STAGE | {"minutes": 7, "devices": 2, "start": STAGE | {"minutes": 5, "devices": 2}}
    text = card.default(CONFIGS[CAPTIONER] | {"about": about}, "run").replace("\n", " ")
    assert "All training runs that contributed to its weights took 12 minutes on two CPU cores." in text
    assert "All training runs" not in card.default(CONFIGS[CAPTIONER] | {"about": STAGE}, "run"), "it has one run"


def test_an_export_does_not_show_the_scores_of_its_model() -> None:
    text = card.default(CONFIGS[ONNX] | {"about": STAGE | {"scores": {"beam 3": {"CIDEr": 1.23}}}}, "small")
    assert parsed(text).eval_results is None and "123.0" not in text
    assert "in eight bits" in text and "2 images, with its own search: 1 captions" in text.replace("\n", " ")


def test_a_language_that_the_hub_does_not_know_is_left_out() -> None:
    config = CONFIGS[TRANSLATOR] | {"model": CONFIGS[TRANSLATOR]["model"] | {"source": "english"}}
    assert parsed(card.default(config, "small")).language == ["de"]


def test_only_an_own_card_is_renamed() -> None:
    config = CONFIGS[CAPTIONER]
    assert card.renamed(card.default(config, "best"), config, "ada/x") == card.default(config, "ada/x")
    assert card.renamed(" ", config, "ada/x") == card.default(config, "ada/x")
    for theirs in ("# best\n", card.default(config, "best") + "It is mine.\n", "no title"):
        assert card.renamed(theirs, config, "ada/x") == theirs
