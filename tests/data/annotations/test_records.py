"""Tables and JSON records with other delimiters, names, encodings and line ends, or no header."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captioner.data.annotations import read_captions
from captioner.data.annotations.records import FieldLayout, layout_of, rows_of, table_of
from captioner.data.dataset import EMPTY_CAPTION
from tests.data.caption_files import captions_of, write

TWO = {"a.jpg": ("A dog", "A hound"), "b.jpg": ("Ein Kätzchen, müde",)}
ROWS = [("a.jpg", "A dog"), ("a.jpg", "A hound"), ("b.jpg", "Ein Kätzchen, müde")]


def table(delimiter: str, header: str = "image,caption", rows: list[tuple[str, str]] | None = None) -> str:
    lines = [header.replace(",", delimiter)] if header else []
    return "\n".join([*lines, *(delimiter.join(row) for row in rows or ROWS)]) + "\n"


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt", "x"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "| "])
def test_a_table_may_have_any_usual_delimiter(tmp_path: Path, delimiter: str, name: str) -> None:
    data = read_captions(write(tmp_path / name, table(delimiter)))
    assert captions_of(data) == TWO and not data.problems and data.splits == {"all": 2}


@pytest.mark.parametrize(
    "header",
    [
        *("filename,caption", "file_name,text", "image_name,sentence", "img,description", "path,comment"),
        *("File Path,raw", '"image","caption"', "IMAGE,CAPTION", "image_path, captions", "imageid,caption"),
        *("photo,text", "picture,text"),
    ],
)
def test_columns_have_their_usual_names(tmp_path: Path, header: str) -> None:
    data = read_captions(write(tmp_path / "x.csv", table(",", header)))
    assert captions_of(data) == TWO and not data.problems


def test_flickr30k_as_released(tmp_path: Path) -> None:
    text = (
        "image_name| comment_number| comment\n"
        "1000092795.jpg| 0| Two young guys with shaggy hair look at their hands .\n"
        '1000092795.jpg| 1| A man says " stop | now " .\n'
        "2199200615.jpg| 4   A dog runs across the grass .\n"  # its one line without a bar
    )
    write(tmp_path / "flickr30k_images/1000092795.jpg", b"jpeg")
    for data in (read_captions(write(tmp_path / "results.csv", text)), read_captions(tmp_path)):
        assert data.format == "csv"
        (image,) = data.images
        assert image.path == tmp_path / "flickr30k_images/1000092795.jpg"
        assert image.captions == (
            "Two young guys with shaggy hair look at their hands .",
            'A man says " stop | now " .',
        )
        assert [problem.place.rpartition(":")[2] for problem in data.problems] == ["4"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "latin-1"])
def test_any_line_end_and_encoding_of_an_editor_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    file = write(tmp_path / "x.csv", table(";").replace("\n", end).encode(encoding))
    data = read_captions(file, strict=True)
    assert captions_of(data) == TWO
    guessed = [f"{file}: is not UTF-8 and was read as Windows-1252, with words such as 'Kätzchen'"]
    assert [note.partition("; if")[0] for note in data.notes] == (guessed if encoding in ("cp1252", "latin-1") else [])


def test_the_only_character_beyond_ascii_may_be_a_space(tmp_path: Path) -> None:
    data = read_captions(write(tmp_path / "x.csv", b"image,caption\na.jpg,A\xa0dog\n"))
    assert captions_of(data) == {"a.jpg": ("A\xa0dog",)} and r"words such as '\xa0'" in data.notes[0]


def test_a_few_damaged_bytes_cost_only_their_records(tmp_path: Path) -> None:
    text = table(",").encode() + b"c.jpg,A caf\xe9\nd.jpg,A bird\n"  # the others are UTF-8
    data = read_captions(write(tmp_path / "x.csv", text))
    assert captions_of(data) == TWO | {"d.jpg": ("A bird",)} and "UTF-8" in data.problems[0].reason


@pytest.mark.parametrize("delimiter", ["\t", "|", ";", ","])
def test_a_table_without_a_header_is_known_by_its_image_files(tmp_path: Path, delimiter: str) -> None:
    rows = ROWS if delimiter != "," else ROWS[:2]
    data = read_captions(write(tmp_path / "x.txt", table(delimiter, "", rows)))
    assert captions_of(data) == dict(list(TWO.items())[: len({name for name, _ in rows})]) and not data.problems


def test_columns_without_a_header_are_recognised_by_their_contents(tmp_path: Path) -> None:
    text = "0\tA dog\ta.jpg\tTrain\n1\tA cat\tb.jpg\tvalidation\n"
    data = read_captions(write(tmp_path / "x.tsv", text))
    assert captions_of(data) == {"a.jpg": ("A dog",), "b.jpg": ("A cat",)} and data.splits == {"train": 1, "val": 1}
    commas = "a.jpg,A dog\nb.jpg,A cat, and a bird, asleep\n"
    assert captions_of(read_captions(write(tmp_path / "y.csv", commas)))["b.jpg"] == ("A cat, and a bird, asleep",)


def test_a_table_may_have_several_columns_of_captions(tmp_path: Path) -> None:
    text = "image,caption1,caption2,caption_3,split\na.jpg,A dog,,A hound,train\nb.jpg,,,,train\n"
    data = read_captions(write(tmp_path / "x.csv", text))
    assert captions_of(data) == {"a.jpg": ("A dog", "A hound")}
    assert {problem.reason for problem in data.problems[:-1]} == {EMPTY_CAPTION}


def test_cells_may_have_line_ends_and_quotation_marks(tmp_path: Path) -> None:
    text = 'split;image;caption\ntrain;a.jpg;"Over\ntwo; lines"\ntrain;b.jpg;A "big" dog; asleep\n'
    assert captions_of(read_captions(write(tmp_path / "x.csv", "sep=;\n" + text))) == {
        "a.jpg": ("Over\ntwo; lines",),
        "b.jpg": ('A "big" dog; asleep',),
    }
    tabs = 'image\tcaption\na.jpg\t"Stop" says the sign\nb.jpg\t"never closed\nc.jpg\tThey say "so"\n'
    assert captions_of(read_captions(write(tmp_path / "x.tsv", tabs + 'd.jpg\t"Over\ntwo"\n'))) == {
        "a.jpg": ('"Stop" says the sign',),
        "b.jpg": ('"never closed',),
        "c.jpg": ('They say "so"',),
        "d.jpg": ("Over\ntwo",),
    }


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.txt"])
def test_json_records_are_read_under_any_name(tmp_path: Path, name: str) -> None:
    records = [{"file_name": "a.jpg", "text": "A dog", "split": "Training"}, {"file_name": "b.jpg", "text": ["A cat"]}]
    lines = "\n".join(map(json.dumps, records))
    for content in (lines, json.dumps(records)) if name != "x.jsonl" else (lines,):
        data = read_captions(write(tmp_path / name, content))
        assert (data.format, data.problems) == ("jsonl", ())
        assert captions_of(data) == {"a.jpg": ("A dog",), "b.jpg": ("A cat",)}
        assert data.splits == {"train": 1, "all": 1}


def test_captions_have_a_maximum_length(tmp_path: Path) -> None:
    data = read_captions(write(tmp_path / "x.tsv", f"image\tcaption\na.jpg\tA dog\nb.jpg\t{'long ' * 50_000}\n"))
    assert captions_of(data) == {"a.jpg": ("A dog",)}
    assert data.problems[0].reason.startswith("the caption has 250,000 letters, more than the 20,000")


@pytest.mark.parametrize(
    ("written", "split"),
    [
        *(("Train", "train"), ("TRAIN ", "train"), ("training", "train"), ("validation", "val"), ("Valid", "val")),
        *(("dev", "dev"), ("development", "dev"), ("test ", "test"), ("  ", "all"), ("Extra", "extra")),
    ],
)
def test_splits_have_one_name(tmp_path: Path, written: str, split: str) -> None:
    files = [
        write(tmp_path / "x.csv", f"image,caption,split\na.jpg,A dog,{written}\n"),
        write(tmp_path / "x.jsonl", json.dumps({"image": "a.jpg", "caption": "A dog", "split": written})),
        write(
            tmp_path / "dataset_x.json",
            {"images": [{"filename": "a.jpg", "split": written, "sentences": [{"raw": "A dog"}]}]},
        ),
    ]
    for file in files:
        data = read_captions(file, strict=True)
        assert data.splits == {split: 1} and len(data.split(written).images) == 1


@pytest.mark.parametrize(
    "written",
    [
        "a.jpg",
        "./a.jpg",
        ".\\a.jpg",
        "C:\\Users\\me\\a.jpg",
        "/home/me/data/a.jpg",
        "images/a.jpg",
        "A.JPG",
        "old\\sub/a.jpg",
    ],
)
def test_images_are_found_by_the_end_of_their_names(tmp_path: Path, written: str) -> None:
    image = write(tmp_path / "images/a.jpg", b"jpeg")
    data = read_captions(write(tmp_path / "x.jsonl", json.dumps({"image": written, "caption": "A dog"})))
    assert data.images[0].path.resolve() == image and data.images[0].image_id == written
    exact = written in ("a.jpg", "./a.jpg", "images/a.jpg")
    assert len(data.notes) == (not exact) and all("1 images are missing at" in note for note in data.notes)


def test_names_in_another_form_of_unicode_or_case_are_found(tmp_path: Path) -> None:
    """Archives from macOS spell an umlaut as two characters."""
    image = write(tmp_path / "Gra\u0308ser/A\u0308pfel.jpg", b"jpeg")
    names = ["Gr\u00e4ser/\u00c4pfel.jpg", "/Users/me/gr\u00e4ser/\u00e4pfel.JPG"]
    for name in names:
        data = read_captions(write(tmp_path / "x.jsonl", json.dumps({"image": name, "caption": "A dog"})))
        assert data.images[0].path == image and data.images[0].image_id == name and len(data.notes) == 1
    again = read_captions(tmp_path / "x.jsonl", images=tmp_path)
    assert again.images[0].path == image


def test_an_ambiguous_end_of_a_name_finds_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", b"jpeg")
    names = ["/one/a.jpg", "/two/a.jpg"]
    data = read_captions(write(tmp_path / "x.csv", table(",", rows=[(name, "A dog") for name in names])))
    assert [str(image.path) for image in data.images] == names and not data.notes


def test_images_are_found_in_subfolders_of_the_folder_that_was_given(tmp_path: Path) -> None:
    for name in ("p/one/a.jpg", "p/one/b.jpg", "p/two/b.jpg"):
        write(tmp_path / name, b"jpeg")
    file = write(tmp_path / "x.csv", table(",", rows=[("a.jpg", "A dog"), ("b.jpg", "A cat")]))
    data = read_captions(file, images=tmp_path / "p")
    assert [image.path for image in data.images] == [tmp_path / "p/one/a.jpg", tmp_path / "p/b.jpg"]


# ------------------------------------------------------------------------------------------------------- ids of COCO


def coco(images: list[object], captions: list[tuple[object, object, str]]) -> dict[str, object]:
    return {
        "images": [{"id": number, "file_name": f"{index}.jpg"} for index, number in enumerate(images)],
        "annotations": [{"id": own, "image_id": image, "caption": text} for own, image, text in captions],
    }


@pytest.mark.parametrize("own", [0, None, "", True, [1]])
def test_ids_of_annotations_need_not_be_unique(tmp_path: Path, own: object) -> None:
    texts = ("a dog", "a hound", "a dog")
    data = read_captions(write(tmp_path / "x.json", coco([1], [(own, 1, text) for text in texts])), strict=True)
    assert captions_of(data) == {"1": texts}


@pytest.mark.parametrize(
    ("image", "caption"), [(17, 17.0), (17.0, 17), ("17", 17), (17, "17"), (17.0, "17"), (17, "17.0")]
)
def test_an_id_is_one_number_however_it_is_written(tmp_path: Path, image: object, caption: object) -> None:
    data = read_captions(write(tmp_path / "x.json", coco([image], [(1, caption, "a dog")])), strict=True)
    assert captions_of(data) == {"17": ("a dog",)}


@pytest.mark.parametrize("wrong", [17.5, float("nan"), float("inf"), True, None, {}])
def test_an_invalid_id_is_malformed(tmp_path: Path, wrong: object) -> None:
    data = read_captions(write(tmp_path / "x.json", coco([1, wrong], [(1, 1, "a dog")])))
    assert len(data.problems) == 1 and "not a whole number or text" in data.problems[0].reason


def test_captions_of_an_id_that_several_images_have_are_given_to_none(tmp_path: Path) -> None:
    data = read_captions(write(tmp_path / "x.json", coco([0, 0, 3], [(1, 0, "a dog"), (2, 3, "a cat")])))
    assert captions_of(data) == {"3": ("a cat",)}
    assert [problem.reason for problem in data.problems] == [
        "the id \"0\" belongs to several images, such as '0.jpg' and '1.jpg'"
    ] * 3


def test_of_several_columns_of_lists_the_first_is_read() -> None:
    assert layout_of(("image", "captions", "Captions ", "split")) == FieldLayout(0, (1,), 3)
    assert layout_of(("image", "caption1", "caption_2")) == FieldLayout(0, (1, 2), None)


@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_an_open_quotation_mark_does_not_swallow_the_next_row(delimiter: str) -> None:
    lines = ["image_caption", 'a.jpg_"big dog', 'b.jpg_a cat"', "c.jpg_x"]
    lines = [line.replace("_", delimiter) for line in lines]
    table = table_of(lines)
    assert table is not None and (table.columns, table.first) == (2, 1)
    cells = [["a.jpg", '"big dog'], ["b.jpg", 'a cat"'], ["c.jpg", "x"]]
    assert list(rows_of(lines, table)) == list(enumerate(cells, start=1))
