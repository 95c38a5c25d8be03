from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def caption(run, model: Path):
    return lambda *arguments, **more: run(
        "caption", "--model", model, "--workers", 1, "--device", "cpu", *arguments, **more
    )


def test_one_image_gives_its_sentence(caption, images: Path) -> None:
    result = caption(images / "red.jpg")
    assert (result.code, result.err) == (0, "")
    (sentence,) = result.lines
    assert sentence.endswith(".") and sentence[0].isupper() and "red.jpg" not in sentence


def test_a_bad_image_does_not_stop_the_others(caption, images: Path) -> None:
    alone = caption(images / "red.jpg").out
    result = caption(images, images / "gone.jpg")
    assert result.code == 1
    names = [str(images / name) for name in ("blue.jpg", "green.png", "red.jpg")]
    assert [line.split(": ")[0] for line in result.lines] == names
    assert f"{images / 'red.jpg'}: {alone}" in result.out
    reported = result.err.splitlines()
    assert len(reported) == 2
    for line, name in zip(reported, ("broken.jpg", "gone.jpg"), strict=True):
        assert line.startswith(f"error: {images / name}: ")


def test_recursive_and_patterns(caption, images: Path) -> None:
    deep = str(images / "more" / "deep.jpg")
    assert deep not in caption(images).out
    assert deep in caption(images, "--recursive").out
    result = caption(images / "*.png")
    assert result.code == 0
    assert [line.split(": ")[0] for line in result.lines] == [str(images / "green.png")]


def test_a_list_on_standard_input(caption, images: Path) -> None:
    result = caption("-", stdin=f"{images / 'red.jpg'}\r\n\n{images / 'blue.jpg'}\n")
    assert result.code == 0
    assert [line.split(": ")[0] for line in result.lines] == [str(images / "red.jpg"), str(images / "blue.jpg")]


def test_n_best_captions_are_sorted_by_score(caption, images: Path) -> None:
    result = caption(images / "red.jpg", "--n-best", 3, "--length-normalisation", 0)
    scores = [float(line.split("\t")[1]) for line in result.lines]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


def test_the_length_of_captions_and_what_they_repeat(caption, images: Path) -> None:
    def tokens(*options: object) -> list[str]:
        return json.loads(caption(images / "red.jpg", "--json", *options).out)["tokens"]

    assert len(tokens("--min-words", 0, "--max-words", 1)) == 1
    long = tokens("--min-words", 6, "--max-words", 6, "--beam", 1)
    assert len(long) == 6 and len(set(long)) < 6, "nothing is repeated, so nothing is tested"
    assert len(set(tokens("--min-words", 6, "--max-words", 6, "--beam", 1, "--block-ngram", 1))) == 6


def test_settings_of_the_search_that_contradict_the_models(caption, images: Path) -> None:
    result = caption(images / "red.jpg", "--min-words", 9)
    assert (result.code, result.out) == (1, "") and "min_words (9) must not be more than max_words (6)" in result.err


def test_json_has_good_and_bad_images(caption, images: Path) -> None:
    result = caption(images / "broken.jpg", images / "red.jpg", "--json", "--attention")
    assert result.code == 1
    bad, good = map(json.loads, result.lines)
    assert bad["image"] == str(images / "broken.jpg") and "JPEG" in bad["error"] and bad["caption"] is None
    assert good["image"] == str(images / "red.jpg") and good["caption"].endswith(".")
    rows, columns = good["grid"]
    assert [len(row) for row in good["attention"]] == [rows * columns] * len(good["tokens"])
    assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in good["attention"])
    assert "attention" not in json.loads(caption(images / "red.jpg", "--json").out)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_output_files(caption, images: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "new folder" / f"captions.{kind}"
    result = caption(images, "--output", file, "--n-best", 2)
    assert (result.code, result.out) == (1, "")
    text = file.read_text(encoding="utf-8")
    if kind == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        names = "blue.jpg blue.jpg broken.jpg green.png green.png red.jpg red.jpg"
        assert [Path(row["image"]).name for row in rows] == names.split()
        assert [bool(row["caption"]) for row in rows] == [not row["error"] for row in rows]
        assert float(rows[0]["log_probability"]) < 0
    else:
        records = [json.loads(line) for line in text.splitlines()]
        assert [Path(record["image"]).name for record in records] == ["blue.jpg", "broken.jpg", "green.png", "red.jpg"]
        assert [record["error"] is not None for record in records] == [False, True, False, False]
        assert [len(record.get("others", ())) for record in records] == [1, 0, 1, 1]
    assert list(file.parent.iterdir()) == [file]


def test_several_files_go_into_one_output(caption, images: Path, tmp_path: Path) -> None:
    file, given = tmp_path / "captions.csv", [images / "red.jpg", images / "blue.jpg", images / "no.jpg"]
    result = caption(*given, "-o", file)
    assert result.code == 1 and result.err.endswith(f"{file}: 2 captioned, 1 failed\n")
    assert [row["image"] for row in csv.DictReader(file.read_text().splitlines())] == [*map(str, given)]


def test_the_same_command_again_captions_only_new_changed_and_failed_images(
    caption, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "captions.csv"
    first = caption(images, "-o", file)
    assert first.err.splitlines()[-1] == f"{file}: 3 captioned, 1 failed"
    (images / "broken.jpg").unlink()
    monkeypatch.setattr("captioner.Captioner.from_pretrained", lambda *arguments, **more: pytest.fail("it was loaded"))
    before = file.read_bytes()
    nothing = caption(images, "-o", file)
    assert (nothing.code, nothing.err) == (0, f"{file}: 3 captioned before\n") and file.read_bytes() == before
    monkeypatch.undo()
    shutil.copy(images / "red.jpg", images / "new.jpg")
    (images / "blue.jpg").write_bytes((images / "red.jpg").read_bytes())
    third = caption(images, "-o", file)
    assert third.err == f"{file}: 2 captioned, 2 captioned before (1 new, 1 changed)\n"
    rows = {Path(row["image"]).name: row for row in csv.DictReader(file.read_text().splitlines())}
    assert rows["blue.jpg"]["caption"] == rows["red.jpg"]["caption"] == rows["new.jpg"]["caption"]
    assert list(rows) == ["broken.jpg", "green.png", "red.jpg", "blue.jpg", "new.jpg"]
    again = caption(images, "-o", file, "--overwrite")
    assert again.err == f"{file}: 4 captioned (4 changed)\n"


def test_a_file_that_this_program_did_not_write_is_kept(caption, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "captions.csv"
    file.write_text("my,notes\n")
    result = caption(images, "-o", file)
    assert (result.code, result.out) == (1, "") and "give another --output, or --overwrite" in result.err
    assert file.read_text() == "my,notes\n"
    assert caption(images / "red.jpg", "-o", file, "--overwrite").code == 0
    assert file.read_text().startswith("image,caption")
    assert "give --output, --sidecar or --embed" in caption(images, "--overwrite").err


def test_a_wrong_output_is_refused_before_any_work(run, images: Path) -> None:
    result = run("caption", images, "--model", "/no/such/model", "--output", "captions.xlsx")
    assert result.code == 2
    assert ".csv" in result.err
    assert run("caption", images, "--model", "/no/such/model", "--attention").code == 2


def test_nothing_found(caption, tmp_path: Path) -> None:
    file = tmp_path / "captions.csv"
    (tmp_path / "empty").mkdir()
    result = caption(tmp_path / "empty", "--output", file)
    assert (result.code, result.out) == (1, "")
    assert str(tmp_path / "empty") in result.err and "no images in this folder" in result.err
    assert not file.exists()
    assert caption("-", stdin="").code == 1


def test_too_many_pixels(caption, images: Path) -> None:
    result = caption(images / "red.jpg", "--max-pixels", 100)
    assert (result.code, result.out) == (1, "")
    assert "4,800 pixels" in result.err


def test_a_name_that_is_not_utf8(caption, images: Path, tmp_path: Path) -> None:
    odd = tmp_path / "caf\udce9.jpg"
    try:
        odd.write_bytes((images / "red.jpg").read_bytes())
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    result = caption(tmp_path / "*.jpg", "--json")
    assert result.code == 0
    assert json.loads(result.out)["image"] == str(odd)
    assert caption(tmp_path / "*.jpg", "--output", tmp_path / "out.csv").code == 0
    assert b"caf\xe9.jpg" in (tmp_path / "out.csv").read_bytes()


def test_an_unknown_model(run, images: Path) -> None:
    result = run("caption", images, "--model", "show_atend_tell")
    assert result.code == 1
    assert result.err.startswith("error: model 'show_atend_tell' does not exist.")


def expected(translator: Path, captions: list[str]) -> list[str]:
    from captioner import Translator

    return [translation.text for translation in Translator.from_pretrained(translator, device="cpu")(captions)]


def test_captions_are_translated(caption, images: Path, translator: Path) -> None:
    names = [images / "red.jpg", images / "broken.jpg", images / "green.png", images / "blue.jpg"]
    plain = [json.loads(line) for line in caption(*names, "--json").lines]
    result = caption(*names, "--translator", translator, "--json", "--attention", "--batch-size", 2)
    assert result.code == 1
    records = [json.loads(line) for line in result.lines]
    assert [record["image"] for record in records] == [str(name) for name in names] and records[1] == plain[1]
    good = [record for record in records if record["error"] is None]
    assert [record["caption"] for record in good] == [record["caption"] for record in plain if not record["error"]]
    for record, text in zip(good, expected(translator, [record["caption"] for record in good]), strict=True):
        translation = record["translation"]
        assert (translation["language"], translation["text"], translation["source"]) == ("de", text, record["caption"])
        assert "".join(translation["source_tokens"]) == f" {record['caption']}<eos>"
        assert {len(row) for row in translation["attention"]} == {len(translation["source_tokens"])}
        assert len(translation["attention"]) == len(translation["tokens"])
        assert len(record["attention"]) == len(record["tokens"])
    result = caption(images / "red.jpg", "--translator", translator, "--language", "DE")
    assert result.out == f"{good[0]['translation']['text']}\n"


def test_a_language_finds_its_shipped_translator(
    caption, images: Path, translator: Path, shipped_translator: str
) -> None:
    by_language = caption(images / "red.jpg", "--language", "de")
    assert (by_language.code, by_language.err) == (0, "")
    for name in (translator, shipped_translator):
        assert caption(images / "red.jpg", "--translator", name) == by_language


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_files_have_caption_and_translation(caption, images: Path, translator: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"captions.{kind}"
    assert caption(images, "--output", file, "--n-best", 2, "--translator", translator).code == 1
    text = file.read_text(encoding="utf-8")
    if kind == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        assert list(rows[0])[:5] == ["image", "caption", "language", "translation", "log_probability"]
        found = [(row["caption"], row["translation"]) for row in rows if not row["error"]]
        assert [row["language"] for row in rows] == ["" if row["error"] else "de" for row in rows] and len(rows) == 7
    else:
        records = [json.loads(line) for line in text.splitlines()]
        candidates = [each for record in records if not record["error"] for each in (record, *record["others"])]
        found = [(each["caption"], each["translation"]["text"]) for each in candidates]
    captions, translations = zip(*found, strict=True)
    assert len(found) == 6 and list(translations) == expected(translator, list(captions))
    lines = caption(images / "red.jpg", "--n-best", 2, "--translator", translator).lines
    assert [line.split("\t")[0] for line in lines] == list(translations[-2:])


def test_a_language_without_a_translator(
    caption, images: Path, translator: Path, shipped_translator: str, tmp_path: Path
) -> None:
    result = caption(images, "--language", "fr")
    assert (result.code, result.out) == (1, "")
    assert "'fr'" in result.err and "Available languages: de;" in result.err and "--translator" in result.err
    result = caption(images, "--language", "fr", "--translator", translator)
    assert (result.code, result.out) == (1, "") and "translates into 'de', not 'fr'" in result.err
    shutil.rmtree(tmp_path / "program" / "assets" / "translator_en_de")
    assert "Available languages: none;" in caption(images, "--language", "de").err


def test_a_captioner_is_not_a_translator(caption, images: Path, model: Path) -> None:
    result = caption(images / "red.jpg", "--translator", model)
    assert result.code == 1 and "is a captioner and not a translator" in result.err


def test_several_models_write_one_caption(caption, run, model: Path, partner: Path, images: Path) -> None:
    from captioner import Captioner

    alone, options = caption(images / "red.jpg", "--json"), ("--json", "--device", "cpu", "--attention")
    repeated = caption(images / "red.jpg", "--model", partner, *options)
    assert (repeated.code, repeated.err) == (0, "") and repeated.out != alone.out
    joined = run("caption", images / "red.jpg", "-m", f"{model}+{partner}", *options)
    assert joined.out == repeated.out
    expected = Captioner.from_pretrained(f"{model}+{partner}", device="cpu")(images / "red.jpg")
    record = json.loads(repeated.out)
    assert record["caption"] == expected.text
    assert record["log_probability"] == pytest.approx(expected.log_probability, abs=1e-3)
    assert len(record["attention"]) == len(record["tokens"])
    backwards = run("caption", images / "red.jpg", "-m", partner, "-m", model, "--json", "--device", "cpu")
    assert len(json.loads(backwards.out)["tokens"]) <= 5 and len(record["tokens"]) == 6  # by the first one's settings


def test_names_stay_as_they_were_given(caption, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    given = ["./photos/red.jpg", "photos//blue.jpg", "photos/../photos/green.png", "-", "https://x.org/a.jpg", "./no"]
    result = caption(*given, "--json", "--offline", stdin="photos/./red.jpg\r\n")
    assert result.code == 1
    given[3] = "photos/./red.jpg"
    assert [json.loads(line)["image"] for line in result.lines] == given
    assert "https://x.org/a.jpg: is an address, which is not read offline" in result.err


def test_an_empty_name_is_not_the_working_folder(caption, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    result = caption("", "red.jpg")
    assert result.code == 1 and len(result.lines) == 1 and "'': this name is empty" in result.err
    assert caption("").code == 1


def test_an_image_on_standard_input(caption, images: Path) -> None:
    sentence = caption(images / "red.jpg").out
    result = caption("-", images / "blue.jpg", stdin=(images / "red.jpg").read_bytes())
    assert (result.code, result.err, len(result.lines)) == (0, "", 2)
    assert result.lines[0] == f"-: {sentence.strip()}"
    assert caption("-", stdin=(images / "green.png").read_bytes()).code == 0
    bad = caption("-", stdin=(images / "red.jpg").read_bytes()[:300])
    assert bad.code == 1 and bad.err.startswith("error: -: damaged or truncated JPEG")
    other = caption("-", stdin=b"%PDF-1.4 and more")
    assert other.code == 1
    assert other.err.splitlines() == [
        "error: standard input: this is neither a list of names nor an image; give the images as files"
    ]


def test_images_in_archives(caption, images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("red.jpg", "broken.jpg", "more/deep.jpg"):
            archive.write(images / name, name)
        archive.writestr("notes.txt", "not an image")
        archive.writestr("__MACOSX/._red.jpg", "not an image")
    result = caption(tmp_path / "two.zip", "--json")
    found = [json.loads(line) for line in result.lines]
    assert [row["image"] for row in found] == [
        f"{tmp_path}/two.zip:{name}" for name in ("red.jpg", "broken.jpg", "more/deep.jpg")
    ]
    assert [row["error"] is None for row in found] == [True, False, True]
    assert found[0]["caption"] == json.loads(caption(images / "red.jpg", "--json").out)["caption"]
    (line,) = caption(tmp_path / "two.zip", "--offline").lines[:1]
    assert line == f"{tmp_path}/two.zip:red.jpg: {json.loads(result.lines[0])['caption']}"
    (tmp_path / "bad.zip").write_bytes((tmp_path / "two.zip").read_bytes()[:-40])
    assert "bad.zip: is not a ZIP file, or damaged" in caption(tmp_path / "bad.zip").err


def test_other_files_in_a_folder_are_counted(caption, images: Path) -> None:
    for name in ("a.mov", "b.MOV", "c.pdf", "d", "red.xmp", ".hidden.mov"):
        (images / name).write_bytes(b"1")
    (images / "@eaDir" / "red.jpg").mkdir(parents=True)
    (images / "@eaDir" / "red.jpg" / "SYNOPHOTO_THUMB_M.jpg").write_bytes((images / "red.jpg").read_bytes())
    result = caption(images, "-r")
    assert "left out 4 files that are not images: 2 .mov, 1 .pdf, 1 without an ending" in result.err
    assert "SYNOPHOTO" not in result.out


def test_an_output_that_is_an_input_is_refused(caption, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("image,caption\n")
    (tmp_path / "same.csv").symlink_to(file)
    for output in (file, tmp_path / "same.csv"):
        result = caption(images / "red.jpg", file, "-o", output)
        assert result.code == 1 and f"{output}: is also an input" in result.err
    assert file.read_text() == "image,caption\n"
