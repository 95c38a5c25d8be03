from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from captioner.cli import app

TEXT = {"name": "sequence", "embedding": 8, "hidden": 6}
DECODER = {"name": "show_attend_tell", "embedding": 8, "hidden": 12, "attention": 6, "values": 8}


ANNOTATION = '{"image_id": 1, "caption": "a dog"}'


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The calls of the two training functions, which are replaced."""
    calls: list[tuple[Any, ...]] = []

    def fake(kind: str) -> Any:
        def train(*args: object, events: object, **kwargs: object) -> Path:
            calls.append((kind, args, kwargs))
            return Path("models/mine")

        return train

    monkeypatch.setattr("captioner.training.fit.train", fake("captioner"))
    monkeypatch.setattr("captioner.translation.train.train_translation", fake("translator"))
    return calls


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [
        ("data: {path: flickr8k}", "captioner"),
        ("data: {path: flickr8k}\nmodel: {encoder: {name: grid}, search: {width: 2}}", "captioner"),
        ("data: {path: multi30k}\nmodel: {encoder: {name: words}}", "translator"),
        ("data: {path: multi30k}\nmodel: {target: fr}", "translator"),
        ("flickr8k_show_tell", "captioner"),
        ("multi30k_transformer", "translator"),
    ],
)
def test_a_recipe_goes_to_the_training_of_its_kind(
    run, trained: list[Any], tmp_path: Path, recipe: str, kind: str
) -> None:
    if ":" in recipe:
        (tmp_path / "recipe.yaml").write_text(recipe)
        recipe = str(tmp_path / "recipe.yaml")
    result = run("train", recipe, "--set", "a.b=1", "--set", "seed=2", "--output", "models/mine", "--resume")
    assert result == (0, "models/mine\n", f"training {recipe}\n")
    assert trained == [
        (kind, (recipe,), {"changes": ["a.b=1", "seed=2"], "output": Path("models/mine"), "resume": True})
    ]


def test_a_change_can_make_a_recipe_a_translators(run, trained: list[Any], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("data: {path: multi30k}\n")
    assert run("train", tmp_path / "recipe.yaml", "--set", "model.encoder.name=sequence").code == 0
    assert trained[0][0] == "translator"


@pytest.mark.parametrize(
    ("wrong", "right"), [("multi30k_atention", "multi30k_attention"), ("flickr8k_show_tel", "flickr8k_show_tell")]
)
def test_a_near_miss_of_either_kind_is_suggested(run, trained: list[Any], wrong: str, right: str) -> None:
    result = run("train", wrong)
    assert (result.code, result.out, trained) == (1, "", [])
    hint = f"Did you mean '{right}'", "flickr8k_show_attend_tell", "multi30k_seq2seq"
    assert all(part in result.err for part in hint)


def test_a_missing_recipe_is_an_error(run, tmp_path: Path) -> None:
    result = run("train", tmp_path / "none.yaml")
    assert (result.code, result.out) == (1, "")
    assert result.after == f"error: {tmp_path / 'none.yaml'}: there is no such file; give a YAML file\n"


def test_shipped_recipes_are_listed_and_printed(run, repository: Path) -> None:
    files = (repository / "captioner" / "training" / "recipes").glob("[!_]*.yaml")
    found = sorted(recipe.stem for recipe in files)
    result = run("recipes")
    assert result.code == 0 and [line.split()[0] for line in result.lines[2:]] == found and len(found) > 5
    assert list(json.loads(run("recipes", "--json").out)) == found
    for name in ("flickr8k_show_tell", "multi30k_attention"):
        printed = run("recipes", name, "--set", "epochs=77")
        assert printed.code == 0 and any(line.startswith("epochs: 77") for line in printed.lines)
        assert json.loads(run("recipes", name, "--json").out)["seed"] == 0
    assert "Did you mean" in run("recipes", "flickr8k_show_tel").err
    assert run("recipes", "--set", "epochs=3").code == 2
    assert "captioner recipes" in CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output


@pytest.fixture
def small_translator(parallel: Path) -> list[str]:
    """Changes to a recipe that make it a small translator of the tiny data."""
    pytest.importorskip("sacrebleu")
    settings = {"data.path": str(parallel), "data.merges": 30, "model.encoder": TEXT, "model.decoder": DECODER}
    return [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def test_a_translator_is_trained_scored_and_used(
    run, small_translator: list[str], parallel: Path, tmp_path: Path
) -> None:
    changes = (*small_translator, "--set", "epochs=1", "--set", "device=cpu")
    result = run("train", "multi30k_attention", *changes, "--output", tmp_path / "run")
    assert (result.code, result.out) == (0, f"{tmp_path / 'run' / 'best'}\n"), result.err
    scored = run("evaluate", tmp_path / "run" / "best", parallel, "--json", "--device", "cpu")
    assert scored.code == 0 and set(json.loads(scored.out)["scores"]) == {"BLEU", "chrF"}
    translated = run("translate", parallel / "val.en", "--model", tmp_path / "run" / "best", "--device", "cpu")
    assert translated.out.count("\n") == 4


def test_a_dry_run_prints_the_size_of_the_run(run, small_translator: list[str], tmp_path: Path) -> None:
    arguments = ("train", "multi30k_attention", *small_translator, "--output", tmp_path / "run", "--dry-run")
    result = run(*arguments)
    assert result.code == 0, result.err
    assert [line.split()[0] for line in result.out.splitlines()] == ["data", "parameters", "steps", "time"]
    record = json.loads(run(*arguments, "--json").out)
    assert record["epochs"] == 25 and record["data"]["dev pairs"] == 4 and record["seconds"]["training"] > 0
    assert not (tmp_path / "run").exists()


def test_own_images_tune_a_model_after_a_report_of_the_run(run, model: Path, dataset: Path, tmp_path: Path) -> None:
    rows = ["image,caption", *(f"{name},a blue dog and a ball" for name in ("red.jpg", "green.png", "blue.jpg"))]
    own = dataset.with_name("own.csv")
    own.write_text("\n".join(rows) + "\n")
    changes = ("--set", f"start={model}", "--set", "data.min_count=1", "--set", "epochs=1", "--set", "device=cpu")
    arguments = ("train", own, *changes, "--output", tmp_path / "mine")
    result = run(*arguments)
    assert (result.code, result.out) == (0, f"{tmp_path / 'mine' / 'best'}\n"), result.err
    lines = result.after.splitlines()
    assert lines[0] == f"{own}: tunes {model}; the model will be {tmp_path / 'mine' / 'best'}"
    assert [line.split()[0] for line in lines[1:6]] == ["data", "parameters", "steps", "features", "time"]
    assert "2 training images" in lines[1] and "2 new words" in lines[1] and "on this machine" in lines[5]
    assert any("2 of them new (and, blue)" in line for line in lines)
    assert any(line.startswith("before: ") for line in lines)
    again = run(*arguments)
    assert again.code == 1 and "holds a run already" in again.err and "tunes" not in again.err
    assert run("caption", own.with_name("red.jpg"), "--model", tmp_path / "mine" / "best").code == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.json", f'{{"images": [{{"id": 1, "file_name": "red.jpg"}}], "annotations": [{ANNOTATION}]}}'),
        ("dataset_own.json", '{"images": [{"filename": "red.jpg", "split": "x", "sentences": [{"raw": "a dog"}]}]}'),
        ("captions.jsonl", '{"image": "red.jpg", "caption": "a dog"}'),
        ("list.json", '[{"file_name": "red.jpg", "text": "a dog"}]'),
        ("captions.tsv", "filename\tcaption\nred.jpg\ta dog\n"),
        ("results.csv", "image_name| comment_number| comment\nred.jpg| 0| a dog\n"),
        ("no_header.txt", "red.jpg;a dog\n"),
        ("Flickr8k.token.txt", "red.jpg#0\ta dog\n"),
        ("captions", "image,caption\nred.jpg,a dog\n"),
    ],
)
def test_train_reads_the_files_that_inspect_reads(
    run, trained: list[Any], tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    inspected = run("data", "inspect", tmp_path / name)
    assert inspected.code == 0 and "1 images with 1 captions" in inspected.out
    assert run("train", tmp_path / name, "--resume") == (0, "models/mine\n", f"training {tmp_path / name}\n")
    assert trained[0][:2] == ("captioner", (str(tmp_path / name),))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.json", b'{"images": [', "captions.json: is not JSON"),
        ("captions.xlsx", b"PK\x03\x04" + bytes(9), "is a zip archive or a spreadsheet; unpack it, or export"),
        ("notes.txt", b"Dear reader", "no known caption format; it begins with 'Dear reader'"),
        ("table.csv", b"name,words\na.jpg,a dog\n", "this line must be the header image,caption"),
    ],
)
def test_inspect_and_train_refuse_the_same_files(run, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    for command in (("data", "inspect"), ("train",)):
        result = run(*command, tmp_path / name)
        assert result.code == 1 and message in result.err and "there is no setting" not in result.err


def test_images_that_are_missing_are_named_and_no_temporary_folder(run, model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("image,caption\n" + "".join(f"{number}.jpg,a dog runs\n" for number in range(9)))
    result = run(f"train {own} --set start={model} --set device=cpu --output {tmp_path}/x --dry-run")
    assert result.code == 1
    error = result.err.splitlines()[-1]
    assert error.startswith("error: none of the 9 images can be read") and str(tmp_path) in error
    assert "give their folder (data.images)" in error and "features" not in error


def test_captions_without_known_words_are_refused(run, model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("image,caption\n" + "".join(f"{n}.jpg,wort{n} laut{n}\n" for n in range(9)))
    arguments = ("train", own, "--set", f"start={model}", "--set", "device=cpu", "--output", tmp_path / "x")
    for more in ((), ("--dry-run",)):
        result = run(*arguments, *more)
        assert result.code == 1 and "has 0% of the words in the" in result.err and "data.min_count" in result.err
        assert not (tmp_path / "x").exists()
