"""Sheets, animations, numbers and files."""

from __future__ import annotations

import gc
import io
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from captioner.caption import Caption
from captioner.errors import CaptionerError, ConfigError
from captioner.figures import Figure, Style, figure, find_word
from captioner.figures.heat import Heat
from captioner.figures.paint import fit, overlay, palette
from captioner.figures.panels import arrange, mark_regions, percent
from captioner.figures.sheet import Sheet, shortened, width_of, wrapped
from tests.figures.builders import grid_caption, make_image, region_caption

SMALL = {"width": 400, "side": 64}


@pytest.mark.parametrize("panels", [1, 2, 6, 11, 26])
@pytest.mark.parametrize("shape", [0.01, 0.5, 1.0, 1.5, 8.0, 1000.0])
def test_panels_fit_on_the_sheet_and_fill_it_well(panels: int, shape: float) -> None:
    layout = arrange(panels, shape, 1700, 28)
    assert layout.columns * layout.rows >= panels > layout.columns * (layout.rows - 1)
    assert layout.columns * layout.panel[0] + (layout.columns - 1) * layout.gap <= 1700
    if panels > 1 and 0.5 <= shape <= 2:
        assert 0.3 < layout.height / 1700 < 1.5
        assert layout.panel[0] >= 5 * 28


def test_the_image_and_the_maps_are_on_the_sheet_pixel_for_pixel() -> None:
    caption, style = grid_caption(words=1), Style(width=400)
    white = Image.new("RGB", (80, 60), (10, 200, 30))
    pixels = np.asarray(Figure(caption, white, style).image())
    ys, xs = np.nonzero((pixels == (10, 200, 30)).all(-1))
    width, height = xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
    assert len(xs) == width * height  # a whole rectangle with nothing drawn on it
    assert width / height == pytest.approx(80 / 60, rel=0.02)


def test_a_sheet_draws_images_as_they_are() -> None:
    sheet = Sheet((301, 207))
    noise = np.asarray(make_image(120, 90))
    sheet.place(noise, 17, 33)
    drawn = np.asarray(sheet.image())
    np.testing.assert_array_equal(drawn[33 : 33 + 90, 17 : 17 + 120], noise)
    assert (drawn[:33] == 255).all()


def test_attention_colours_what_it_covers_and_leaves_the_rest() -> None:
    base = np.full((1, 3, 3), 0.5, dtype=np.float32)
    drawn = overlay(base, np.array([[0.0, 0.5, 1.0]]), palette(Style(colours="viridis", opacity=1.0)))
    assert drawn[0, 0].tolist() == [128, 128, 128] or drawn[0, 0].tolist() == [127, 127, 127]
    # The last colour of viridis, as published by its authors.
    assert np.abs(drawn[0, 2].astype(int) - [253, 231, 37]).max() <= 1


@pytest.mark.parametrize("name", ["inferno", "viridis", "cividis"])
def test_stronger_attention_is_lighter_to_every_eye(name: str) -> None:
    light = palette(Style(colours=name))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > -1e-3).all() and light[-1] - light[0] > 0.3


def test_words_are_never_read_as_formulas_or_markup() -> None:
    caption = grid_caption(text=r"$\alpha$ $broken <b>bold</b> %s {x} 100$")
    assert Figure(caption, make_image(), Style(**SMALL)).image().width == 400


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2), (17, 5)])
def test_odd_images(size: tuple[int, int]) -> None:
    drawn = Figure(grid_caption(), make_image(*size), Style(**SMALL))
    assert drawn.image().width == 400
    assert b"data:image/jpeg" in drawn.html()
    assert Image.open(io.BytesIO(drawn.gif())).n_frames >= 2


def test_every_word_of_a_narrow_image_has_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(Sheet, "text", lambda self, x, y, text, size, **more: written.append(text))
    Figure(grid_caption(text="a longer description"), make_image(2, 900), Style()).sheet()
    assert sum(text.endswith(" %") for text in written) == 3


def test_a_caption_without_words_is_its_image() -> None:
    caption = Caption("", [], -1.0, np.zeros((0, 12)), grid=(3, 4))
    drawn = Figure(caption, make_image(), Style(**SMALL))
    assert drawn.image().width == 400 and b"canvas" in drawn.html() and drawn.gif() and drawn.json()


def test_regions_are_outlined_and_the_strongest_is_labelled() -> None:
    sheet = Sheet((300, 300))
    sheet.place(np.zeros((300, 300, 3), dtype=np.uint8), 0, 0)
    mark_regions(sheet, Heat(region_caption(), Style()), 1, (50, 50), (200, 200), 14)
    white = np.asarray(sheet.image()).min(-1) > 200
    # The lower half of the image is the strongest region, its right quarter the second.
    left, right = white[148:253, 50:150], white[148:253, 150:252]
    assert (
        white[149:151, 60:240].any(0).all()
        and white[249:251, 60:240].any(0).all()
        and white[160:240, 49:51].any(1).all()
    )
    assert white[160:240, 149:151].any(1).all() and white[:145].sum() == 0
    assert left[6:20, 4:45].sum() > 20 and right[6:95, 5:95].sum() == 0


def test_the_strongest_region_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(Sheet, "text", lambda self, x, y, text, size, **more: written.append(text))
    named = replace(region_caption(), labels=["cat", "sofa", "a very long name of a thing that fits nowhere at all"])
    for word, expected in ((0, "cat 70 %"), (1, "sofa 50 %")):
        mark_regions(Sheet((300, 300)), Heat(named, Style()), word, (50, 50), (200, 200), 14)
        assert written.pop() == expected
    last = replace(named, attention=np.array([[0.0, 0.0, 1.0]]), tokens=["it"])
    mark_regions(Sheet((300, 300)), Heat(last, Style()), 0, (50, 50), (200, 200), 14)
    assert written.pop().endswith("… 100 %")


def test_percent() -> None:
    assert [percent(weight) for weight in (0.0, 0.0123, 0.0994, 0.0996, 0.5, 1.0)] == [
        "0.0 %",
        "1.2 %",
        "9.9 %",
        "10 %",
        "50 %",
        "100 %",
    ]


def test_text_is_broken_and_shortened_to_its_room() -> None:
    words = ["a", "caption", "of", "quite", "a", "few", "words", "in", "a", "row"]
    lines = wrapped(words, 150, 20)
    assert [number for line in lines for number in line] == list(range(len(words))) and len(lines) > 1
    assert all(width_of(" ".join(words[i] for i in line), 20) <= 150 for line in lines)
    assert shortened("short", 500, 20) == "short"
    cut = shortened("incomprehensibilities", 80, 20)
    assert cut.endswith("…") and width_of(cut, 20) <= 80 and "incomprehensibilities".startswith(cut[:-1])


def test_png_carries_the_caption() -> None:
    drawn = Image.open(io.BytesIO(Figure(grid_caption(text="café ñandú"), make_image(), Style(**SMALL)).png()))
    assert drawn.format == "PNG" and drawn.mode == "RGB" and drawn.text["Title"] == "Café ñandú."


def test_gif_shows_every_word_and_the_image_around_them() -> None:
    drawn = Image.open(io.BytesIO(Figure(grid_caption(words=3), make_image(), Style(side=64, seconds=0.5)).gif()))
    assert drawn.format == "GIF" and drawn.n_frames == 5 and drawn.info["loop"] == 0
    durations, frames = [], []
    for number in range(5):
        drawn.seek(number)
        durations.append(drawn.info["duration"])
        frames.append(np.asarray(drawn.convert("RGB")).astype(int))
    assert durations == [750, 500, 500, 500, 1000]
    assert (
        all(np.abs(frames[i] - frames[i + 1]).mean() > 1 for i in range(4)) and np.abs(frames[0] - frames[4]).mean() < 1
    )


def test_json_holds_what_is_needed_to_draw() -> None:
    caption = replace(grid_caption(seen=(0.1, 0.0, 0.9, 1.0)), source="caf\udce9.jpg")
    value = json.loads(Figure(caption, make_image(80, 60), Style()).json())
    assert (
        value["picture"] == {"width": 80, "height": 60}
        and value["grid"] == [3, 4]
        and value["seen"] == [0.1, 0.0, 0.9, 1.0]
    )
    assert (
        value["image"] == "caf\udce9.jpg"
        and value["tokens"] == caption.tokens
        and value["format"] == 1
        and value["attention_of"] == "mean"
    )
    assert caption.attention is not None
    np.testing.assert_allclose(value["attention"], caption.attention, atol=1e-6)
    assert json.loads(Figure(region_caption(), make_image(), Style()).json())["boxes"][2] == [0.5, 0.5, 1.0, 1.0]


def test_the_name_has_the_format(tmp_path: Path) -> None:
    drawn = Figure(grid_caption(), make_image(), Style(**SMALL))
    names = (
        ("a.png", b"\x89PNG"),
        ("b.GIF", b"GIF8"),
        ("c.htm", b"<!doctype html>"),
        ("new/d.json", b"{"),
        ("e.pdf", b"%PDF"),
        ("f.svg", b"<?xml"),
    )
    for name, magic in names:
        assert drawn.save(tmp_path / name).read_bytes().startswith(magic)
    assert drawn.save(tmp_path / "odd.name", "json").read_bytes().startswith(b"{")
    with pytest.raises(CaptionerError, match="png, svg, pdf, gif, html, json"):
        drawn.save(tmp_path / "e.bmp")
    assert not (tmp_path / "e.bmp").exists()


def test_pdf_and_svg_are_vectors_and_the_same_each_time() -> None:
    drawn = Figure(grid_caption(text="$x$ <dog> & co"), make_image(), Style(**SMALL))
    pdf, svg = drawn.pdf(), drawn.svg()
    assert b"/TrueType" in pdf or b"/Type /Font" in pdf
    assert pdf == drawn.pdf() and svg == drawn.svg()
    tree = ElementTree.fromstring(svg)
    assert (
        len(tree.findall(".//{http://www.w3.org/2000/svg}image")) == 1
        and len(tree.findall(".//{http://www.w3.org/2000/svg}path")) > 10
    )


def test_larger_letters_take_more_room() -> None:
    plain, large = (
        Figure(grid_caption(words=6), make_image(), Style(width=600, letters=size)).image() for size in (1.0, 2.0)
    )
    ink = [np.flatnonzero((np.asarray(image)[:80].min(-1) < 100).any(1)) for image in (plain, large)]
    # The pixel rows of the first line.
    title = [np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)[0] for rows in ink]
    assert plain.width == large.width and len(title[1]) > 1.5 * len(title[0])


def test_one_word_alone() -> None:
    caption = grid_caption(text="a dog and a cat")
    assert [find_word(caption, word) for word in ("a", "DOG", "cat", 3)] == [0, 1, 4, 3]
    for word in ("dogs", "", 5, -1):
        with pytest.raises(CaptionerError, match="no word"):
            find_word(caption, word)
    for size in ((80, 60), (10, 300), (300, 10)):
        drawn = Figure(caption, make_image(*size), Style(**SMALL), word=1).image()
        assert drawn.width <= 400
        other = Figure(caption, make_image(*size), Style(**SMALL), word=4).image()
        assert drawn.size == other.size and np.abs(np.asarray(drawn).astype(int) - np.asarray(other)).max() > 50


def test_one_word_alone_is_drawn_and_not_played(tmp_path: Path) -> None:
    drawn = Figure(grid_caption(), make_image(), Style(**SMALL), word=1)
    with pytest.raises(CaptionerError, match="gif shows all words; take png, svg, pdf"):
        drawn.save(tmp_path / "a.gif")
    assert drawn.save(tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_json_of_the_n_best_has_the_attention_of_each() -> None:
    caption = replace(grid_caption(), others=[grid_caption(words=2), grid_caption(words=3)])
    value = json.loads(Figure(caption, make_image(), Style()).json())
    assert [np.shape(other["attention"]) for other in value["others"]] == [(2, 12), (3, 12)]
    assert value["others"][1]["tokens"] == ["word0", "word1", "word2"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "figure.json"
    file.write_text("old")
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Figure(grid_caption(), make_image(), Style()).save(file)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_caption_finds_its_image_upright(tmp_path: Path) -> None:
    file = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    make_image(80, 60).save(file, exif=exif)
    caption = replace(grid_caption(), source=str(file))
    assert figure(caption).original.size == (60, 80)
    assert json.loads(figure(caption).json())["picture"] == {"width": 60, "height": 80}
    assert figure(caption, make_image(30, 20), colours="cividis").original.size == (30, 20)


def test_a_caption_gives_a_figure_of_matplotlib(tmp_path: Path) -> None:
    caption = grid_caption()
    drawn = caption.figure(make_image(), width=600)
    assert isinstance(drawn, matplotlib.figure.Figure) and drawn.get_figwidth() * drawn.dpi == pytest.approx(600)
    stream = io.BytesIO()
    drawn.savefig(stream, format="png")
    np.testing.assert_array_equal(
        np.asarray(Image.open(stream).convert("RGB")),
        np.asarray(Figure(caption, make_image(), Style(width=600)).image()),
    )
    assert (
        caption.save_figure(tmp_path / "one.svg", make_image(), word="word2", width=300)
        .read_bytes()
        .startswith(b"<?xml")
    )
    with pytest.raises(ConfigError, match=r"colour.*Did you mean 'colours'"):
        caption.figure(make_image(), colour="red")
    with pytest.raises(ConfigError, match="no such colour map"):
        caption.figure(make_image(), colours="rainbowish")
    with pytest.raises(CaptionerError, match="give the image"):
        caption.figure()
    with pytest.raises(CaptionerError, match="does not attend"):
        replace(caption, attention=None).figure(make_image())


def test_fit_keeps_the_shape() -> None:
    assert fit(make_image(300, 200), (100, 100)).size == (100, 67)
    assert fit(make_image(20, 10), (100, 100)).size == (100, 50)
    assert fit(make_image(1, 900), (100, 100)).size == (1, 100)


def test_sheets_leave_no_pixels_behind() -> None:
    """Pixels are freed without the cyclic garbage collector, between whose runs thousands of figures would pile up."""
    caption, image, style = grid_caption(words=2), make_image(), Style(width=900)
    Figure(caption, image, style).image()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            width, height = Figure(caption, image, style).image().size
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()
    assert (
        grown < 3 * width * height
    )  # less than one byte per pixel and sheet; a leaked sheet would hold at least three
