from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.errors import ConfigError
from captioner.training.objective import OBJECTIVES
from captioner.training.recipe import RunConfig, load_config, read_run
from captioner.training.recipe_files import OWN_DATA, is_data, is_translation, read_settings, recipes, summary
from captioner.training.recipe_text import commented_yaml
from captioner.training.self_critical import SelfCritical
from captioner.translation.train import load_translate_config

NAMES = sorted(name for name in recipes() if not is_translation(read_settings(name)))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_valid(name: str) -> None:
    assert load_config(name).epochs >= 1


def test_changes_override_the_recipe_and_are_typed() -> None:
    config = load_config(
        NAMES[0], ["optimiser.learning_rate=1e-4", "data.flips=false", "batch_size=7"], Path("elsewhere")
    )
    assert (config.optimiser.learning_rate, config.data.flips, config.batch_size, config.output) == (
        1e-4,
        False,
        7,
        Path("elsewhere"),
    )


def test_numbers_in_quotes_are_text() -> None:
    data = load_config(NAMES[0], ["data.train='0'", 'data.dev="1"', "data.path='1e5'", "epochs=1e1"]).data
    assert (data.train, data.dev, data.path) == ("0", "1", Path("1e5"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimiser.learning_rat=1", "Did you mean 'learning_rate'"),
        ("epoch=3", "Did you mean 'epochs'"),
        ("epochs=none", "epochs"),
        ("epochs", "key=value"),
        ("epochs.more=1", "is a value"),
        ("epochs=on", "epochs: give a number, not on or off"),
        ("average=no", "average: give a number, not on or off"),
        ("fine_tune.from_epoch=on", "from_epoch: give a number, not on or off"),
        ("blend=[0.5, yes]", "blend: give a number, not on or off"),
        ("optimiser.betas=[0.9, 1.0]", r"betas\.1: Input should be less than 1"),
        ("model.decoder={name: transformer, positions: learned, max_words: 9}", "words: is 16, .* end after 9 words"),
        ("data.teacher=null", r"data\.teacher: is a group of settings; .* --set data\.teacher\.KEY=VALUE"),
        ("model.decoder=show_tell", r"is a group of settings; .* --set model\.decoder\.name=show_tell"),
        ("seed=99999999999999999999999", "seed: Input should be less than"),
        ("data.path=", "data.path: is empty; give a value"),
        ("data.also=coco.json", r"data.also: is a list; write it in brackets, such as --set data.also=.\[coco.json\]"),
        ("data.train=2014", "data.train: is text; write it in quotes within quotes"),
    ],
)
def test_a_wrong_change_is_explained(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(NAMES[0], [change])


def test_a_part_is_exchanged_by_its_name_wherever_its_settings_stand() -> None:
    changes = ["model.decoder.dropout=0.4", "model.decoder.name=show_tell", "objective.name=self_critical"]
    config = load_config("flickr8k_show_attend_tell", changes)
    assert config.model.decoder == {"name": "show_tell", "dropout": 0.4}
    assert config.objective["name"] == "self_critical"
    same = load_config("flickr8k_show_attend_tell", ["objective.name=cross_entropy", "model.decoder.hidden=9"])
    assert same.objective["doubly_stochastic"] == 0.5 and same.model.decoder["hidden"] == 9


def test_a_part_that_a_recipe_leaves_out_has_settings_again() -> None:
    config = load_config(NAMES[0], ["consensus=null", "consensus.rank=5"])
    assert config.consensus is not None and config.consensus.rank == 5


def test_an_objective_derived_from_the_self_critical_one_keeps_its_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OBJECTIVES, "_entries", {**OBJECTIVES._entries, "mine": type("Mine", (SelfCritical,), {})})
    for name in ("self_critical", "mine"):
        with pytest.raises(ConfigError, match=r"data\.teacher: self-critical training uses its own samples"):
            load_config(NAMES[0], [f"objective={{name: {name}}}", "data.teacher.model=transformer"])


def test_a_folder_whose_name_cannot_be_saved_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"output: is not in UTF-8, .* rename the file or folder"):
        load_config(NAMES[0], output=Path(os.fsdecode(b"caf\xe9")))


def test_an_unknown_recipe_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean"):
        load_config(NAMES[0][:-1])
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_config(tmp_path / "list.yaml")


@pytest.mark.parametrize("name", list(recipes()))
def test_a_recipe_printed_in_full_is_the_recipe(name: str, tmp_path: Path) -> None:
    load: Callable[..., RunConfig] = load_config if name in NAMES else load_translate_config
    recipe = load(name, ["seed=3"])
    (tmp_path / "whole.yaml").write_text(commented_yaml(recipe), encoding="utf-8")
    again = read_run(type(recipe), tmp_path / "whole.yaml", [], None)
    assert commented_yaml(again) == commented_yaml(recipe) and again.seed == 3
    completed = {"model", "objective"}  # these now have all their settings
    assert again.model_dump(exclude=completed) == recipe.model_dump(exclude=completed)
    assert again.model_dump()["objective"] == recipe.model_dump()["objective"]
    assert len(summary(recipes()[name])) > 30 and ".." not in summary(recipes()[name])


def test_every_setting_of_a_part_is_explained() -> None:
    text = commented_yaml(load_config("flickr8k_show_attend_tell"))
    for setting in ("hidden: ", "backbone: ", "doubly_stochastic: ", "label_smoothing: "):
        (line,) = (line for line in text.splitlines() if line.strip().startswith(setting))
        assert len(line.partition("  # ")[2]) > 10, line


def test_a_recipe_takes_over_the_settings_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "data: {path: here}\nepochs: 3\n"
        "model: {decoder: {name: show_tell, dropout: 0.1}, encoder: {name: grid, size: 64}}"
    )
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: base.yaml\nepochs: 4\nmodel: {decoder: {name: top_down}, encoder: {backbone: resnet50}}\n")
    assert read_settings(mine) == {
        "data": {"path": "here"},
        "epochs": 4,
        "model": {"decoder": {"name": "top_down"}, "encoder": {"name": "grid", "size": 64, "backbone": "resnet50"}},
    }


def test_settings_between_two_names_are_kept(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: {decoder: {name: show_tell, hidden: 5}}\n")
    (tmp_path / "middle.yaml").write_text(
        "base: base.yaml\nobjective: {entropy: 0.5}\nmodel: {decoder: {dropout: 0.4}}\n"
    )
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: middle.yaml\nobjective: {name: cross_entropy}\nmodel: {decoder: {name: show_tell}}\n")
    assert read_settings(mine) == {
        "objective": {"name": "cross_entropy", "entropy": 0.5},
        "model": {"decoder": {"name": "show_tell", "hidden": 5, "dropout": 0.4}},
    }


def test_a_recipe_is_found_although_a_run_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / OWN_DATA).mkdir()
    assert read_settings(OWN_DATA)["start"] == "show_attend_tell"


def test_a_data_set_in_place_of_a_recipe_is_trained_on_by_that_for_own_images(tmp_path: Path) -> None:
    (tmp_path / "own: photos.csv").write_text("image,caption\n")
    for path in (tmp_path, tmp_path / "own: photos.csv"):
        assert is_data(path)
        config = load_config(path, ["epochs=3"])
        assert config.data.path == path and config.epochs == 3
        assert config.model_copy(update={"data": None, "epochs": 0}) == load_config(OWN_DATA).model_copy(
            update={"data": None, "epochs": 0}
        )
    assert is_data("hf://datasets/ada/squares") and is_data(Path("hf://datasets/ada/squares"))
    (tmp_path / "recipe.yaml").write_text("data: {path: here}\n")
    assert not any(map(is_data, (tmp_path / "recipe.yaml", tmp_path / "none.csv", OWN_DATA, "flickr8k_show_tell")))


@pytest.mark.parametrize(
    ("name", "content", "data"),
    [
        ("captions.json", json.dumps({"images": [], "annotations": []}), True),
        ("captions_train2014.json", '{"info": {"description": "' + "x" * 100_000, True),
        ("captions.json", '[{"image": "a.jpg", "caption": "A dog"}]', True),
        ("captions.json", '{"image": "a.jpg", "caption": "A dog"}\n{"image": "b.jpg", "caption": "A cat"}', True),
        ("captions.jsonl", '{"image": "a.jpg", "caption": "data: base"}', True),
        ("results.csv", "image_name| comment_number| comment\n", True),
        ("captions.tsv", "filename\tcaption\n", True),
        ("Flickr8k.token.txt", "a.jpg#0\tdata: A dog\n", True),
        ("captions", "image,caption\n", True),
        ("photos.zip", "PK", True),
        ("mine.txt", "# my recipe\nbase: flickr8k_show_tell\nepochs: 3\n", False),
        ("mine", "epochs: 3\ndata: {path: here}\n", False),
        ("mine.json", '{"epochs": 3, "data": {"path": "here"}}', False),
        ("mine.json", '{"base": "flickr8k_show_tell"}', False),
        ("empty.yml", "", False),
    ],
)
def test_a_recipe_is_recognised_by_its_content(tmp_path: Path, name: str, content: str, data: bool) -> None:
    (tmp_path / name).write_text(content)
    assert is_data(tmp_path / name) is data


def test_circular_bases_are_refused(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"base: {base}.yaml\n")
    with pytest.raises(ConfigError, match=r"b\.yaml: its base 'a\.yaml' is based on it"):
        read_settings(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text(f"base: ../{tmp_path.name}/a.yaml\n")
    with pytest.raises(ConfigError, match="is based on it"):
        read_settings(tmp_path / "a.yaml")


def test_the_families_on_flickr8k_share_budget_data_and_seed() -> None:
    others = {
        "flickr8k_self_critical",
        "flickr8k_distilled",
        "flickr8k_show_attend_tell",
        "flickr8k_cropped_show_attend_tell",
    }  # of which the last two train the encoder too
    families = [name for name in NAMES if name.startswith("flickr8k") and "augmented" not in name]
    found = {name: load_config(name) for name in families if name not in others}
    assert len(found) == 11
    assert len({(one.batch_size, one.seed, one.data.model_dump_json()) for one in found.values()}) == 1
    # About the same time, as an epoch without attention takes a good third.
    assert {one.epochs for name, one in found.items() if name != "flickr8k_show_tell"} == {6}
    assert found["flickr8k_show_tell"].epochs == 16


def test_a_base_must_be_a_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: 3\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: base: name a recipe or a YAML file, not 3"):
        read_settings(tmp_path / "mine.yaml")
