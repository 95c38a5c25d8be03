"""Conversions between formats: read back the same, and by other programs."""

from __future__ import annotations

import io
import json
import os
import tarfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.data.annotations import read_captions
from captioner.data.convert import WRITABLE, convert, format_of_target
from captioner.data.dataset import CaptionData, CaptionedImage
from captioner.errors import AnnotationError
from tests.data.caption_files import captions_of
from tests.data.test_packed import jpeg, tar_of

COLOURS = {"a.jpg": (250, 0, 0), "b.jpg": (0, 250, 0), "sub/b.jpg": (0, 0, 250), "ö, 'x'.png": (250, 250, 0)}


def data_in(folder: Path, *, splits: tuple[str, ...] = ("train", "train", "val", "test")) -> CaptionData:
    """A data set of four images, two with the same file name, with captions that formats must quote."""
    captions = (("A dog, running", 'says "hi"'), ("= 1 + 1",), ("Ein Bär | läuft\tschnell", "two"), ("one",))
    images = []
    for (name, colour), split, texts in zip(COLOURS.items(), splits, captions, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(folder / name)
        images.append(CaptionedImage(name, folder / name, split, texts))
    return CaptionData("set", "csv", tuple(images))


def contents(data: CaptionData) -> list[tuple[str, tuple[str, ...], bytes]]:
    """Splits, captions and pixels, in an order that does not depend on that of the files."""
    from captioner.data.images import load_image

    return sorted((image.split, image.captions, load_image(image.path).tobytes()) for image in data.images)


@pytest.mark.parametrize("format", [*WRITABLE, ".caption"])
@pytest.mark.parametrize("copy", [False, True])
def test_a_folder_of_every_format_is_read_back_the_same(tmp_path: Path, format: str, copy: bool) -> None:
    data = data_in(tmp_path / "source")
    result = convert(data, tmp_path / "target", format=format, copy=copy)
    assert (result.format, result.captions, result.errors) == (format, 6, ())
    assert result.splits == {"train": 2, "val": 1, "test": 1}
    back = read_captions(tmp_path / "target", strict=True)
    assert back.format == ("txt" if format.startswith(".") else format)
    assert contents(back) == contents(data)
    files = [path for path in (tmp_path / "target").rglob("*") if path.suffix in (".jpg", ".png")]
    assert {path.is_symlink() for path in files} == (set() if format == "webdataset" else {not copy})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"], "nothing temporary is left"


@pytest.mark.parametrize("format", [*WRITABLE, ".caption"])
def test_images_without_splits_stay_without(tmp_path: Path, format: str) -> None:
    data = data_in(tmp_path / "source", splits=("all",) * 4)
    convert(data, tmp_path / "target", format=format)
    assert contents(read_captions(tmp_path / "target", strict=True)) == contents(data)


@pytest.mark.parametrize("format", ["coco", "karpathy", "jsonl", "csv", "imagefolder", "webdataset"])
def test_unusual_splits_are_kept(tmp_path: Path, format: str) -> None:
    data = data_in(tmp_path / "source", splits=("all", "other", "restval", "dev"))
    result = convert(data, tmp_path / "target", format=format)
    assert contents(read_captions(tmp_path / "target", strict=True)) == contents(data)
    skipped = "Hugging Face's loader skips the folders other, restval"
    assert (skipped in result.lost) == (format == "imagefolder")


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.json", "dataset_x.json", "x.tar"])
def test_a_file_names_the_images_where_they_are(tmp_path: Path, name: str) -> None:
    data = data_in(tmp_path / "source")
    convert(data, tmp_path / "new" / name)
    assert contents(read_captions(tmp_path / "new" / name, strict=True)) == contents(data)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_images_with_one_name_get_two(tmp_path: Path) -> None:
    data = data_in(tmp_path / "source", splits=("train",) * 4)
    result = convert(data, tmp_path / "target", format="txt")
    assert sorted(path.name for path in (tmp_path / "target/train").glob("b*")) == [
        "b-2.jpg",
        "b-2.txt",
        "b.jpg",
        "b.txt",
    ]
    assert result.lost[0] == (
        f"1 images have other names, unique in their folder, such as train/b-2.jpg for {data.images[2].path}"
    )


def test_cocos_one_file_has_no_splits(tmp_path: Path) -> None:
    data = data_in(tmp_path / "source")
    result = convert(data, tmp_path / "captions_all.json")
    assert (result.format, read_captions(tmp_path / "captions_all.json").splits) == ("coco", {"all": 4})
    assert "no splits, here train (2), val (1), test (1); a folder has a file for each" in result.lost[0]
    assert "numbered from 1, so ids such as 'a.jpg'" in result.lost[1]
    train = CaptionData("set", "csv", data.images[:2])
    assert len(convert(train, tmp_path / "captions_train.json").lost) == 1, "the name has the split"
    assert read_captions(tmp_path / "captions_train.json").splits == {"train": 2}


def test_pycocotools_reads_coco(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    images = [
        CaptionedImage(str(17 - index), image.path, "val", image.captions)
        for index, image in enumerate(data_in(tmp_path / "source").images)
    ]
    result = convert(CaptionData("set", "csv", tuple(images)), tmp_path / "target", format="coco")
    assert all("other names" in sentence for sentence in result.lost), "the numbers are kept"
    with redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "target/annotations/captions_val.json")
    assert coco.getImgIds() == [17, 16, 15, 14]
    assert [each["caption"] for each in coco.imgToAnns[15]] == ["Ein Bär | läuft\tschnell", "two"]
    assert (tmp_path / "target/val" / coco.imgs[14]["file_name"]).is_file()
    assert [image.image_id for image in read_captions(tmp_path / "target").images] == ["17", "16", "15", "14"]


def test_karpathys_json_is_complete(tmp_path: Path) -> None:
    convert(data_in(tmp_path / "source"), tmp_path / "target", format="karpathy")
    content = json.loads((tmp_path / "target/dataset_set.json").read_text(encoding="utf-8"))
    assert content["dataset"] == "set"
    first = content["images"][0]
    assert first["sentences"][0] == {
        "raw": "A dog, running",
        "tokens": ["a", "dog", "running"],
        "imgid": 0,
        "sentid": 0,
    }
    assert (first["filename"], first["filepath"], first["sentids"]) == ("a.jpg", "images", [0, 1])
    assert content["images"][2]["sentids"] == [3, 4]


def test_an_imagefolder_as_hugging_faces_loader_needs_it(tmp_path: Path) -> None:
    convert(data_in(tmp_path / "source"), tmp_path / "target")
    folders = ("train", "validation", "test")
    rows = {
        folder: [json.loads(line) for line in (tmp_path / "target" / folder / "metadata.jsonl").open(encoding="utf-8")]
        for folder in folders
    }
    assert rows["test"] == [{"file_name": "ö, 'x'.png", "text": ["one"]}], "a list, as in the other splits"
    assert all(
        (tmp_path / "target" / folder / row["file_name"]).is_file() for folder in folders for row in rows[folder]
    )


def test_one_caption_for_each_image_is_no_list(tmp_path: Path) -> None:
    images = [
        CaptionedImage(each.image_id, each.path, "all", each.captions[:1]) for each in data_in(tmp_path / "s").images
    ]
    data = CaptionData("set", "csv", tuple(images))
    convert(data, tmp_path / "target")
    convert(data, tmp_path / "x.jsonl")
    assert (
        json.loads((tmp_path / "target/metadata.jsonl").open(encoding="utf-8").readline())["text"] == "A dog, running"
    )
    assert json.loads((tmp_path / "x.jsonl").open(encoding="utf-8").readline()) == {
        "image": "s/a.jpg",
        "caption": "A dog, running",
    }


def test_text_next_to_images_has_a_line_for_each_caption(tmp_path: Path) -> None:
    image = CaptionedImage("1", data_in(tmp_path / "s").images[0].path, "all", ("a dog\n runs", "two"))
    result = convert(CaptionData("set", "csv", (image,)), tmp_path / "target", format=".caption")
    assert (tmp_path / "target/a.caption").read_bytes() == b"a dog runs\ntwo\n"
    assert any("1 captions had line breaks" in sentence for sentence in result.lost)
    assert any("only the first" in sentence for sentence in result.lost)


def test_the_members_of_webdataset(tmp_path: Path) -> None:
    convert(data_in(tmp_path / "source"), tmp_path / "target", format="webdataset")
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == [
        *("test-000000.tar", "train-000000.tar", "val-000000.tar"),
    ]
    with tarfile.open(tmp_path / "target/train-000000.tar") as archive:
        names = archive.getnames()
        assert names == [f"00000000{number}{ending}" for number in (0, 1) for ending in (".jpg", ".txt", ".json")]
        assert archive.extractfile(names[1]).read() == b"A dog, running"  # type: ignore[union-attr]
        assert archive.extractfile(names[0]).read() == (tmp_path / "source/a.jpg").read_bytes()  # type: ignore[union-attr]


def test_a_tar_file_ends_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_in(tmp_path / "source", splits=("train",) * 4)
    monkeypatch.setattr("captioner.data.caption_files._SHARD_IMAGES", 3)
    convert(data, tmp_path / "target", format="webdataset")
    assert len(list((tmp_path / "target").iterdir())) == 2
    assert contents(read_captions(tmp_path / "target", strict=True)) == contents(data)


@pytest.mark.parametrize("format", [*WRITABLE, "x.tar"])
def test_images_inside_files_are_written(tmp_path: Path, format: str) -> None:
    members = {"dogs/1.jpg": jpeg((9, 9, 9)), "dogs/1.txt": b"x", "2.webp": jpeg((99, 9, 9)), "2.txt": b"y"}
    data = read_captions(tar_of(tmp_path / "s.tar", members))
    target = tmp_path / (format if "." in format else "target")
    convert(data, target, format=None if "." in format else format)
    assert contents(read_captions(target, strict=True)) == contents(data)


def test_a_file_may_name_images_inside_files(tmp_path: Path) -> None:
    data = read_captions(tar_of(tmp_path / "s.tar", {"1.jpg": jpeg((9, 9, 9)), "1.txt": b"x"}))
    result = convert(data, tmp_path / "new/x.csv")
    assert contents(read_captions(tmp_path / "new/x.csv")) == contents(data)
    assert "1 images stay inside other files" in result.lost[0]


def test_images_inside_files_get_an_extension(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "WEBP")
    rows = [
        {"bytes": jpeg((1, 1, 1)), "path": None},
        {"bytes": stream.getvalue(), "path": None},
        {"bytes": b"?", "path": None},
    ]
    pq.write_table(pa.table({"image": rows, "text": ["a", "b", "c"]}), tmp_path / "p.parquet")
    result = convert(read_captions(tmp_path / "p.parquet"), tmp_path / "target")
    assert {path.name for path in (tmp_path / "target").iterdir()} == {
        *("p_parquet_0.jpg", "p_parquet_1.webp", "metadata.jsonl"),
    }
    assert [error.reason for error in result.errors] == ["is not an image of a known kind; leave it out"]


@pytest.mark.parametrize("pipe", [False, True])
def test_missing_images_and_pipes_are_left_out(tmp_path: Path, pipe: bool) -> None:
    data = data_in(tmp_path / "source")
    (tmp_path / "source/b.jpg").unlink()
    if pipe:
        os.mkfifo(tmp_path / "source/b.jpg")
    steps: list[tuple[int, int]] = []
    for format in WRITABLE:
        result = convert(
            data, tmp_path / format, format=format, progress=lambda done, total: steps.append((done, total))
        )
        assert [Path(error.source).name for error in result.errors] == ["b.jpg"]
        assert sum(result.splits.values()) == len(read_captions(tmp_path / format, strict=True).images) == 3
    assert steps == [(done, 4) for done in (1, 2, 3, 4)] * len(WRITABLE)


def test_without_any_image_nothing_is_written(tmp_path: Path) -> None:
    data = CaptionData("set", "csv", (CaptionedImage("a", tmp_path / "gone.jpg", "all", ("x",)),))
    for target in ("folder", "x.tar"):
        with pytest.raises(AnnotationError, match=r"none of its images can be read, the first: .*gone\.jpg"):
            convert(data, tmp_path / target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["folder", "x.tar", "tars"])
def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, target: str) -> None:
    data = data_in(tmp_path / "source")

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(data, tmp_path / target, format="webdataset" if "tar" in target else None, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    data = data_in(tmp_path / "source")
    (tmp_path / "x.csv").write_text("mine")
    for target in ("x.csv", "source"):
        with pytest.raises(AnnotationError, match="exists, and nothing is overwritten"):
            convert(data, tmp_path / target)
    assert (tmp_path / "x.csv").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    convert(data, tmp_path / "empty")
    assert (tmp_path / "empty/train/metadata.jsonl").is_file()


def test_the_format_follows_from_the_name(tmp_path: Path) -> None:
    expected = {
        "x.jsonl": "jsonl",
        "x.CSV": "csv",
        "captions_val.json": "coco",
        "x.json": "karpathy",
        "x.tar": "webdataset",
    }
    assert {name: format_of_target(tmp_path / name) for name in expected} == expected
    assert format_of_target(tmp_path / "folder") == "imagefolder"
    assert format_of_target(tmp_path / "x.json", "coco") == "coco"
    with pytest.raises(AnnotationError, match=r"x\.csv: its name is that of csv, not coco; give a folder"):
        format_of_target(tmp_path / "x.csv", "coco")
    with pytest.raises(AnnotationError, match=r"'cocoo' cannot be written\. Did you mean 'coco'\?"):
        format_of_target(tmp_path / "x", "cocoo")


def test_the_photos_stay_as_they_are(tmp_path: Path) -> None:
    """Links lead to the photos of others: nothing is ever written through them."""
    data = data_in(tmp_path / "source")
    before = {path: path.read_bytes() for path in (tmp_path / "source").rglob("*.*")}
    for number, format in enumerate((*WRITABLE, ".PNG", ".jpg", ".caption")):
        if format.lower() in (".png", ".jpg"):
            with pytest.raises(AnnotationError, match="cannot be written"):
                convert(data, tmp_path / str(number), format=format)
        else:
            convert(data, tmp_path / str(number), format=format)
    assert {path: path.read_bytes() for path in (tmp_path / "source").rglob("*.*")} == before


def test_images_without_the_extension_of_one_get_it(tmp_path: Path) -> None:
    names = ("flickr.jpg.1", "photo", "notes.caption")
    for name in names:
        (tmp_path / name).write_bytes(jpeg((9, 9, 9)) if name != "notes.caption" else b"text")
    data = CaptionData("set", "csv", tuple(CaptionedImage(name, tmp_path / name, "all", ("x",)) for name in names))
    result = convert(data, tmp_path / "target", format=".caption")
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == [
        *("flickr_jpg_1.caption", "flickr_jpg_1.jpg", "photo.caption", "photo.jpg"),
    ]
    assert [Path(error.source).name for error in result.errors] == ["notes.caption"]


def test_images_without_captions_are_written(tmp_path: Path) -> None:
    image = data_in(tmp_path / "s").images[0]
    data = CaptionData("set", "csv", (CaptionedImage("bare.jpg", image.path, image.split, ()), image))
    for format in WRITABLE:
        convert(data, tmp_path / format, format=format)
        assert len(read_captions(tmp_path / format, captionless=True).images) == {"csv": 1}.get(format, 2), format


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    odd = tmp_path / "caf\udce9.jpg"
    try:
        odd.write_bytes(jpeg((9, 9, 9)))
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    data = CaptionData("set", "csv", (CaptionedImage("1", odd, "all", ("x",)),))
    for target in ("x.csv", "x.jsonl", "x.json"):
        convert(data, tmp_path / target)
    convert(data, tmp_path / "target", format="txt")
    assert (tmp_path / "target/caf_.txt").is_file()
    assert read_captions(tmp_path / "target").images[0].path.samefile(odd)


letters = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"))
texts = st.text(letters | st.sampled_from(list(',";|#\n\t ')), min_size=1, max_size=15).filter(
    lambda text: text.strip()
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=4), st.sampled_from(WRITABLE))
def test_any_caption_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, captions: list[list[str]], format: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    images = []
    for index, each in enumerate(captions):
        (folder / f"{index}.jpg").write_bytes(b"jpeg")
        images.append(
            CaptionedImage(f"{index}.jpg", folder / f"{index}.jpg", "train", tuple(text.strip() for text in each))
        )
    convert(CaptionData("set", "csv", tuple(images)), folder / "target", format=format)
    back = read_captions(folder / "target", strict=True)
    wanted = [image.captions for image in images]
    if format == "txt":
        wanted = [
            tuple(" ".join(part.strip() for part in text.split("\n") if part.strip()) for text in each)
            for each in wanted
        ]
    found = list(captions_of(back).values())
    assert [[" ".join(text.split()) for text in each] for each in found] == [
        [" ".join(text.split()) for text in each] for each in wanted
    ]
