"""The marks of the program's figures, and other files without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from captioner.data.mark import check_replaceable, is_drawn_image, is_figure
from captioner.errors import FileError
from captioner.figures import FORMATS, Figure, Style
from tests.figures.builders import grid_caption, make_image


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("text", ["a dog", "un ñandú " * 4])
def test_every_figure_is_recognised(kind: str, text: str, tmp_path: Path) -> None:
    from dataclasses import replace

    caption = replace(grid_caption(text=text), source="photo.jpg")
    file = Figure(caption, make_image(), Style(width=400, side=64)).save(tmp_path / f"figure.{kind}")
    assert is_figure(file) and is_drawn_image(file) == (kind in ("png", "gif"))
    check_replaceable(file)


def test_other_files_are_not_figures(tmp_path: Path) -> None:
    for number, (name, settings) in enumerate(
        [
            ("a.png", {}),
            ("b.gif", {}),
            ("c.gif", {"comment": b"by Captioner, the person"}),
            ("photo.attention.png", {}),
            ("d.jpg", {"comment": b"Captioner"}),
            ("e.pdf", {"creator": "a person"}),
        ]
    ):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / name, **settings)
    (tmp_path / "f.json").write_text('{"captions": []}')
    (tmp_path / "g.html").write_text("<p>Captioner</p>")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("gone")
    for file in tmp_path.iterdir():
        assert not is_figure(file) and not is_drawn_image(file)
        with pytest.raises(FileError, match="not a figure that this program drew"):
            check_replaceable(file)
    assert not is_figure(tmp_path / "none.png")
    check_replaceable(tmp_path / "none.png")


def test_an_empty_file_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "new.png").touch()
    check_replaceable(tmp_path / "new.png")
