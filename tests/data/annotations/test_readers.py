"""The reader of every format, on small sets, on malformed records, and against pycocotools."""

from __future__ import annotations

import csv
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.data.annotations import read_captions
from captioner.data.dataset import EMPTY_CAPTION, CaptionData, CaptionedImage
from captioner.errors import AnnotationError
from tests.data.caption_files import GOOD_CAPTION, GOOD_IMAGE, SENTENCES, captions_of, coco_with, write


def coco(*images: tuple[int, str, list[str]]) -> dict[str, Any]:
    """COCO's JSON of (id, file name, captions)."""
    captions = [(number, caption) for number, _, captions in images for caption in captions]
    return {
        "info": {},
        "images": [{"id": number, "file_name": name} for number, name, _ in images],
        "annotations": [
            {"id": index, "image_id": number, "caption": text} for index, (number, text) in enumerate(captions)
        ],
    }


def karpathy(*images: tuple[str, str, list[str]], **fields: Any) -> dict[str, Any]:
    """Karpathy's JSON of (file name, split, captions)."""
    records = [
        {"filename": name, "split": split, "sentences": [{"raw": raw, "tokens": raw.split()} for raw in raws], **fields}
        for name, split, raws in images
    ]
    return {"dataset": "flickr8k", "images": records}


def flickr8k(folder: Path, *, token: str, train: str = "", dev: str = "") -> Path:
    write(folder / "Flickr8k.token.txt", token)
    write(folder / "Flickr_8k.trainImages.txt", train)
    write(folder / "Flickr_8k.devImages.txt", dev)
    return folder


def places(data: CaptionData, root: Path) -> list[str]:
    return [str(Path(problem.place).relative_to(root)) for problem in data.problems]


# --------------------------------------------------------------------------------------------------------------- COCO


def test_a_coco_folder_takes_the_splits_from_the_file_names(tmp_path: Path) -> None:
    write(
        tmp_path / "annotations/captions_train2014.json",
        coco((9, "a.jpg", [" A cat. ", "A dog."]), (3, "b.jpg", ["x"])),
    )
    write(tmp_path / "annotations/captions_val2014.json", coco((4, "c.jpg", ["A bird."])))
    write(tmp_path / "annotations/captions_val2014_fakecap_results.json", [{"image_id": 4, "caption": "from a model"}])
    for name in ("train2014/a.jpg", "train2014/b.jpg", "val2014/c.jpg"):
        write(tmp_path / name, b"jpeg")
    data = read_captions(tmp_path)
    assert (data.format, data.problems) == ("coco", ())
    assert data.images == (
        CaptionedImage("9", tmp_path / "train2014/a.jpg", "train", ("A cat.", "A dog.")),
        CaptionedImage("3", tmp_path / "train2014/b.jpg", "train", ("x",)),
        CaptionedImage("4", tmp_path / "val2014/c.jpg", "val", ("A bird.",)),
    )
    assert read_captions(tmp_path / "annotations").images == data.images


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[("captions_train2017.json", "train"), ("captions_val2014.json", "val")],
        *[("my_captions.json", "all"), ("minival.json", "all")],
    ],
)
def test_a_single_coco_file_is_one_split(tmp_path: Path, name: str, split: str) -> None:
    assert read_captions(write(tmp_path / name, coco((1, "a.jpg", ["x"])))).splits == {split: 1}


@pytest.mark.parametrize(
    "place", ["val2014/a.jpg", "a.jpg", "images/a.jpg", "annotations/a.jpg", "images/val2014/a.jpg"]
)
def test_coco_images_are_found_in_their_usual_folders(tmp_path: Path, place: str) -> None:
    file = write(tmp_path / "annotations/captions_val2014.json", coco((1, "a.jpg", ["x"])))
    write(tmp_path / place, b"jpeg")
    assert read_captions(file).images[0].path == tmp_path / place


def test_images_can_be_in_a_separate_folder(tmp_path: Path) -> None:
    file = write(tmp_path / "text/captions_val2014.json", coco((1, "a.jpg", ["x"])))
    image = write(tmp_path / "elsewhere/a.jpg", b"jpeg")
    assert read_captions(file, images=image.parent).images[0].path == image
    with pytest.raises(AnnotationError, match=r"elsehwere.*no such folder"):
        read_captions(file, images=tmp_path / "elsehwere")


def test_a_missing_image_is_expected_next_to_the_others(tmp_path: Path) -> None:
    file = write(tmp_path / "captions_val2014.json", coco((1, "a.jpg", ["x"]), (2, "gone.jpg", ["y"])))
    write(tmp_path / "images/a.jpg", b"jpeg")
    assert [image.path.parent.name for image in read_captions(file).images] == ["images", "images"]


def test_two_years_of_coco_are_not_mixed(tmp_path: Path) -> None:
    for year in ("2014", "2017"):
        write(tmp_path / f"annotations/captions_val{year}.json", coco((1, "a.jpg", ["x"])))
    with pytest.raises(AnnotationError, match="2014 and 2017"):
        read_captions(tmp_path)
    assert read_captions(tmp_path / "annotations/captions_val2017.json").splits == {"val": 1}


def test_captions_never_cross_from_one_coco_file_to_another(tmp_path: Path) -> None:
    write(tmp_path / "captions_train.json", coco((1, "a.jpg", ["in train"])))
    val = write(tmp_path / "captions_val.json", coco((1, "b.jpg", ["in val"]), (2, "c.jpg", ["other"])))
    data = read_captions(tmp_path)
    assert captions_of(data) == {"1": ("in train",), "2": ("other",)}
    assert [problem.place for problem in data.problems] == [f"{val}:$.images[0]", f"{val}:$.annotations[0]"]


# ----------------------------------------------------------------------------------------------------------- Karpathy


def test_karpathys_splits_and_restval(tmp_path: Path) -> None:
    content = karpathy(
        ("a.jpg", "train", ["x"]), ("b.jpg", "restval", ["y"]), ("c.jpg", "val", ["z"]), ("d.jpg", "test", ["w"])
    )
    for number, image in enumerate(content["images"]):
        image |= {"cocoid": 100 + number, "filepath": "val2014"}
    write(tmp_path / "val2014/a.jpg", b"jpeg")
    data = read_captions(write(tmp_path / "dataset_coco.json", content))
    assert data.splits == {"train": 1, "restval": 1, "val": 1, "test": 1}
    assert data.images[0] == CaptionedImage("100", tmp_path / "val2014/a.jpg", "train", ("x",))
    assert [image.image_id for image in data.split("train").images] == ["100"]
    assert [image.image_id for image in data.split("train", restval=True).images] == ["100", "101"]
    assert [image.image_id for image in data.split("val", restval=True).images] == ["102"]


def test_karpathys_flickr_sets_are_known_by_file_name(tmp_path: Path) -> None:
    write(tmp_path / "Flicker8k_Dataset/a.jpg", b"jpeg")
    data = read_captions(write(tmp_path / "dataset_flickr8k.json", karpathy(("a.jpg", "train", ["x"]), imgid=7)))
    assert data.name == "flickr8k"
    assert data.images == (CaptionedImage("a.jpg", tmp_path / "Flicker8k_Dataset/a.jpg", "train", ("x",)),)


def test_a_folder_with_both_is_read_with_karpathys_splits_unless_a_format_is_given(tmp_path: Path) -> None:
    write(tmp_path / "annotations/captions_val2014.json", coco((1, "a.jpg", ["x"])))
    write(tmp_path / "dataset_coco.json", karpathy(("a.jpg", "restval", ["x"])))
    assert read_captions(tmp_path).splits == {"restval": 1}
    assert read_captions(tmp_path, format="coco").splits == {"val": 1}


def test_two_karpathy_files_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name in ("coco", "flickr8k"):
        write(tmp_path / f"dataset_{name}.json", karpathy(("a.jpg", "train", ["x"])))
    with pytest.raises(AnnotationError, match=r"dataset_coco\.json, dataset_flickr8k\.json"):
        read_captions(tmp_path)


# ----------------------------------------------------------------------------------------------------------- Flickr8k


def test_flickr8k_as_released(tmp_path: Path) -> None:
    token = "a.jpg#0\tA dog runs .\na.jpg#1\tA # dog\twith a tab\nb.jpg#0\tA cat .\nc.jpg#0\tNobody lists me .\n"
    flickr8k(tmp_path, token=token, train="a.jpg\n", dev="b.jpg\n\n")
    write(tmp_path / "Flicker8k_Dataset/a.jpg", b"jpeg")
    data = read_captions(tmp_path)
    assert (data.format, data.problems) == ("flickr8k", ())
    assert data.splits == {"train": 1, "dev": 1, "other": 1}
    assert data.images[0].captions == ("A dog runs .", "A # dog\twith a tab")
    assert data.images[0].path == tmp_path / "Flicker8k_Dataset/a.jpg"
    assert read_captions(tmp_path / "Flickr8k.token.txt").images == data.images
    assert data.split("val").images == data.split("dev").images


def test_captions_may_all_have_one_number(tmp_path: Path) -> None:
    data = read_captions(write(tmp_path / "t.txt", "a.jpg#0\tA dog\na.jpg#0\tA hound\na.jpg#0\tA pet\n"), strict=True)
    assert captions_of(data) == {"a.jpg": ("A dog", "A hound", "A pet")}


def test_flickr8ks_two_archives_unpacked_side_by_side(tmp_path: Path) -> None:
    flickr8k(tmp_path / "Flickr8k_text", token="a.jpg#0\tA dog .\n", train="a.jpg\n")
    write(tmp_path / "Flickr8k_Dataset/a.jpg", b"jpeg")
    for path in (tmp_path, tmp_path / "Flickr8k_text"):
        (image,) = read_captions(path).images
        assert (image.split, image.path) == ("train", tmp_path / "Flickr8k_Dataset/a.jpg")


def test_flickr8ks_well_known_bad_name_is_one_problem_unless_the_file_is_there(tmp_path: Path) -> None:
    bad = "2258277193_586949ec62.jpg.1"
    token = "a.jpg#0\tx\n" + "".join(f"{bad}#{number}\tA man .\n" for number in range(5))
    flickr8k(tmp_path, token=token, train="a.jpg\n")
    data = read_captions(tmp_path)
    assert list(captions_of(data)) == ["a.jpg"]
    assert places(data, tmp_path) == ["Flickr8k.token.txt:2"]
    assert bad in data.problems[0].reason
    write(tmp_path / "Flicker8k_Dataset" / bad, b"jpeg")
    data = read_captions(tmp_path)
    assert data.problems == ()
    assert len(captions_of(data)[bad]) == 5


# ------------------------------------------------------------------------------------------------------ Kaggle and CSV


def test_kaggles_captions_txt(tmp_path: Path) -> None:
    text = 'image,caption\na.jpg,A dog runs .\na.jpg,"A dog , which is ""big"" , runs ."\nb.jpg,"Over two\nlines"\n'
    write(tmp_path / "captions.txt", text.replace("\n", "\r\n"))
    write(tmp_path / "Images/a.jpg", b"jpeg")
    data = read_captions(tmp_path)
    assert (data.format, data.problems, data.splits) == ("kaggle", (), {"all": 2})
    assert data.images[0] == CaptionedImage(
        "a.jpg", tmp_path / "Images/a.jpg", "all", ("A dog runs .", 'A dog , which is "big" , runs .')
    )
    assert data.images[1].captions == ("Over two\nlines",)
    assert read_captions(tmp_path / "captions.txt").images == data.images


def test_unquoted_commas_and_quotation_marks_belong_to_the_caption_when_there_are_two_columns(tmp_path: Path) -> None:
    text = (
        'image,caption\na.jpg,A dog , a cat , and "me"\na.jpg,"Stop" says the sign\na.jpg,"never closed\nb.jpg,fine\n'
    )
    data = read_captions(write(tmp_path / "captions.csv", text))
    assert data.problems == ()
    assert captions_of(data) == {
        "a.jpg": ('A dog , a cat , and "me"', '"Stop" says the sign', '"never closed'),
        "b.jpg": ("fine",),
    }


def test_a_csv_with_splits(tmp_path: Path) -> None:
    rows = "\ufeffcaption,Image,width,split\nA dog,sub/a.jpg,3,train\nA cat,b.jpg,3,test\nA hound,sub/a.jpg,3,\n"
    write(tmp_path / "sub/a.jpg", b"jpeg")
    data = read_captions(write(tmp_path / "mine.csv", rows))
    assert data.problems == ()
    assert data.images == (
        CaptionedImage("sub/a.jpg", tmp_path / "sub/a.jpg", "train", ("A dog", "A hound")),
        CaptionedImage("b.jpg", tmp_path / "b.jpg", "test", ("A cat",)),
    )


letters = st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")) | st.sampled_from(list(',"\n#\t '))
texts = st.text(letters, max_size=12).filter(lambda text: bool(text.strip()))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, texts, st.sampled_from(["train", "val"])), min_size=1, max_size=6))
def test_tables_of_pythons_csv_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    file = tmp_path_factory.mktemp("csv") / "captions.csv"
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption", "split"])
        writer.writerows((f"{number}{name}", caption, split) for number, (name, caption, split) in enumerate(rows))
    data = read_captions(file)
    assert data.problems == ()
    expected = [(f"{n}{name}".strip(), split, (caption.strip(),)) for n, (name, caption, split) in enumerate(rows)]
    assert [(image.image_id, image.split, image.captions) for image in data.images] == expected


# -------------------------------------------------------------------------------------------------------------- JSONL


@pytest.mark.parametrize(
    "written",
    [
        """['A dog, "Rex".', "It's red."]""",
        """['A dog, "Rex".'\n "It's red."]""",  # by numpy
        json.dumps(['A dog, "Rex".', "It's red."]),
    ],
)
def test_lists_of_captions_that_were_written_as_text_are_read(tmp_path: Path, written: str) -> None:
    names = ["raw", "filename"]  # as in the table of Flickr30k on the Hugging Face hub
    with open(tmp_path / "captions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, [written, "1.jpg"], ["[a sign] in brackets", "2.jpg"], ["['a']]", "3.jpg"]])
    captions = [image.captions for image in read_captions(tmp_path).images]
    assert captions == [('A dog, "Rex".', "It's red."), ("[a sign] in brackets",), ("['a']]",)]


def test_jsonl_with_one_or_many_captions_a_line(tmp_path: Path) -> None:
    lines = [
        {"image": "a.jpg", "caption": "A dog", "split": "train"},
        {"image": "a.jpg", "caption": "A hound"},
        {"image": "b.jpg", "captions": ["A cat", " Ein Kätzchen "], "split": "val", "licence": "CC0"},
        {"image": "/far/c.jpg", "caption": "A bird"},
    ]
    file = write(
        tmp_path / "captions.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n"
    )
    data = read_captions(tmp_path)
    assert (data.format, data.problems) == ("jsonl", ())
    assert captions_of(data) == {
        "a.jpg": ("A dog", "A hound"),
        "b.jpg": ("A cat", "Ein Kätzchen"),
        "/far/c.jpg": ("A bird",),
    }
    assert [image.split for image in data.images] == ["train", "val", "all"]
    assert [image.path for image in data.images] == [tmp_path / "a.jpg", tmp_path / "b.jpg", Path("/far/c.jpg")]
    assert read_captions(file).images == data.images


# --------------------------------------------------------------------------------------------------- malformed records


def image(**fields: Any) -> dict[str, Any]:
    """COCO's JSON with one more image."""
    return coco_with([fields], [])


def caption(value: object, image_id: int = 1) -> dict[str, Any]:
    """COCO's JSON with one more caption."""
    return coco_with([], [{"image_id": image_id, "caption": value}])


def sentences(value: object, filename: str = "b", **fields: Any) -> dict[str, Any]:
    """Karpathy's JSON with one more image."""
    record = {"filename": filename, "sentences": value, **fields}
    return {"images": [*karpathy(("a.jpg", "train", ["fine"]))["images"], record]}


FINE = '{"image": "a", "caption": "fine"}\n'
IMAGE, ANNOTATION = ["$.images[1]"], ["$.annotations[1]"]
MALFORMED: dict[str, tuple[str, object, list[str], str]] = {
    # name: (file, content, places of the problems, part of the first reason)
    "coco: a field is missing": ("c.json", image(id=2), IMAGE, '"file_name" is missing'),
    "coco: an id of the wrong type": ("c.json", image(id=True, file_name="b"), IMAGE, "true"),
    "coco: not an object": ("c.json", coco_with([7], [None]), [*IMAGE, *ANNOTATION], "a number, not an"),
    "coco: the same image twice": ("c.json", image(**GOOD_IMAGE), IMAGE, "already exists"),
    "coco: the same annotation twice": ("c.json", coco_with([], [GOOD_CAPTION]), ANNOTATION, "already exists"),
    "coco: no such image": ("c.json", caption("x", 5), ANNOTATION, '"5"'),
    "coco: the caption is a list": ("c.json", caption([]), ANNOTATION, "list"),
    "coco: an empty caption": ("c.json", caption(" "), ANNOTATION, EMPTY_CAPTION),
    "coco: no caption": ("c.json", image(id=2, file_name="b"), IMAGE, "no caption"),
    "coco: not UTF-8": ("c.json", json.dumps(caption("@")).encode().replace(b"@", b"\x81"), ANNOTATION, "UTF-8"),
    "karpathy: a field is missing": ("d.json", sentences([]), IMAGE, '"split"'),
    "karpathy: sentences are no list": ("d.json", sentences("x", split="val"), IMAGE, "text, not a list"),
    "karpathy: a sentence without raw": (
        "d.json",
        sentences([*SENTENCES, {"tokens": []}], split="val"),
        ["$.images[1].sentences[1]"],
        '"raw" is missing',
    ),
    "karpathy: the same file twice": ("d.json", sentences(SENTENCES, "a.jpg", split="val"), IMAGE, "already exists"),
    "flickr8k: no tab": ("t.txt", "a.jpg#0\tfine\nb.jpg#0 no tab\n", ["2"], "<TAB>"),
    "flickr8k: no number": ("t.txt", "a.jpg#0\tfine\n\nb.jpg\tno number\n", ["3"], "#number"),
    "flickr8k: empty": ("t.txt", "a.jpg#0\tfine\na.jpg#1\t \n", ["2"], EMPTY_CAPTION),
    "flickr8k: the same line twice": ("t.txt", "a.jpg#0\tfine\na.jpg#0\tfine\n", ["2"], "already exists"),
    "flickr8k: not UTF-8": ("t.txt", b"a.jpg#0\tfine\na.jpg#1\tcaf\x81\n", ["2"], "UTF-8"),
    "flickr8k: a name not in UTF-8": ("t.txt", b"a.jpg#0\tfine\ncaf\x81.jpg#1\tx\n", ["2"], "UTF-8"),
    "kaggle: one column": ("captions.txt", "image,caption\na.jpg,fine\nb.jpg\n", ["3"], "2 columns, this row 1"),
    "kaggle: empty": ("captions.txt", "image,caption\na.jpg,fine\na.jpg,\n", ["3"], EMPTY_CAPTION),
    "csv: a comma too many": ("x.csv", "image,caption,split\na,fine,val\nb,x,y,val\n", ["3"], "3 columns, this row 4"),
    "csv: quotation mark never closed": ("x.csv", 'image,caption,split\nb,"x,val\na,fine,val\n', ["2"], "quotation"),
    "csv: two splits": ("x.csv", "image,caption,split\na,fine,val\na,x,train\n", ["3"], '"train" here and in "val"'),
    "csv: no image": ("x.csv", "image,caption,split\na,fine,val\n,x,train\n", ["3"], '"image" is empty'),
    "jsonl: not JSON": ("x.jsonl", FINE + '{"image": \n', ["2"], "not JSON"),
    "jsonl: no caption": ("x.jsonl", FINE + '{"image": "b"}\n', ["2"], '"caption" is missing'),
    "jsonl: half a surrogate": ("x.jsonl", '{"image": "a", "captions": ["fine", "\\ud83d"]}', ["1"], "UTF-8"),
    "jsonl: the split is a number": (
        "x.jsonl",
        FINE + '{"image": "b", "caption": "x", "split": 1}',
        ["2"],
        '"split" is a number',
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_records_are_skipped_and_reported_with_their_place(tmp_path: Path, case: str) -> None:
    name, content, expected, reason = MALFORMED[case]
    file = write(tmp_path / name, content)
    data = read_captions(file)
    assert data.format == {"c.json": "coco", "d.json": "karpathy"}.get(name, case.split(":")[0])
    assert [problem.place for problem in data.problems] == [f"{file}:{place}" for place in expected]
    assert reason in data.problems[0].reason
    str(data.problems[0]).encode("utf-8")  # can be printed
    assert data.images[0].captions == ("fine",)
    with pytest.raises(AnnotationError) as caught:
        read_captions(file, strict=True)
    assert str(caught.value) == str(data.problems[0])


def test_an_image_without_captions_is_left_out(tmp_path: Path) -> None:
    text = "image,caption\na.jpg,fine\nb.jpg,\nb.jpg,  \n"
    data = read_captions(write(tmp_path / "x.csv", text))
    assert list(captions_of(data)) == ["a.jpg"]
    assert places(data, tmp_path) == ["x.csv:3", "x.csv:4", "x.csv:3"]
    assert [problem.reason for problem in data.problems[:2]] == [EMPTY_CAPTION] * 2
    assert '"b.jpg" has no caption' in data.problems[2].reason


def test_flickr8ks_lists_are_checked_against_its_captions(tmp_path: Path) -> None:
    flickr8k(tmp_path, token="a.jpg#0\tfine\n", train="a.jpg\nb.jpg\n", dev="a.jpg\n")
    data = read_captions(tmp_path)
    assert data.splits == {"train": 1}
    assert places(data, tmp_path) == ["Flickr_8k.devImages.txt:1", "Flickr_8k.trainImages.txt:2"]
    assert "already exists" in data.problems[0].reason
    assert "has no caption" in data.problems[1].reason


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_coco_reader_agrees_with_pycocotools(shared_data: Path, split: str) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco")
    file = shared_data / f"coco/annotations/captions_{split}2014.json"
    with redirect_stdout(StringIO()):
        reference = pycocotools.COCO(str(file))
    expected = {
        str(number): (
            reference.imgs[number]["file_name"],
            tuple(a["caption"].strip() for a in reference.imgToAnns[number]),
        )
        for number in reference.getImgIds()
    }
    data = read_captions(file)
    assert {image.image_id: (image.path.name, image.captions) for image in data.images} == expected


def test_coco_images_without_public_captions(tmp_path: Path) -> None:
    image = write(tmp_path / "test2015" / "COCO_test2015_000000000001.jpg", b"")
    for name in ("image_info_test2015.json", "image_info_test-dev2015.json"):
        content = {"images": [{"id": 1, "file_name": "COCO_test2015_000000000001.jpg"}], "categories": []}
        file = write(tmp_path / "annotations" / name, content)
        data = read_captions(file, captionless=True)
        assert data.images == (CaptionedImage("1", image, "test", ()),)
        with pytest.raises(AnnotationError, match="no image with a caption"):
            read_captions(file)


def test_images_without_captions_are_kept_on_request(tmp_path: Path) -> None:
    text = '{"image": "a.jpg", "captions": []}\n{"image": "b.jpg", "caption": "a dog"}\n'
    file = write(tmp_path / "data.jsonl", text)
    assert [image.captions for image in read_captions(file, captionless=True).images] == [(), ("a dog",)]
    assert [image.image_id for image in read_captions(file).images] == ["b.jpg"]
