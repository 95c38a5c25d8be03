"""The index has every photo once, as it is now, with the texts that belong to it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner import Captioner
from captioner.engines.engine import averaged, spread
from captioner.errors import FileError
from captioner.metadata import embed
from captioner.retrieval import INDEX, PhotoIndex, Report, open_index
from captioner.retrieval.texts import read_record
from tests.cli.conftest import paint, tiny_model
from tests.disks import small_disk


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    return Captioner.from_pretrained(
        tiny_model(tmp_path_factory.mktemp("models") / "tiny", "show_attend_tell"), device="cpu"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    paint(tmp_path / "photos")
    return tmp_path / "photos"


@contextmanager
def updated(folder: Path, captioner: Captioner | None, *records: Path, model: str = "m") -> Iterator[PhotoIndex]:
    with open_index(folder / INDEX, folder) as index:
        index.report = update(index, captioner, *records, model=model)  # type: ignore[attr-defined]
        yield index


def update(index: PhotoIndex, captioner: Captioner | None, *records: Path, model: str = "m") -> Report:
    def load() -> Captioner:
        assert captioner is not None, "nothing is to be encoded"
        return captioner

    photos = sorted(path for path in index.folder.iterdir() if path.suffix in (".jpg", ".png"))
    return index.update(photos, model, load, records=records)


def counts(report: Report) -> tuple[int, int, int, int]:
    return report.new, report.changed, report.before, report.gone


def test_features_are_those_of_the_encoder(folder: Path, captioner: Captioner) -> None:
    from captioner.data.loader import ImageLoader

    with updated(folder, captioner) as index:
        names, parts = index.names(), index.parts()
    paths = [folder / name.decode() for name in names]
    loaded = list(captioner.engine.features(ImageLoader(paths, captioner.transform)))
    features = np.concatenate([found for _, found in loaded])
    assert names == [b"blue.jpg", b"green.png", b"red.jpg"]
    grid = captioner.engine.grid
    assert grid is not None
    expected = averaged(features, grid, 2)
    assert parts.shape == expected.shape
    np.testing.assert_allclose(parts, expected, atol=float(np.abs(expected).max()) / 127)
    assert np.abs(parts).max() > 0


@pytest.mark.parametrize("grid", [(14, 14), (5, 7), (2, 3)])
def test_parts_are_means_of_their_cells(grid: tuple[int, int]) -> None:
    rows, columns = grid
    features = np.random.default_rng(0).normal(size=(2, rows * columns, 3)).astype(np.float32)
    parts = averaged(features, grid, 2)
    cells = features.reshape(2, rows, columns, 3)
    top, left = -(-rows // 2), -(-columns // 2)
    np.testing.assert_allclose(parts[:, 1], cells[:, :top, left:].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(parts[:, 2], cells[:, top:, :left].mean((1, 2)), rtol=1e-5)
    again = spread(parts, grid).reshape(2, rows, columns, 3)
    np.testing.assert_array_equal(again[:, 0, 0], parts[:, 0])
    np.testing.assert_array_equal(again[:, -1, 0], parts[:, 2])
    np.testing.assert_allclose(averaged(spread(parts, grid), grid, 2), parts, rtol=1e-5)


def test_only_what_is_new_or_changed_is_encoded(folder: Path, captioner: Captioner) -> None:
    with updated(folder, captioner) as index:
        assert counts(index.report) == (3, 0, 0, 0)  # type: ignore[attr-defined]
        before = index.parts()
    with updated(folder, None) as index:
        assert counts(index.report) == (0, 0, 3, 0)  # type: ignore[attr-defined]
    shutil.copy(folder / "red.jpg", folder / "more.jpg")
    Image.open(folder / "red.jpg").rotate(180).save(folder / "blue.jpg")
    (folder / "green.png").unlink()
    with updated(folder, captioner) as index:
        assert counts(index.report) == (1, 1, 1, 1)  # type: ignore[attr-defined]
        assert index.names() == [b"blue.jpg", b"more.jpg", b"red.jpg"]
        after = index.parts()
    np.testing.assert_array_equal(after[2], before[2])
    assert not np.array_equal(after[0], before[0])
    with updated(folder, captioner, model="another") as index:
        assert counts(index.report) == (3, 0, 0, 0)  # type: ignore[attr-defined]


def test_a_damaged_photo_is_removed_from_the_index_and_no_other(folder: Path, captioner: Captioner) -> None:
    with updated(folder, captioner):
        pass
    (folder / "red.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    for _ in range(2):  # it is reported each time
        with updated(folder, captioner) as index:
            (error,) = index.report.errors  # type: ignore[attr-defined]
            assert str(error).startswith(f"{folder / 'red.jpg'}: ")
            assert index.names() == [b"blue.jpg", b"green.png"]


def test_texts_are_those_of_sidecars_metadata_and_records(folder: Path, captioner: Captioner, tmp_path: Path) -> None:
    (folder / "red.txt").write_text("Anna's  bicycle\n")
    embed(folder / "blue.jpg", "Otto rides")
    record = tmp_path / "rows.jsonl"
    row = {"image": "elsewhere/photos/green.png", "caption": "A dog runs.", "translation": {"text": "Ein Hund rennt."}}
    record.write_text(json.dumps(row) + "\n")
    with updated(folder, captioner, record) as index:
        assert index.texts.of(b"red.jpg") == "Anna's bicycle"
        assert index.texts.of(b"blue.jpg") == "Otto rides"
        assert index.texts.of(b"green.png") == "A dog runs.\nEin Hund rennt."
        assert set(index.texts.matches(["running", "ride"])) == {b"blue.jpg", b"green.png"}  # stemmed
        assert set(index.texts.matches(["hund"])) == {b"green.png"}
        assert index.texts.matches(['"', "bicycle OR otto"]) == {}
        assert index.texts.matches([]) == {}
        assert set(index.texts.matches(["running", "ride"], own=False)) == set()
        assert set(index.texts.matches(["bicycle", "hund"], own=False)) == {b"red.jpg"}
    (folder / "red.txt").write_text("Otto's bicycle\n")
    record.unlink()
    with updated(folder, None, record) as index:
        assert "cannot be read" in str(index.report.errors[0])  # type: ignore[attr-defined]
        assert set(index.texts.matches(["otto"])) == {b"blue.jpg", b"red.jpg"} and index.texts.of(b"green.png") == ""


def test_captions_of_photos_that_are_not_searched_stay(folder: Path, captioner: Captioner, tmp_path: Path) -> None:
    record = tmp_path / "rows.jsonl"
    record.write_text("".join(json.dumps({"image": name, "caption": name}) + "\n" for name in ("red.jpg", "blue.jpg")))
    with updated(folder, captioner, record):
        pass
    shutil.copy(folder / "red.jpg", folder / "new.jpg")
    with open_index(folder / INDEX, folder) as index:
        index.update([folder / "new.jpg", folder / "red.jpg"], "m", lambda: captioner, records=[record])
    with updated(folder, None, record) as index:
        assert index.texts.of(b"blue.jpg") == "blue.jpg" and index.texts.of(b"red.jpg") == "red.jpg"


def test_bm25_is_that_of_its_paper(folder: Path, captioner: Captioner) -> None:
    texts = {"red": "a dog and a cat", "blue": "a dog", "green": "the sea at night is dark"}
    for name, text in texts.items():
        (folder / name).with_suffix(".txt").write_text(text)
    with updated(folder, captioner) as index:
        found = index.texts.matches(["dog"])
    documents = [text.split() for text in texts.values()]
    mean = np.mean([len(words) for words in documents])
    holding = sum("dog" in words for words in documents)
    idf = max(1e-6, np.log((len(documents) - holding + 0.5) / (holding + 0.5)))
    for name in ("red", "blue"):
        words = texts[name].split()
        tf = words.count("dog")
        expected = idf * tf * 2.2 / (tf + 1.2 * (1 - 0.75 + 0.75 * len(words) / mean))
        assert found[f"{name}.jpg".encode()] == pytest.approx(expected, rel=1e-4)


def test_rows_name_photos_from_any_folder(tmp_path: Path) -> None:
    photos = {b"a.jpg", b"sub/a.jpg", b"\xff.jpg"}
    rows = [("/x/photos/a.jpg", "1"), ("sub/a.jpg", "2"), ("b.jpg", "3"), ("\udcff.jpg", "4"), ("a.jpg", None)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"image": image, "caption": text}) + "\n" for image, text in rows))
    assert read_record(path, photos) == {b"a.jpg": "1", b"sub/a.jpg": "2", b"\xff.jpg": "4"}
    path.write_text(path.read_text() + '{"image": "a.jpg", "capt')  # by a run that was killed, or has not ended
    assert read_record(path, photos) == {b"a.jpg": "1", b"sub/a.jpg": "2", b"\xff.jpg": "4"}
    table = tmp_path / "rows.csv"
    header, row = "image,caption,language,translation\n", "a.jpg,'=A dog.,de,Ein Hund.\n"
    table.write_text(f"\ufeff{header}{row}a.jpg,The next best caption.,,\n", encoding="utf-8")
    assert read_record(table, photos) == {b"a.jpg": "=A dog.\nEin Hund."}
    table.write_text("file,caption\na.jpg,A dog.\n")
    with pytest.raises(FileError, match=r"rows\.csv: .*\(a row has no 'image'\); give"):
        read_record(table, photos)


@pytest.mark.parametrize(
    "text", ["", "[1]\n", '{"image": 3}\n', "not json\n", "no line end", '{"image": "a", "caption": 1}\n{}\n']
)
def test_other_files_are_refused_as_records(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    if not text:
        assert read_record(path, set()) == {}
        return
    with pytest.raises(FileError, match=r"rows.jsonl: is not what captioner caption --output writes"):
        read_record(path, {b"b"})


def test_other_files_are_refused_as_an_index(folder: Path) -> None:
    place = folder / INDEX
    place.write_bytes(b"my own notes, not a database\n" * 100)
    with pytest.raises(FileError, match="is damaged, or not an index of captioner"), open_index(place, folder):
        pass
    assert place.read_bytes().startswith(b"my own notes")
    place.unlink()
    other = sqlite3.connect(place)
    with other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(FileError, match="is another program's database"), open_index(place, folder):
        pass
    place.unlink()
    with open_index(place, folder):
        pass
    other = sqlite3.connect(place)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(FileError, match="made by another version"), open_index(place, folder):
        pass


def test_a_damaged_index_is_reported(folder: Path, captioner: Captioner) -> None:
    with updated(folder, captioner):
        pass
    data = bytearray((folder / INDEX).read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (folder / INDEX).write_bytes(data)
    with pytest.raises(FileError, match=f"{INDEX}: is damaged"), updated(folder, captioner):
        pass


def test_a_full_disk_is_named_and_leaves_a_whole_index(captioner: Captioner, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as place:
        folder = place / "photos"
        paint(folder)
        with updated(folder, captioner) as index:
            whole = index.names()
        for number in range(9):
            shutil.copy(folder / "red.jpg", folder / f"{number}.jpg")
        filler = place / "filler"
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        with pytest.raises(FileError, match="full"), updated(folder, captioner):
            pass
        filler.unlink()
        with updated(folder, captioner) as index:
            assert set(whole) < set(index.names()) and len(index.names()) == 12


def test_a_killed_run_loses_nothing_that_was_written(folder: Path, captioner: Captioner) -> None:
    with updated(folder, captioner):
        pass
    code = (
        "import sqlite3, os, sys\n"
        "base = sqlite3.connect(sys.argv[1])\n"
        "base.execute('DELETE FROM photos')\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, folder / INDEX], check=False).returncode == 9
    with updated(folder, None) as index:
        assert len(index.names()) == 3
