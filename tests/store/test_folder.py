"""Model folders: what changes when a saved model's record is changed."""

from __future__ import annotations

from pathlib import Path

from captioner.model.checkpoint import save_model
from captioner.store import CARD, CONFIG, change_about, read_whole
from tests.model.test_checkpoint import tiny_model


def test_a_card_written_from_the_config_follows_a_changed_record(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", tiny_model(), about={"data": "flickr8k", "photos": 5})
    before = read_whole(folder)
    change_about(folder, photos=7, seed=3)
    after = read_whole(folder)
    assert after == before | {"about": {"data": "flickr8k", "photos": 7, "seed": 3}}
    assert "7 photos" in (folder / CARD).read_text(encoding="utf-8")
    assert (folder / CARD).read_text(encoding="utf-8").startswith("---\n")


def test_a_card_that_a_person_wrote_is_left(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", tiny_model(), about={"photos": 5}, card="# Mine\n")
    change_about(folder, photos=7)
    assert (folder / CARD).read_text(encoding="utf-8") == "# Mine\n"
    (folder / CARD).unlink()
    change_about(folder, photos=8)
    assert not (folder / CARD).exists() and '"photos": 8' in (folder / CONFIG).read_text(encoding="utf-8")
