from __future__ import annotations

import errno
import functools
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import MAGIC, tiny_model


@pytest.fixture
def attend(run, model: Path):
    return lambda *arguments, **more: run(
        "attend", "--model", model, "--workers", 1, "--device", "cpu", *arguments, **more
    )


@pytest.mark.parametrize("kind", MAGIC)
def test_one_image_gives_the_given_file(attend, images: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "new" / f"figure.{kind}"
    result = attend(images / "red.jpg", "-o", file)
    assert (result.code, result.err) == (0, "")
    (line,) = result.lines
    assert line.startswith(f"{file}: ") and line.endswith(".")
    assert file.read_bytes().startswith(MAGIC[kind]) and list(file.parent.iterdir()) == [file]


def test_a_folder_of_images_with_a_bad_one(attend, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "figures"
    result = attend(images, "--recursive", images / "more" / "deep.jpg", "-o", output, "--format", "json")
    assert result.code == 1
    error, end = result.err.splitlines()
    assert error.startswith(f"error: {images / 'broken.jpg'}: ") and end == f"{output}/: 5 figures"
    names = [f"{stem}.attention.json" for stem in ("blue", "green", "deep", "red", "deep-2")]
    assert sorted(path.name for path in output.iterdir()) == sorted(names)
    assert sorted(Path(line.split(": ")[0]).name for line in result.lines) == sorted(names)
    value = json.loads((output / "red.attention.json").read_text())
    assert value["image"] == str(images / "red.jpg") and value["picture"] == {"width": 80, "height": 60}
    rows, columns = value["grid"]
    assert [len(row) for row in value["attention"]] == [rows * columns] * len(value["tokens"])


def test_a_single_word_and_images_whose_caption_lacks_it(attend, images: Path, tmp_path: Path) -> None:
    attend(images, "-o", tmp_path / "all", "--format", "json")
    values = [json.loads(path.read_text()) for path in sorted((tmp_path / "all").iterdir())]
    word = values[0]["tokens"][0]
    have = {Path(value["image"]).name for value in values if word in value["tokens"]}
    result = attend(images, "-o", tmp_path / "one", "--word", word)
    assert {line.split(": ")[0].removesuffix(".attention.png") for line in map(str, result.lines)} == {
        str(tmp_path / "one" / Path(name).stem) for name in have
    }
    absent = attend(images / "red.jpg", "-o", tmp_path / "none.png", "--word", "zebra")
    assert absent.code == 1 and f"{images / 'red.jpg'}: there is no word 'zebra'" in absent.err
    assert not (tmp_path / "none.png").exists()


def test_the_n_best(attend, images: Path, tmp_path: Path) -> None:
    assert attend(images / "red.jpg", "-o", tmp_path / "a.json", "--n-best", 3).code == 0
    others = json.loads((tmp_path / "a.json").read_text())["others"]
    assert len(others) == 2 and all(len(other["attention"]) == len(other["tokens"]) for other in others)


def test_a_folder_gets_png_by_default(attend, images: Path, tmp_path: Path) -> None:
    (tmp_path / "v1.figures").mkdir()
    assert attend(images / "red.jpg", "-o", tmp_path / "v1.figures").code == 0
    assert Image.open(tmp_path / "v1.figures" / "red.attention.png").format == "PNG"


def test_captions_equal_those_of_the_caption_command(attend, run, model: Path, images: Path, tmp_path: Path) -> None:
    for beam in (1, 3):
        caption = run("caption", "--model", model, "--device", "cpu", "--beam", beam, images / "red.jpg").out
        result = attend(images / "red.jpg", "-o", tmp_path / "a.json", "--beam", beam)
        assert result.out == f"{tmp_path / 'a.json'}: {caption}"


def test_the_length_of_captions_and_what_they_repeat(attend, images: Path, tmp_path: Path) -> None:
    options = ["--min-words", "6", "--max-words", "6", "--block-ngram", "1"]
    assert attend(images / "red.jpg", "-o", tmp_path / "a.json", *options).code == 0
    value = json.loads((tmp_path / "a.json").read_text())
    assert len(value["tokens"]) == len(set(value["tokens"])) == len(value["attention"]) == 6


def test_a_bad_image_leaves_no_file(attend, images: Path, tmp_path: Path) -> None:
    result = attend(images / "broken.jpg", "-o", tmp_path / "figure.png")
    assert (result.code, result.out) == (1, "") and "broken.jpg" in result.err
    assert not (tmp_path / "figure.png").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-o", "figure.bmp"], ".html"),
        (["-o", "figure.png", "--format", "bmp"], "'svg'"),
        (["-o", "figure.gif", "--word", "dog"], "use png, svg, pdf"),
        (["-o", "figure.png", "--n-best", "2"], "use html, json"),
        (["-o", "figure.png", "--heads", "heads"], "json"),
        (["{images}", "-o", "figure.png"], "give a folder"),
    ],
)
def test_wrong_usage_is_refused_before_any_work(run, images: Path, arguments: list[str], message: str) -> None:
    given = [argument.format(images=images) for argument in arguments]
    result = run("attend", images / "red.jpg", "--model", "/no/such/model", *given)
    assert result.code == 2 and message in " ".join(result.err.split())


def test_the_image_itself_is_not_overwritten(attend, images: Path) -> None:
    before = (images / "green.png").read_bytes()
    result = attend(images / "green.png", "-o", images / "more" / ".." / "green.png")
    assert result.code == 1 and "the image itself" in result.err
    assert (images / "green.png").read_bytes() == before


@pytest.mark.parametrize(
    "options, message", [(["--heads", "2.1"], "Transformer"), (["--colours", "mud"], "colour map")]
)
def test_invalid_settings_are_refused(attend, images: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = attend(images / "red.jpg", "-o", tmp_path / "figure.png", *options)
    assert result.code == 1 and message in result.err and len(result.err.splitlines()) == 1


def test_a_model_that_does_not_attend(run, images: Path, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "show_tell")
    result = run("attend", "--model", folder, images / "red.jpg", "-o", tmp_path / "figure.png")
    assert result.code == 1 and not (tmp_path / "figure.png").exists()
    assert "does not attend" in result.err and "show_attend_tell" in result.err


def test_nothing_found(attend, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = attend(tmp_path / "empty", "-o", tmp_path / "figures")
    assert result.code == 1 and "no images in this folder" in result.err and not (tmp_path / "figures").exists()


def test_the_formats_are_those_of_figures() -> None:
    from captioner.cli import attend
    from captioner.figures import DRAWN, FORMATS

    assert tuple(FORMATS) == attend._KINDS and tuple(DRAWN) == attend._DRAWN


def test_a_translation_is_drawn_by_way_of_the_caption(
    attend, images: Path, translator: Path, shipped_translator: str, tmp_path: Path
) -> None:
    from captioner import Translator

    numbers = tmp_path / "n.json"
    result = attend(images / "red.jpg", "-o", numbers, "--language", "de")
    record = json.loads(numbers.read_text())
    text = Translator.from_pretrained(translator, device="cpu")(record["translated_from"]).text
    assert (result.code, result.out) == (0, f"{numbers}: {text}\n") and record["caption"] == text
    assert len(record["attention"]) == len(record["tokens"])
    assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in record["attention"])
    assert attend(images, "-o", tmp_path / "figures", "--translator", translator).code == 1  # one image is broken
    assert len(list((tmp_path / "figures").iterdir())) == 3
    assert attend(images / "red.jpg", "-o", numbers, "--language", "fr").code == 1
    assert attend(images / "red.jpg", "-o", numbers, "--language", "de", "--heads", "heads").code == 2


def test_a_translator_that_does_not_attend_has_no_heatmap(attend, images: Path, tmp_path: Path) -> None:
    from captioner.translation.model import save_translator
    from tests.translation.test_translator import build

    folder = save_translator(tmp_path / "seq2seq", build("seq2seq"))
    result = attend(images / "red.jpg", "-o", tmp_path / "figure.png", "--translator", folder)
    assert result.code == 1 and "does not attend to words" in result.err and not (tmp_path / "figure.png").exists()


def test_the_mean_of_several_models_is_drawn(attend, images: Path, model: Path, partner: Path, tmp_path: Path) -> None:
    numbers = tmp_path / "n.json"
    result = attend(images / "red.jpg", "-o", numbers, "--model", partner)
    record = json.loads(numbers.read_text())
    assert result.code == 0 and all(sum(row) == pytest.approx(1, abs=1e-3) for row in record["attention"])
    result = attend(images / "red.jpg", "-o", numbers, "--model", partner, "--heads", "rollout")
    assert result.code == 1 and "an ensemble has only the mean" in result.err


def test_figures_of_images_that_share_a_name_have_different_names(attend, images: Path, tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "A.jpg", "a-2.jpg", "x/a.jpg", "x/caf\u00e9.jpg", "x/cafe\u0301.jpg"):
        (tmp_path / "many" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "many" / name).write_bytes((images / "red.jpg").read_bytes())
    output = tmp_path / "figures"
    for note in ("7 figures", "7 figures; replaced 7 figures of an earlier run"):
        result = attend(tmp_path / "many", "--recursive", "-o", output, "--format", "json")
        assert (result.code, result.err) == (0, f"{output}/: {note}\n")
        sources = {json.loads(file.read_text())["image"]: file.name for file in output.iterdir()}
        assert len(sources) == 7 and len({name.lower() for name in sources.values()}) == 7
        assert len(result.lines) == 7 and sources[str(tmp_path / "many" / "A.jpg")] == "A.attention.json"


def test_names_as_long_as_the_system_allows(attend, images: Path, tmp_path: Path) -> None:
    names = ["n" * 246 + ".jpg", "n" * 247 + ".jpg", "\u0142" * 124 + ".jpg", "short.jpg"]
    (tmp_path / "long").mkdir()
    for name in names:
        (tmp_path / "long" / name).write_bytes((images / "red.jpg").read_bytes())
    result = attend(tmp_path / "long", "-o", tmp_path / "figures", "--format", "json")
    assert (result.code, result.err) == (0, f"{tmp_path / 'figures'}/: 4 figures\n")
    sources = {Path(json.loads(file.read_text())["image"]).name: file.name for file in (tmp_path / "figures").iterdir()}
    assert sorted(sources) == sorted(names) and sources["short.jpg"] == "short.attention.json"
    for name, figure in sources.items():
        assert figure.endswith(".attention.json") and figure[:5] == name[:5]
        assert 250 <= len(figure.encode()) <= 255 or name == "short.jpg"
    assert attend(tmp_path / "long", "-o", tmp_path / "figures", "--format", "json").code == 0
    assert len(list((tmp_path / "figures").iterdir())) == 4


def test_names_of_many_images_are_made_fast() -> None:
    import time

    from captioner.cli.attend import _Names

    name, began = _Names(Path("figures"), "png"), time.perf_counter()
    assert len({name(f"{number}/image.jpg") for number in range(20_000)}) == 20_000
    assert time.perf_counter() - began < 5


def test_figures_are_not_captioned(attend, run, model: Path, images: Path, tmp_path: Path) -> None:
    folder, alone = tmp_path / "album", images / "red.jpg"
    folder.mkdir()
    image = alone.rename(folder / "red.jpg")
    assert attend(folder, "-o", folder).code == 0
    assert attend(image, "-o", folder / "gif", "--format", "gif").code == 0
    again = attend(folder, "--recursive", "-o", folder / "third")
    notes = "left out 2 figures that this program drew", f"{folder / 'third'}/: 1 figure"
    assert (again.code, tuple(again.err.splitlines()), len(again.lines)) == (0, notes, 1)
    caption = functools.partial(run, "caption", "--model", model, "--device", "cpu")
    result = caption(folder, "--recursive")
    assert (result.code, result.err) == (0, "left out 3 figures that this program drew\n") and len(result.lines) == 1
    figure = folder / "red.attention.png"
    listed = caption("-", stdin=f"{figure}\n{image}\n")
    assert listed.err == "left out 1 figure that this program drew\n" and len(listed.lines) == 1
    assert caption(figure).code == 0, "the only file that was named"
    none = attend(folder / "third", "-o", folder / "fourth")
    assert none.code == 1 and "left out 1 figure" in none.err and "no images found" in none.err


@pytest.mark.parametrize("kind", MAGIC)
def test_files_of_other_programs_are_not_replaced(attend, images: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"figure.{kind}"
    file.write_text("written by hand")
    result = attend(images / "red.jpg", "-o", file)
    assert result.code == 1 and f"{file}: exists and is not a figure" in result.err
    assert file.read_text() == "written by hand"
    file.write_text("")
    for _ in range(2):
        assert attend(images / "red.jpg", "-o", file).code == 0 and file.stat().st_size


def test_a_figure_that_cannot_be_written_does_not_stop_the_others(
    attend, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if "green" in str(target):
            raise PermissionError(errno.EPERM, "Operation not permitted", str(source))
        replace(source, target)

    monkeypatch.setattr("os.replace", failing)
    (images / "broken.jpg").unlink()
    result = attend(images, "-o", tmp_path / "figures")
    assert result.code == 1 and len(result.lines) == 2 and len(list((tmp_path / "figures").iterdir())) == 2
    assert "green" in result.err and "Operation not permitted" in result.err and ".tmp" not in result.err
