"""Captions to COCO's results files and back, and files that are not COCO results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from captioner.data.dataset import CaptionData, CaptionedImage
from captioner.errors import EvaluationError
from captioner.evaluation.results import coco_results, match_images, read_results, write_results


def test_results_round_trip_through_coco(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    captions = {"391895": "a man on a moped", "522418": "“日本”\n|||", "7": ""}
    path = tmp_path / "my results.json"
    write_results(path, captions)
    assert read_results(path) == captions
    coco = COCO()
    coco.dataset = {"images": [{"id": int(image)} for image in captions], "annotations": [], "info": {}}
    coco.createIndex()
    loaded = coco.loadRes(str(path))
    assert {str(a["image_id"]): a["caption"] for a in loaded.loadAnns(loaded.getAnnIds())} == captions


def test_results_keep_ids_that_are_not_numbers() -> None:
    captions = {"1000268201_693b08cb0e": "a", "²": "b", "000000391895": "c", "-1": "d"}
    ids = [result["image_id"] for result in coco_results(captions)]
    assert ids == ["1000268201_693b08cb0e", "²", 391895, "-1"]
    with pytest.raises(EvaluationError, match="image '7': another id is the same number"):
        coco_results({"007": "a", "7": "b"})
    with pytest.raises(EvaluationError, match="an image id is 7"):
        coco_results({7: "a"})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"annotations": []}', r"its JSON is an object, not a list; give COCO results"),
        ("[1", "is not JSON .*; give COCO results"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "is not JSON"),
        ('[{"image_id": NaN, "caption": "a"}]', "entry 1 has image_id nan"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 2}]', 'entry 2 has no "image_id" and "caption"'),
        ('["a"]', "entry 1 has no"),
        ('[{"image_id": 1.5, "caption": "a"}]', "entry 1 has image_id 1.5"),
        ('[{"image_id": true, "caption": "a"}]', "entry 1 has image_id True"),
        ('[{"image_id": 1, "caption": null}]', "the caption of image 1 is a JSON null"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}]', "image '1' is captioned twice"),
        (r'[{"image_id": 1, "caption": "a \udc80"}]', "the caption of image 1 has half a surrogate pair"),
    ],
)
def test_results_that_are_not_coco_results_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EvaluationError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


def test_results_that_are_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="there is no such file"):
        read_results(tmp_path / "missing.json")
    with pytest.raises(EvaluationError, match="not a regular file"):
        read_results(tmp_path)
    (tmp_path / "pandas.json").write_text('[{"image_id": 17.0, "caption": "a"}]', encoding="utf-8")
    assert read_results(tmp_path / "pandas.json") == {"17": "a"}
    (tmp_path / "binary.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(EvaluationError, match="is not utf-8-sig text"):
        read_results(tmp_path / "binary.json")
    (tmp_path / "windows.json").write_text('\ufeff[{"image_id": 1, "caption": "a", "score": 2}]', encoding="utf-8")
    assert read_results(tmp_path / "windows.json") == {"1": "a"}


def data_of(*images: str) -> CaptionData:
    return CaptionData("toys", "jsonl", tuple(CaptionedImage(i, Path(i), "dev", ("a dog",)) for i in images))


def test_captions_are_matched_in_the_order_of_the_data_and_without_zeros() -> None:
    found = match_images({"12": "b", "cat.jpg": "c", "007": "a"}, data_of("000007", "12", "cat.jpg"), "theirs")
    assert list(found.captions.items()) == [("000007", "a"), ("12", "b"), ("cat.jpg", "c")]
    assert found.unknown is found.missing is None
    long = "9" * 5000
    assert match_images({f"0{long}": "a"}, data_of(long), "theirs").captions == {long: "a"}
    assert match_images({"0": "a"}, data_of("000"), "theirs").captions == {"000": "a"}


def test_ids_in_two_forms_of_unicode_are_one_and_those_of_the_data_stay_apart() -> None:
    composed, decomposed = "Stra\u00dfe \u00e4.jpg", "Stra\u00dfe a\u0308.jpg"
    assert match_images({decomposed: "a"}, data_of(composed), "theirs").captions == {composed: "a"}
    both = {"17": "a", "017": "b", "0017": "c"}
    found = match_images(both, data_of("17", "017"), "theirs")
    assert found.captions == {"17": "a", "017": "b"} and str(found.unknown).endswith("'0017'")


def test_captions_of_images_without_references_are_called_that() -> None:
    data = data_of("7", "8")
    data = replace(data, images=(data.images[0], replace(data.images[1], captions=())))
    assert "that toys, dev has no references of: '8'" in str(match_images({"7": "a", "8": "b"}, data, "theirs").unknown)


def test_captions_that_are_of_one_image_or_of_none() -> None:
    with pytest.raises(EvaluationError, match="theirs: images '7' and '007' are the same one; keep one"):
        match_images({"7": "a", "007": "b"}, data_of("7"), "theirs")
    with pytest.raises(EvaluationError, match="theirs: no caption is of an image of toys"):
        match_images({"8": "a"}, data_of("7"), "theirs")
    found = match_images({"7": "a", "8": "b"}, data_of("7", "9", "10"), "theirs")
    assert found.captions == {"7": "a"}
    assert str(found.unknown) == "theirs: 1 captions are of images that toys, dev does not have: '8'"
    assert str(found.missing) == "theirs: 2 of 3 images have no caption: '9', '10'"
