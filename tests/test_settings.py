"""Settings from YAML: damaged and hostile files are refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from captioner.errors import ConfigError
from captioner.search.config import SearchConfig
from captioner.settings import override, read_yaml, validate
from captioner.training.recipe_files import find_recipe, is_data

TEN = ",".join
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{TEN([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
MERGED = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{TEN([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, "more than 10,000 values, with aliases expanded"),
        (MERGED, "more than 10,000 values, with aliases expanded"),
        ("[" * 3000, "nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ("a: &a [*a]", "contains itself"),
        ("epochs: 3\nepochs: 4", "has 'epochs' twice"),
        ("a: {b: 1, c: {d: 1, d: 2}}", "has 'd' twice"),
        ("a: " + "9" * 10_000, "not readable as YAML"),
        ("a: 2024-13-45", "month must be in"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: \x00", "not readable as YAML"),
    ],
)
def test_yaml_that_would_take_minutes_or_memory_is_refused_at_once(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    began = time.perf_counter()
    with pytest.raises(ConfigError, match=says) as caught:
        read_yaml(tmp_path / "recipe.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'recipe.yaml'}: ")
    with pytest.raises(ConfigError, match=f"(?s)^--set .*{says}"):
        override({}, [f"data={text}"])
    assert time.perf_counter() - began < 10


def test_aliases_and_merges_of_an_ordinary_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n")
    assert read_yaml(tmp_path / "recipe.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


def test_huge_files_and_other_paths_are_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "huge.yaml").write_text("a: 1\n" + "# comment\n" * 100_000)
    with pytest.raises(ConfigError, match="has 1,000,005 bytes, more than"):
        read_yaml(tmp_path / "huge.yaml")
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_yaml("/dev/zero")


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".yaml", "a\x00b", "a\x00.yaml"])
def test_a_name_that_no_file_can_have_is_an_unknown_recipe(name: str) -> None:
    assert not is_data(name)
    with pytest.raises(ConfigError, match=r"does not exist|File name too long|cannot be a file's name"):
        read_yaml(find_recipe(name))


def test_a_data_set_that_is_not_there_is_not_called_a_missing_recipe() -> None:
    with pytest.raises(ConfigError, match=r"photos\.csv: there is no such file; give .* or a data set"):
        find_recipe("photos.csv")


def test_settings_that_are_too_deep_or_not_finite_are_refused() -> None:
    with pytest.raises(ConfigError, match="no settings that deep"):
        override({}, [".".join("a" * 10_000) + "=1"])
    with pytest.raises(ConfigError, match=r"length_normalisation: .*finite"):
        validate(SearchConfig, {"length_normalisation": float("inf")}, where="search")
    with pytest.raises(ConfigError, match=r"width: .*1000"):
        validate(SearchConfig, {"width": 10**9}, where="search")


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(SearchConfig, {"width": "x" * 100_000}, where="search")
    assert len(str(caught.value)) < 500
