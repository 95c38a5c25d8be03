from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from captioner import Captioner
from captioner.engines.model import model_engine
from captioner.errors import AnnotationError, CheckpointError, ConfigError, EvaluationError, FeatureStoreError
from captioner.evaluation.java import ptb_tokenize
from captioner.features import FeatureStore
from captioner.model import CaptionModel
from captioner.model.checkpoint import load_model
from captioner.store import read_whole
from captioner.training import loop
from captioner.training.cross_entropy import CrossEntropy, CrossEntropyConfig
from captioner.training.fit import CaptionerRun
from captioner.training.fit import train as run
from captioner.training.objective import OBJECTIVES
from captioner.training.recipe import load_config
from captioner.training.state import STATE, RunProgress, save_state
from tests.training.conftest import COLOURS, listening, make_images, make_tiny, split_words


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / STATE)


def identical(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def about_of(folder: Path) -> Any:
    """Return how a model was made, by its config."""
    return json.loads((folder / "config.json").read_text())["about"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to start from, trained in two epochs on the images themselves."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captioner.evaluation.metrics.ptb_tokenize", split_words)
        return run(make_tiny(make_images(folder)), ["epochs=2", "fine_tune.from_epoch=1"], output=folder / "first")


def test_words_of_these_tests_are_split_as_by_the_tokeniser() -> None:
    texts = [
        f"{start}{colour}{end}" for colour in COLOURS for start, end in (("a ", " picture"), ("This one is all ", "."))
    ]
    captions = {"words": texts, "letters": ["一张红色的图片。", "这张图片全是蓝色"], "nothing": [""]}
    assert split_words(captions) == ptb_tokenize(captions)


def test_the_best_model_has_the_minutes_of_the_whole_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best epoch is the first one, as nothing is learned; an hour passes each time the clock is read."""
    monkeypatch.setattr(loop.time, "monotonic", partial(next, count(0, 3600)))
    best = run(tiny, ["epochs=3", "optimiser.learning_rate=1e-30"], output=tmp_path / "run")
    assert about_of(best)["epoch"] == 1 and about_of(best)["devices"] == torch.get_num_threads()
    minutes = about_of(tmp_path / "run" / "last")["minutes"]
    assert about_of(best)["minutes"] == minutes >= 3 * 60
    assert f"{minutes:.0f} minutes on" in (best / "README.md").read_text()
    assert read_whole(best)["files"], "its files are still those that the config lists"


def test_a_trained_model_names_the_objects_in_images(tiny: Path, tmp_path: Path) -> None:
    settings = ["epochs=12", "evaluation.every=4", "fine_tune.from_epoch=1", "fine_tune.learning_rate=0.003"]
    best = run(tiny, settings, output=tmp_path / "run")
    captioner = Captioner.from_pretrained(best)
    texts = captioner([tmp_path / f"{number}.png" for number in range(24, 28)])
    named = [colour in caption.text for colour, caption in zip(("red", "green", "blue", "white"), texts, strict=True)]
    assert sum(named) >= 3, [caption.text for caption in texts]
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 12 * 6
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])
    assert any("dev" in record for record in records)
    assert list((tmp_path / "run" / "curves").iterdir())


def test_chinese_captions_are_learned_and_written_without_spaces(tiny: Path, images: Path, tmp_path: Path) -> None:
    names = {"red": "红", "green": "绿", "blue": "蓝", "white": "白"}
    text = images.read_text()
    for english, chinese in names.items():
        text = text.replace(f"a {english} picture", f"一张{chinese}色的图片。")
        text = text.replace(f"this one is all {english}", f"这张图片全是{chinese}色")
    images.write_text(text)
    events, heard = listening()
    best = run(tiny, ["epochs=2", "fine_tune.from_epoch=1"], output=tmp_path / "run", events=events)
    assert "17 words, 100.0% of those in the captions" in heard[0]  # 13 characters, 4 special ones
    captioner = Captioner.from_pretrained(best)
    assert not any(" " in captioner(tmp_path / f"{number}.png").text for number in range(4))
    words = captioner.vocabulary
    assert words.sentence(words.encode("这张图片全是红色")) == "这张图片全是红色。"


def test_data_sets_select_the_best_epoch_by_their_mean(tiny: Path, images: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    rows = [row for row in images.read_text().splitlines() if not row.endswith("train")]
    other.write_text("\n".join([*rows[:9], "0.png,a red picture,train"]).replace("this one is all", "quite") + "\n")
    events, heard = listening()
    changes = ["epochs=8", "evaluation.every=4", "fine_tune={from_epoch: 1, learning_rate: 0.01}"]
    best = run(tiny, [*changes, f"data.also=[{other}]"], output=tmp_path / "run", events=events)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    scores = [record["dev"] for record in records if "dev" in record]
    assert len(scores) == 2
    for values in scores:
        for metric in ("BLEU-4", "CIDEr"):
            sets = [values[f"{metric} {name}"] for name in ("captions", "other")]
            assert values[metric] == pytest.approx(sum(sets) / 2)
    assert sets[0] != sets[1]
    about = json.loads((best / "config.json").read_text())["about"]
    assert about["dev_cider"] == pytest.approx(max(values["CIDEr"] for values in scores), abs=1e-4)
    assert about["data"] == about["dev_data"] == "captions+other" and "25 training images, 12 dev images" in heard[1]
    assert "1 images, such as" in heard[0] and "0.png, are in the training data several times" in heard[0]


def test_boxes_supervise_the_attention_of_a_run(tiny: Path, images: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    content = {
        "images": [{"id": f"{number}.png", "width": 40, "height": 40} for number in range(24)],
        "annotations": [
            {"image_id": f"{number}.png", "category_id": 1, "bbox": [0, 0, 20, 20]} for number in range(24)
        ],
        "categories": [{"id": 1, "name": "picture"}],
    }
    boxes.write_text(json.dumps(content))
    losses = {}
    for crop in ("1", "0.5"):  # crops of stored maps
        events, heard = listening()
        changes = ["epochs=8", "evaluation.every=8", "objective.grounding=1", f"data.boxes={boxes}", "data.flips=false"]
        changes += ["fine_tune={from_epoch: 1, stages: 2}", f"data.augment={{crop: {crop}, stored: true}}"]
        run(tiny, changes, output=tmp_path / crop, events=events)
        assert "24 with boxes of 24 words" in heard[0]
        records = [json.loads(line) for line in (tmp_path / crop / "log.jsonl").read_text().splitlines()]
        losses[crop] = [record["grounding"] for record in records if "grounding" in record]
        assert sum(losses[crop][-6:]) < 0.9 * sum(losses[crop][:6])
    assert losses["1"] != losses["0.5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["objective.grounding=1"], "needs boxes of objects; give their file as data.boxes"),
        (["data.boxes=boxes.json"], "data.boxes: are used by objective.grounding only"),
        (
            ["objective.grounding=1", "data.boxes=boxes.json", "model.decoder={name: show_tell}"],
            "the decoder show_tell does not attend",
        ),
        (
            ["objective.grounding=1", "data.boxes=boxes.json", "model.decoder={name: transformer}"],
            "set model.decoder.train_attention=true",
        ),
    ],
)
def test_boxes_that_cannot_be_used_are_refused(tiny: Path, tmp_path: Path, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tiny, changes, output=tmp_path / "run")


class Weighted(CrossEntropy):
    """An objective with a parameter."""

    def __init__(self, config: CrossEntropyConfig) -> None:
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.ones(()))


def test_weights_of_an_objective_are_not_trained_silently(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OBJECTIVES, "_entries", {**OBJECTIVES._entries, "weighted": Weighted})
    events, heard = listening()
    CaptionerRun(load_config(tiny, ["objective.name=weighted"], tmp_path / "run"), resume=False, events=events)
    assert "objective 'weighted': its own weights are not trained, only those of the model" in heard


def test_augmented_images_are_encoded_in_every_epoch_and_drawn_by_the_seed(tiny: Path, tmp_path: Path) -> None:
    plain = ["epochs=2", "evaluation.every=2", "fine_tune.from_epoch=1"]
    varied = [*plain, "data.augment={crop: 0.7, colour: 0.2, erase: 0.5}"]
    for name in ("first", "again"):
        run(tiny, varied, output=tmp_path / name)
    run(tiny, plain, output=tmp_path / "plain")
    assert identical(tmp_path / "first", tmp_path / "again")
    assert not identical(tmp_path / "first", tmp_path / "plain")
    assert not (tmp_path / "first" / "features").exists()


def test_stored_maps_are_cropped_and_drawn_by_the_seed(tiny: Path, tmp_path: Path) -> None:
    last = ["epochs=2", "evaluation.every=2", "fine_tune.from_epoch=1", "fine_tune.stages=2"]
    for name in ("first", "again"):
        run(tiny, [*last, "data.augment={crop: 0.5, stored: true}"], output=tmp_path / name)
    run(tiny, last, output=tmp_path / "plain")
    assert identical(tmp_path / "first", tmp_path / "again")
    assert not identical(tmp_path / "first", tmp_path / "plain")
    assert (tmp_path / "first" / "features").exists()


@pytest.mark.parametrize(
    "tuned",
    [
        pytest.param({}, id="frozen", marks=pytest.mark.slow),
        pytest.param({"from_epoch": 2}, id="whole encoder", marks=pytest.mark.slow),
        pytest.param({"from_epoch": 2, "stages": 2}, id="last stages", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_ends_with_the_same_bits(tiny: Path, tmp_path: Path, tuned: dict[str, int]) -> None:
    changes = ["epochs=3", "save_minutes=0.0001", *(f"fine_tune.{name}={value}" for name, value in tuned.items())]
    script = (
        "import sys, torch; torch.set_num_threads(1); from captioner import train; from pathlib import Path;"
        "train(sys.argv[1], sys.argv[4:], output=Path(sys.argv[2]), resume=sys.argv[3] == 'resume')"
    )

    # Compiled kernels give the same bits again, too; one of the runs has them.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CAPTIONER_COMPILE": "1" if "stages" in tuned else "0"}

    def start(output: Path, how: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", script, str(tiny), str(output), how, *changes]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(whole, "begin")
    assert process.wait(120) == 0, process.stderr and process.stderr.read()
    process = start(broken, "begin")
    deadline = time.monotonic() + 120
    while not (broken / STATE).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "last").exists(), "the run ended before it could be killed"
    process = start(broken, "resume")
    assert process.wait(120) == 0, process.stderr and process.stderr.read()
    assert identical(whole, broken)
    logs = [(output / "log.jsonl").read_text().splitlines() for output in (whole, broken)]
    assert [json.loads(line)["step"] for line in logs[0]] == [json.loads(line)["step"] for line in logs[1]]


def test_training_the_last_stages_leaves_the_others(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.training.initial_model.is_random", lambda settings: False)  # as if installed
    changes = ["epochs=2", "fine_tune.from_epoch=1", "fine_tune.stages=2", "fine_tune.learning_rate=0.01"]
    best = run(tiny, changes, output=tmp_path / "run")
    torch.manual_seed(0)  # the run's: the "installed" weights of this encoder are random
    after = load_model(best)
    torch.manual_seed(0)
    before = CaptionModel.build(load_config(tiny).model, after.vocabulary)
    assert after.tuned_stages == 2 and after.encoder.front(2).fingerprint() == before.encoder.front(2).fingerprint()
    old, new = before.encoder.tail(2).state_dict(), after.encoder.tail(2).state_dict()
    assert any(not torch.equal(old[name], new[name]) for name in old if "weight" in name)
    # Stored features, completed by the tuned stages, give the same captions as the images themselves.
    store = FeatureStore(tmp_path / "run" / "features", encoder=after.encoder)
    captioner, names = Captioner.from_model(after, device="cpu"), [f"{number}.png" for number in range(24, 32)]
    engine = model_engine(captioner.engine, "test")
    from_store = engine.caption_memory(store.memory(names), captioner.search, cut=store.cut)
    assert [caption.text for caption in from_store] == [
        caption.text for caption in captioner([tmp_path / name for name in names])
    ]


def test_a_run_takes_the_tuned_encoder_of_another_model(tiny: Path, tmp_path: Path) -> None:
    tuned = ["epochs=1", "fine_tune.from_epoch=1", "fine_tune.learning_rate=0.01"]
    first = run(tiny, tuned, output=tmp_path / "first")
    changes = ["epochs=1", f"encoder_from={first}", "model.decoder={name: show_tell, embedding: 16, hidden: 16}"]
    second = load_model(run(tiny, changes, output=tmp_path / "second"))
    theirs = load_model(first)
    assert second.tuned_stages == theirs.encoder.stages and second.encoder.fingerprint() == theirs.encoder.fingerprint()
    store = FeatureStore(tmp_path / "second" / "features", encoder=theirs.encoder)
    assert store.cut == 0, "an encoder that is shared is stored whole"
    about = about_of(tmp_path / "second" / "best")
    assert about["encoder_from"] == about_of(first), "its minutes count for both"
    assert about["recipe"]["encoder_from"] == "first", "a published model does not tell where it was trained"
    with pytest.raises(ConfigError, match=r"encoder_from: .*first.best: the encoder has the settings.*model\.encoder"):
        run(tiny, [f"encoder_from={first}", "model.encoder.size=96"], output=tmp_path / "third")
    with pytest.raises(ConfigError, match="leave one of them out"):
        run(tiny, [f"encoder_from={first}", f"start={first}"], output=tmp_path / "third")


def test_more_stages_than_there_are_is_an_error(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fine_tune\.stages: the encoder has \d+ stages, not 99"):
        run(tiny, ["fine_tune.from_epoch=1", "fine_tune.stages=99"], output=tmp_path / "run")


def test_a_bad_image_does_not_end_a_run_from_images(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "3.png").write_bytes(b"no image")
    events, heard = listening()
    run(tiny, ["epochs=2", "fine_tune.from_epoch=1"], output=tmp_path / "run", events=events)
    (left_out,) = (line for line in heard if "left out" in line)
    assert "3.png" in left_out


def test_bad_dev_images_are_reported_once_and_not_scored(tiny: Path, tmp_path: Path) -> None:
    for number in range(25, 32):  # only one image is left, so its CIDEr is 0
        (tmp_path / f"{number}.png").unlink()
    events, heard = listening()
    run(tiny, ["epochs=2", "fine_tune.from_epoch=1"], output=tmp_path / "run", events=events)
    assert len([line for line in heard if "left out" in line]) == 7
    assert len([line for line in heard if line.startswith("dev: has one image, for which CIDEr is always 0")]) == 1
    (tmp_path / "24.png").unlink()
    with pytest.raises(
        EvaluationError, match=r"none of the 8 dev images can be read, .* give their folder as data\.images"
    ):
        run(tiny, ["epochs=1", "fine_tune.from_epoch=1"], output=tmp_path / "none")


def test_a_run_without_a_readable_image_is_an_error(tiny: Path, tmp_path: Path) -> None:
    for number in range(24):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(AnnotationError, match=r"none of the training images can be read, .* data\.images"):
        run(tiny, ["epochs=1", "fine_tune.from_epoch=1"], output=tmp_path / "run")


def test_features_of_other_images_are_not_trained_on(tiny: Path, images: Path, tmp_path: Path) -> None:
    run(tiny, ["epochs=1"], output=tmp_path / "run")
    (tmp_path / "run" / STATE).unlink()  # as if it had been killed before the first state was saved
    Image.new("RGB", (50, 50)).save(tmp_path / "3.png")
    with pytest.raises(FeatureStoreError, match=r"3\.png, are not the files whose features it has; delete this folder"):
        run(tiny, ["epochs=1"], output=tmp_path / "run")
    events, heard = listening()
    run(tiny, ["epochs=1", f"data.features={tmp_path / 'run' / 'features'}"], output=tmp_path / "given", events=events)
    assert any("3.png, are not the files whose features it has; if they show something else" in line for line in heard)
    images.write_text(images.read_text() + "new.png,a red picture,train\n")
    Image.new("RGB", (50, 50)).save(tmp_path / "new.png")
    with pytest.raises(FeatureStoreError, match=r"has no features of 1 of the images, such as .*new\.png"):
        run(tiny, ["epochs=1"], output=tmp_path / "run")


def test_a_model_without_a_run_is_not_replaced(tiny: Path, first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "run" / "best")
    with pytest.raises(CheckpointError, match="best: exists, and the run would replace it; remove it, or give"):
        run(tiny, ["epochs=1"], output=tmp_path / "run")
    shutil.copytree(first.parent / "last", tmp_path / "run" / "last")
    shutil.copy(first.parent / "config.json", tmp_path / "run")  # of a run whose state was deleted
    with pytest.raises(CheckpointError, match="exists, and the run would replace it"):
        run(tiny, ["epochs=1"], output=tmp_path / "run")


def test_a_run_does_not_write_into_the_folder_of_a_model(tiny: Path, first: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(first, tmp_path / "mine")
    with pytest.raises(CheckpointError, match=r"mine: has a config\.json that is not a run's, such as a model's"):
        run(tiny, ["epochs=1", f"start={mine}"], output=mine)
    assert read_whole(mine)


def test_a_damaged_model_is_reported_before_a_resumed_run_trains(tiny: Path, tmp_path: Path) -> None:
    best = run(tiny, ["epochs=1"], output=tmp_path / "run")
    (best / "vocabulary.json").write_text("{")
    events, heard = listening()
    with pytest.raises(
        CheckpointError, match=r"vocabulary\.json: .*; or remove .*best: a run that trains further writes it"
    ):
        run(tiny, ["epochs=2"], output=tmp_path / "run", resume=True, events=events)
    assert not any("epoch 2" in line for line in heard)
    shutil.rmtree(best)
    run(tiny, ["epochs=2"], output=tmp_path / "run", resume=True)
    assert read_whole(best)["about"]["epoch"] == 2


def test_a_batch_without_a_readable_image_still_counts_as_a_step(tiny: Path, tmp_path: Path) -> None:
    for number in (1, 2, 5):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    changes = ["epochs=2", "batch_size=1", "accumulate=5", "fine_tune.from_epoch=1"]
    run(tiny, changes, output=tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len([record for record in records if "loss" in record]) == 2 * 21
    with safe_open(tmp_path / "run" / STATE, framework="pt") as file:
        assert json.loads(file.metadata()["progress"])["step"] == 2 * 24
    # Five optimiser steps per epoch, the last from four batches.
    assert {
        int(value)
        for name, value in weights(tmp_path / "run").items()
        if name.startswith("optimiser.") and name.endswith(".step")
    } == {10}


def test_features_that_end_too_late_are_reported(tiny: Path, tmp_path: Path) -> None:
    events, heard = listening()
    run(tiny, ["epochs=1", f"data.features={tmp_path / 'store'}"], output=tmp_path / "first", events=events)
    assert "--cut" not in "".join(heard)
    torch.manual_seed(0)
    tuned = ["epochs=2", "fine_tune.from_epoch=2", "fine_tune.stages=1", f"data.features={tmp_path / 'store'}"]
    run(tiny, tuned, output=tmp_path / "second", events=events)
    said = "".join(heard)
    assert "leaves off 0 stages of the encoder, but 1 are trained from epoch 2 on" in said and "--cut 1" in said


def test_malformed_records_are_counted_or_refused(tiny: Path, images: Path, tmp_path: Path) -> None:
    with open(images, "a", encoding="utf-8") as file:
        file.write("3.png,,train\n4.png,,train\n")
    events, heard = listening()
    run(tiny, ["epochs=1"], output=tmp_path / "run", events=events)
    assert "2 malformed records were left out, the first: " in "".join(heard)
    with pytest.raises(AnnotationError, match="caption is empty"):
        run(tiny, ["epochs=1", "data.strict=true"], output=tmp_path / "strict")


def test_all_wrong_settings_are_reported_together_before_the_data_are_read(tiny: Path, tmp_path: Path) -> None:
    wrong = [
        "data.path=/nowhere",
        "model.decoder.hiden=5",
        "model.encoder.backbon=x",
        "objective.smoothing=1",
        "epoch=3",
        "optimiser.clip=-1",
    ]
    with pytest.raises(ConfigError) as caught:
        run(tiny, wrong, output=tmp_path / "run")
    message = str(caught.value)
    for part in (
        "'hiden'. Did you mean 'hidden'?",
        "'backbon'. Did you mean 'backbone'?",
        "'smoothing'",
        "'epoch'. Did you mean 'epochs'?",
        "clip",
    ):
        assert part in message
    assert "nowhere" not in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_resumed_run_keeps_the_encoder_it_trains(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    # Killed right after the last epoch with a frozen encoder, and after the first in which it is trained.
    changes, output = ["epochs=3", "fine_tune.from_epoch=2", "fine_tune.learning_rate=0.01"], tmp_path / "run"

    class Killed(BaseException):
        pass

    def save_then_die(path: Path, progress: RunProgress, *rest: Any) -> None:
        save_state(path, progress, *rest)
        if progress.epoch == killed_after:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("captioner.training.loop.save_state", save_then_die)
        run(tiny, changes, output=output)
    run(tiny, changes, output=output, resume=True)
    state, model = weights(output), load_file(output / "last" / "model.safetensors")
    kept = [name for name in model if name.startswith("encoder.")]
    assert kept
    assert all(torch.equal(model[name], state[f"average.{name}"]) for name in kept)


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(tiny, ["epochs=1"], output=output)
    with pytest.raises(CheckpointError, match="--resume"):
        run(tiny, ["epochs=1"], output=output)
    with pytest.raises(CheckpointError, match="seed was 0 and is now 1"):
        run(tiny, ["epochs=1", "seed=1"], output=output, resume=True)
    with pytest.raises(CheckpointError, match="no run to resume"):
        run(tiny, ["epochs=1"], output=tmp_path / "none", resume=True)
    assert run(tiny, ["epochs=1"], output=output, resume=True) == output / "best"
    assert run(tiny, ["epochs=2"], output=output, resume=True) == output / "best"
    assert json.loads((output / "last" / "config.json").read_text())["about"]["epoch"] == 2
    assert not [path for path in output.rglob(".*")]


def test_the_vocabulary_is_from_the_training_split_only(tiny: Path, images: Path, tmp_path: Path) -> None:
    images.write_text(images.read_text() + "31.png,an unheard of thing,dev\n")
    best = run(tiny, ["epochs=1"], output=tmp_path / "run")
    words = json.loads((best / "vocabulary.json").read_text())["words"]
    assert "picture" in words
    assert "unheard" not in words


def test_settings_reach_the_model(tiny: Path) -> None:
    assert load_config(tiny, ["model.search.width=2"]).model.search.width == 2


def test_self_critical_training_continues_from_a_model(tiny: Path, first: Path, tmp_path: Path) -> None:
    changes = [
        "epochs=2",
        "fine_tune.from_epoch=null",
        f"start={first}",
        "objective={name: self_critical, samples: 3, max_words: 6}",
        "evaluation.search.width=1",
    ]
    second = run(tiny, changes, output=tmp_path / "second").parent / "last"  # the best may be the first itself
    before, after = load_model(first), load_model(second)
    assert before.vocabulary == after.vocabulary and before.config.decoder == after.config.decoder
    records = [json.loads(line) for line in (tmp_path / "second" / "log.jsonl").read_text().splitlines()]
    assert all(0 <= record["reward"] <= 10 and record["words"] <= 6 for record in records if "loss" in record)
    assert not torch.equal(before.decoder.output.weight, after.decoder.output.weight)  # type: ignore[arg-type, union-attr]
    card = ModelCard.load(second / "README.md")
    dev = json.loads((second / "config.json").read_text())["about"]["dev_cider"]
    assert dev == round(records[-1]["dev"]["CIDEr"], 4), "the last model's own, not the best one's"
    (score,) = card.data.eval_results
    assert (score.metric_type, score.metric_value, card.data.model_name) == ("cider", round(100 * dev, 1), "second")
    assert "1. Cross-entropy, epoch " in card.text and "2. Self-critical training" in card.text


def test_training_continued_with_new_words_must_beat_the_start(tiny: Path, images: Path, tmp_path: Path) -> None:
    rare = ["epochs=4", "evaluation.every=4", "data.min_count=24", "fine_tune.from_epoch=1"]
    first = run(tiny, rare, output=tmp_path / "first")
    assert "red" not in load_model(first).vocabulary
    changes = [f"start={first}", "new_words=true", "data.min_count=3", "optimiser.learning_rate=0.05"]
    changes += ["epochs=8", "evaluation.every=4"]
    events, heard = listening()
    second = run(tiny, changes, output=tmp_path / "second", events=events)
    said = "\n".join(heard)
    before, after = load_model(first).vocabulary, load_model(second).vocabulary
    new = after.words[len(before) :]
    assert after.words[: len(before)] == before.words and {"red", "blue", "white", "green"} <= set(new)
    assert f"{len(new)} of them new ({', '.join(new[:8])}" in said
    records = [json.loads(line) for line in (tmp_path / "second" / "log.jsonl").read_text().splitlines()]
    scores = [record["dev"]["CIDEr"] for record in records if "dev" in record]
    assert max(scores) > scores[0]
    # Without improvement the start model is the result.
    changes = [f"start={first}", "epochs=2", "optimiser.learning_rate=1e-9", "model.decoder.hidden=64"]
    third = run(tiny, changes, output=tmp_path / "third", events=events)
    assert any("start' keeps its own settings: decoder.hidden is 16, not 64" in line for line in heard)
    weights, same = (load_model(folder).state_dict() for folder in (first, third))
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert json.loads((third / "config.json").read_text())["about"]["epoch"] == 0


def test_of_several_blends_each_evaluation_takes_the_best(
    tiny: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["epochs=2", f"start={first}", "optimiser.learning_rate=0.1"]

    def scores(name: str, blend: str) -> list[float]:
        run(tiny, [*changes, f"blend={blend}"], output=tmp_path / name)
        records = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        return [record["dev"]["CIDEr"] for record in records if "dev" in record]

    alone = [scores(str(blend), str(blend)) for blend in (0.25, 1.0)]
    assert scores("few", "[0.25, 1.0]") == alone[0]  # dev has eight images
    monkeypatch.setattr("captioner.training.fit.MIN_DEV_IMAGES", 8)
    assert scores("both", "[0.25, 1.0]") == [max(pair) for pair in zip(*alone, strict=True)]
    about = json.loads((tmp_path / "both" / "last" / "config.json").read_text())["about"]
    assert about["blend"] == (0.25 if alone[0][-1] >= alone[1][-1] else 1.0)
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        load_config(tiny, ["blend=[0.5, 2]"])


def test_an_objective_is_checked_before_the_work(tiny: Path) -> None:
    assert load_config(tiny, ["objective.label_smoothing=0.2"]).objective["name"] == "cross_entropy"
    with pytest.raises(ConfigError, match="Did you mean 'label_smoothing'"):
        load_config(tiny, ["objective.label_smoothin=0.2"])
    with pytest.raises(ConfigError, match="Did you mean 'self_critical'"):
        load_config(tiny, ["objective.name=self_crit"])


def test_a_blend_interpolates_between_start_and_trained_weights(tiny: Path, first: Path, tmp_path: Path) -> None:
    models = [load_model(first)]
    for blend in (1.0, 0.25):
        changes = ["epochs=1", f"start={first}", "optimiser.learning_rate=0.1", f"blend={blend}"]
        models.append(load_model(run(tiny, changes, output=tmp_path / str(blend)).parent / "last"))
    start, trained, blended = (list(model.decoder.parameters()) for model in models)
    for a, b, c in zip(start, trained, blended, strict=True):
        torch.testing.assert_close(c, a + 0.25 * (b - a))
    assert any(not torch.equal(a, b) for a, b in zip(start, trained, strict=True))
