"""Recognising and reading whole caption files and folders: unusable, fuzzed and real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.data.annotations import FORMATS, read_captions, reader
from captioner.data.annotations.source import Source
from captioner.errors import AnnotationError
from tests.data.caption_files import GOOD_IMAGE, SENTENCES, captions_of, coco_with, write

# -------------------------------------------------------------------------------------------------- whole-file trouble

USELESS: dict[str, tuple[str, object, str]] = {
    "empty": ("x.json", b"", "the file is empty"),
    "blank": ("captions.csv", " \n\n", "the file is empty"),
    "cut short": ("x.json", '{"images": [\n  {"id": 1,', r"is not JSON \(.* line 2 column \d+.*copy it again"),
    "JSON lines without captions": ("x.json", '{"image": "a"}\n{"image": "b"}', r"is not JSON \(Extra data.*\.jsonl"),
    "a list": ("x.json", [1, 2], r"no known caption format; it begins with '\[1, 2\]'; known are karpathy: .* coco: "),
    "prose": ("x.txt", "Dear reader,\n", "no known caption format"),
    "too deep": ("x.json", "[" * 100_000, "nested too deeply"),
    "images is no list": ("x.json", {"images": {}, "annotations": []}, r'"images" is an object, not a list'),
    "boxes instead of captions": (
        "x.json",
        {"images": [GOOD_IMAGE], "annotations": [{"image_id": 1, "bbox": []}]},
        r'2 records are malformed, the first: .*:\$.annotations\[0\]: the field "caption" is missing',
    ),
    "nothing in it": ("x.json", {"images": [], "annotations": []}, "no image with a caption"),
    "other columns": ("x.csv", "name,words\na.jpg,A dog\n", r"x\.csv:1: this line must .* it is 'name,words'"),
    "no names of images": ("x.csv", "a,A dog\n", r"x\.csv:1: this line must be the header image,caption"),
    "UTF-16 without a mark": ("x.csv", "image,caption\na,b\n".encode("utf-16-le"), "UTF-16 without a mark.*UTF-8"),
    "UTF-16 cut short": ("x.csv", "image,caption\na,b\n".encode("utf-16")[:-1], "is not UTF-16 text to its end"),
    "Russian in Windows-1251": ("x.csv", "image,caption\na.jpg,Белая собака\n".encode("cp1251"), r":2: is not UTF-8"),
    "Chinese in GBK": ("x.csv", "image,caption\na.jpg,一只白色的狗在草地上奔跑\n".encode("gbk"), r":2: is not UTF-8"),
    "Polish in Windows-1250": ("x.csv", ("image,caption\n" + "a.jpg,żółta łódź\n" * 3).encode("cp1250"), "not UTF-8"),
    "an old Mac's encoding": ("x.csv", ("image,caption\r" + "a.jpg,le café brûlé\r" * 4).encode("mac-roman"), "UTF-8"),
    "a spreadsheet": ("x.xlsx", b"PK\x03\x04" + bytes(40), "is a zip archive or a spreadsheet; .* CSV"),
    "gzip": ("x.csv.gz", b"\x1f\x8b\x08" + bytes(40), "compressed by gzip"),
    "an image": ("x.jpg", b"\xff\xd8\xff\xe0" + bytes(40), "is an image; give a caption file"),
    "zero bytes": ("x.csv", b"image,caption\na.jpg,A dog\0\n", "not text, since it has zero bytes"),
}


@pytest.mark.parametrize("case", USELESS)
def test_an_unusable_file_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    name, content, message = USELESS[case]
    file = write(tmp_path / name, content)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_captions(file)
    assert str(caught.value).startswith(str(file))


def test_the_error_of_a_folder_without_captions_lists_the_formats(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_captions(tmp_path)
    for name in FORMATS:
        assert f"{name}: " in str(caught.value)
    assert "Flickr8k.token.txt" in str(caught.value)
    with pytest.raises(AnnotationError, match=r"looked for kaggle: captions\.txt$"):
        read_captions(tmp_path, format="kaggle")


@pytest.mark.parametrize("name", ["nothing", "x" * 5000, "nul\0byte"])
def test_a_missing_path_is_an_annotation_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(AnnotationError):
        read_captions(tmp_path / name)


def test_for_an_unknown_format_the_nearest_one_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(
        AnnotationError, match=r"Did you mean 'karpathy'\? Known: karpathy, coco, flickr8k, kaggle, jsonl, csv"
    ):
        read_captions(tmp_path, format="karpaty")


def test_a_reader_from_outside_is_tried_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FORMATS, "_entries", dict(FORMATS._entries))

    @reader("lines", "photos.lines", accepts=lambda source: source.path.suffix == ".lines")
    def lines(source: Source) -> None:
        for number, line in enumerate((source.root / "photos.lines").read_text().splitlines()):
            name, caption = line.split("|")
            source.add_image(name, source.find(name, source.root), "train", f"line {number}")
            source.add_caption(name, caption)

    write(tmp_path / "photos.lines", "1.jpg|a dog runs")
    for path in (tmp_path, tmp_path / "photos.lines"):
        data = read_captions(path)
        assert data.format == "lines" and data.images[0].captions == ("a dog runs",)
    write(tmp_path / "captions.csv", "image,caption\n2.jpg,a cat")
    assert read_captions(tmp_path).format == "lines" and read_captions(tmp_path, format="csv").format == "csv"


# ------------------------------------------------------------------------------------------------------------- fuzzing

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["", "a", " ", "a.jpg", "\0", "..", "/"])
)
anything = st.recursive(
    scalars | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def record(*keys: str, **others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Records that have nearly the right fields with nearly the right values."""
    fields = dict.fromkeys(keys, scalars | anything) | others
    return st.fixed_dictionaries({}, optional=fields) | anything


sentences = st.lists(record("raw", "tokens"), max_size=3) | anything
image = record("id", "file_name", "filename", "split", "filepath", "cocoid", sentences=sentences)
annotation = record("id", "image_id", "caption")
fine_image = GOOD_IMAGE | {"filename": "a.jpg", "split": "train", "sentences": SENTENCES}
fuzzed_images, fuzzed_captions = st.lists(st.just(fine_image) | image, max_size=4), st.lists(annotation, max_size=4)
document = st.builds(coco_with, fuzzed_images, fuzzed_captions) | record(
    "dataset", images=fuzzed_images | anything, annotations=fuzzed_captions | anything
)
json_line = record("image", "caption", "captions", "split").map(json.dumps)


def check_never_anything_else(file: Path) -> None:
    for format in (None, *FORMATS):
        try:
            data = read_captions(file, format=format)
        except AnnotationError as error:
            assert str(error)
            continue
        ids = [image.image_id for image in data.images]
        assert ids and len(set(ids)) == len(ids)
        for image in data.images:
            assert image.captions and all(caption and caption == caption.strip() for caption in image.captions)


@settings(max_examples=150, deadline=None)
@given(document)
def test_any_json_gives_captions_or_an_annotation_error(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    check_never_anything_else(write(tmp_path_factory.getbasetemp() / "fuzz.json", content))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["fuzz.json", "fuzz.jsonl", "fuzz.csv", "fuzz.txt"]),
    st.sampled_from(
        [b"", b"image,caption\n", b"image,caption,split\n", b"a.jpg#0\tx\n", b'{"images":', b"\xef\xbb\xbf"]
    ),
    st.lists(
        st.binary(max_size=12) | json_line.map(str.encode) | st.sampled_from([b'"', b",", b"a,b", b"a#1\tb"]),
        max_size=5,
    ),
)
def test_any_bytes_give_captions_or_an_annotation_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, start: bytes, lines: list[bytes]
) -> None:
    check_never_anything_else(write(tmp_path_factory.getbasetemp() / name, start + b"\n".join(lines)))


# ----------------------------------------------------------------------------------------------------------- real data


def test_the_real_flickr8k(shared_data: Path) -> None:
    data = read_captions(shared_data / "flickr8k")
    assert (data.format, data.problems) == ("flickr8k", ())
    assert data.splits == {"train": 6000, "dev": 1000}
    assert {len(image.captions) for image in data.images} == {5}
    assert all(image.path.is_file() for image in data.images[::50])


def test_the_real_coco_in_karpathys_splits(shared_data: Path) -> None:
    data = read_captions(shared_data / "coco")
    assert (data.format, data.problems) == ("karpathy", ())
    assert data.splits == {"train": 435, "restval": 513, "val": 83}
    assert len(data.split("train", restval=True).images) == 948
    assert all(image.path.is_file() for image in data.images)


def test_cocos_own_files_and_karpathys_hold_the_same(shared_data: Path) -> None:
    own = read_captions(shared_data / "coco", format="coco")
    karpathys = read_captions(shared_data / "coco")
    assert len(own.images) == 1031
    assert captions_of(own) == captions_of(karpathys)
    assert {image.image_id: image.path for image in own.images} == {
        image.image_id: image.path for image in karpathys.images
    }


def test_reading_captions_needs_neither_torch_nor_numpy() -> None:
    program = (
        "import sys, captioner.data.annotations, captioner.data.inspect; print({'torch', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
