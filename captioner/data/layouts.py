"""The caption files of each layout, written for images that have their names in it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

from captioner.data.dataset import FOLDER_SPLITS, UNDIVIDED, CaptionedImage
from captioner.text.vocabulary import tokenize

_LINE_BREAK = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


class Placed(NamedTuple):
    """An image and its name in a layout, relative to the caption file, with ``/`` between folders."""

    image: CaptionedImage
    name: str


def write_coco(stream: TextIO, placed: Sequence[Placed], title: str, numbers: dict[str, int]) -> None:
    """Write COCO's JSON.

    Args:
        stream: takes the text.
        placed: the images.
        title: the name of the data set.
        numbers: the number that stands for each image id.
    """
    captions = [(numbers[image.image_id], caption) for image, _ in placed for caption in image.captions]
    content = {
        "info": {"description": title},
        "images": [{"id": numbers[image.image_id], "file_name": name} for image, name in placed],
        "annotations": [
            {"id": number, "image_id": image, "caption": caption} for number, (image, caption) in enumerate(captions, 1)
        ],
    }
    json.dump(content, stream, ensure_ascii=False)


def write_karpathy(stream: TextIO, placed: Sequence[Placed], title: str) -> None:
    """Write Karpathy's JSON; ids that are whole numbers become ``cocoid``.

    Without these, ``filename`` identifies an image, so it has the folders too if two images have one name.
    """
    numbered = numbers_in(placed)
    distinct = numbered or len({name.rpartition("/")[2] for _, name in placed}) == len(placed)
    records: list[dict[str, Any]] = []
    first = 0
    for number, (image, name) in enumerate(placed):
        folder, _, base = name.rpartition("/") if distinct else ("", "", name)
        sentences = [
            {"raw": caption, "tokens": tokenize(caption), "imgid": number, "sentid": first + index}
            for index, caption in enumerate(image.captions)
        ]
        first += len(sentences)
        record: dict[str, Any] = {"filename": base, "imgid": number, "split": image.split, "sentences": sentences}
        record["sentids"] = [sentence["sentid"] for sentence in sentences]
        if folder:
            record["filepath"] = folder
        if numbered:
            record["cocoid"] = int(image.image_id)
        records.append(record)
    json.dump({"dataset": title, "images": records}, stream, ensure_ascii=False)


def numbers_in(placed: Sequence[Placed]) -> bool:
    """Return whether all image ids are whole numbers."""
    return all(re.fullmatch("0|[1-9][0-9]*", image.image_id) for image, _ in placed)


def write_lines(stream: TextIO, placed: Sequence[Placed]) -> None:
    """Write JSON lines: ``image``, ``caption`` or a list ``captions``, and ``split`` unless there is none."""
    single = all(len(image.captions) == 1 for image, _ in placed)
    for image, name in placed:
        row: dict[str, Any] = {"image": name}
        row |= {"caption": image.captions[0]} if single else {"captions": image.captions}
        if image.split != UNDIVIDED:
            row["split"] = image.split
        print(json.dumps(row, ensure_ascii=False), file=stream)


def write_table(stream: TextIO, placed: Sequence[Placed]) -> None:
    """Write CSV: a row for each caption, and a column of splits unless there are none.

    Args:
        stream: takes the text; opened with ``newline=""``.
        placed: the images.
    """
    divided = any(image.split != UNDIVIDED for image, _ in placed)
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["image", "caption", *(["split"] if divided else [])])
    for image, name in placed:
        split = [image.split if image.split != UNDIVIDED else ""] if divided else []
        table.writerows([name, caption, *split] for caption in image.captions)


def write_metadata(stream: TextIO, placed: Sequence[Placed], whole: Sequence[Placed]) -> None:
    """Write an imagefolder's ``metadata.jsonl``.

    Hugging Face's loader needs the same fields, of the same types, in every such file of a data set.

    Args:
        stream: takes the text.
        placed: the images in the folder of the file.
        whole: those of the data set.
    """
    single = all(len(image.captions) == 1 for image, _ in whole)
    in_folders = all(image.split in FOLDER_SPLITS | {UNDIVIDED} for image, _ in whole)
    for image, name in placed:
        row: dict[str, Any] = {"file_name": name, "text": image.captions[0] if single else image.captions}
        if not in_folders:
            row["split"] = image.split
        print(json.dumps(row, ensure_ascii=False), file=stream)


def on_one_line(caption: str) -> str:
    """Replace line breaks by spaces."""
    return _LINE_BREAK.sub(" ", caption)
