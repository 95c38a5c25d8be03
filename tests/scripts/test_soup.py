"""The mean of the weights of two models, and what cannot be averaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from captioner.model.checkpoint import load_model, save_model
from captioner.store import read_config
from captioner.text.vocabulary import Vocabulary
from tests.model.test_checkpoint import tiny_model
from tests.scripts.test_cards import load


def test_a_soup_is_the_mean_of_its_weights(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tiny_model(), tiny_model()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(torch.randn_like(parameter))
    for name, model in (("a", first), ("b", second)):
        save_model(tmp_path / name / "best", model, about={"seed": name, "start": {"seed": "both"}, "encoder_from": {}})
    run(repository, monkeypatch, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "soup")
    soup, about = load_model(tmp_path / "soup"), read_config(tmp_path / "soup")["about"]
    common = {"start": {"seed": "both"}, "encoder_from": {}}
    assert about == {"seed": "a", **common, "averaged_with": [{"seed": "b"}]}
    assert soup.tuned_stages == first.tuned_stages
    for mean, one, other in zip(soup.parameters(), first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(mean, (one + other) / 2, atol=2e-3, rtol=2e-3)


def test_a_start_of_its_own_is_kept(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        save_model(tmp_path / name, tiny_model(), about={"seed": name, "start": {"seed": f"{name}0"}})
    run(repository, monkeypatch, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "soup")
    about = read_config(tmp_path / "soup")["about"]
    assert about["start"] == {"seed": "a0"} and about["averaged_with"] == [{"seed": "b", "start": {"seed": "b0"}}]


def test_models_of_other_words_are_refused(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "a", tiny_model(), about={})
    other = tiny_model()
    other.vocabulary = Vocabulary(other.vocabulary.words[::-1][:8], range(8, 0, -1))
    save_model(tmp_path / "b", other, about={})
    with pytest.raises(SystemExit, match=r"b: has other settings or words than .*a"):
        run(repository, monkeypatch, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def run(repository: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["soup.py", *map(str, arguments)])
    load(repository, "soup").main()
