"""Join boxes of objects in training images into one file, for ``data.boxes``.

Example: python scripts/supervision_boxes.py data/boxes/instances_train.json data/coco_more/person_boxes.json \
    --data data/flickr8k --data data/coco/dataset_coco.json --regions runs/features-regions -o runs/boxes.json

Annotated boxes come first, file by file; their image ids are those of the captions, or COCO's where an image has a
``coco_id``. The regions of the shipped detector, from a feature store, add the classes that no file has boxed in an
image or lists as absent from it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from captioner import files
from captioner.data.annotations import read_captions
from captioner.errors import AnnotationError
from captioner.evaluation.object_boxes import read_boxes
from captioner.features import FeatureStore
from captioner.model import build_encoder

BATCH = 64
Objects: TypeAlias = Mapping[str, Any]  # relative xyxy boxes of each class


def annotated(path: Path) -> Iterator[tuple[str, Objects, set[str]]]:
    """Yield the id of each image in a file, its boxes, and the classes that are boxed or absent."""
    data: dict[str, Any] = files.read_json(path, dict, error=AnnotationError, advice="give COCO's instances")
    coco = {str(image["id"]): str(image.get("coco_id", image["id"])) for image in data["images"]}
    for image_id, known in read_boxes(path).items():
        yield coco[image_id], known.boxes, {*known.absent, *known.boxes}


def detected(store: FeatureStore, classes: Sequence[str], least: float) -> Iterator[tuple[str, Objects, set[str]]]:
    """Yield the same for the regions of a store that score ``least``."""
    for start in range(0, len(store), BATCH):
        ids = store.ids[start : start + BATCH]
        memory = store.memory(ids)
        assert memory.boxes is not None and memory.labels is not None and memory.scores is not None
        sure = (memory.scores >= least) & (memory.labels >= 0)
        for image_id, chosen, boxes, labels in zip(ids, sure, memory.boxes, memory.labels, strict=True):
            found: dict[str, list[list[float]]] = defaultdict(list)
            for box, label in zip(boxes[chosen].tolist(), labels[chosen].tolist(), strict=True):
                found[classes[label]].append(box)
            yield image_id, found, set(found)


def join(sources: Mapping[str, Iterable[tuple[str, Objects, set[str]]]]) -> tuple[dict[str, Objects], dict[str, int]]:
    """Return the boxes of each image, those of a class from the first source that has settled it, and their numbers."""
    settled: dict[str, set[str]] = defaultdict(set)
    boxes: dict[str, Objects] = defaultdict(dict)
    counts = dict.fromkeys(sources, 0)
    for name, source in sources.items():
        for image_id, found, classes in source:
            new = {each: one for each, one in found.items() if each not in settled[image_id]}
            settled[image_id] |= classes
            boxes[image_id] = {**boxes[image_id], **new}
            counts[name] += sum(map(len, new.values()))
    return boxes, counts


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="annotated boxes, as COCO's instances")
    parser.add_argument("--data", action="append", required=True, help="a caption data set of the images")
    parser.add_argument("--regions", type=Path, required=True, help="feature store of the shipped detector's regions")
    parser.add_argument("--least", type=float, default=0.6, help="least confidence of a detected box")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    options = parser.parse_args()
    encoder: Any = build_encoder({"name": "regions"})
    store = FeatureStore(options.regions, encoder=encoder)
    sources = {path.name: annotated(path) for path in options.files}
    sources["the detector"] = detected(store, encoder.classes, options.least)
    boxes, counts = join(sources)
    names = sorted({name for found in boxes.values() for name in found})
    record: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
    }
    for image in (image for data in options.data for image in read_captions(data).images):
        if not boxes[image.image_id]:
            continue
        with Image.open(image.path) as opened:
            width, height = opened.size
        record["images"].append({"id": image.image_id, "width": width, "height": height, "labelled_categories": []})
        for name, one in boxes[image.image_id].items():
            for x0, y0, x1, y1 in one:
                box = x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height
                record["annotations"].append(
                    {
                        "image_id": image.image_id,
                        "category_id": names.index(name) + 1,
                        "bbox": [round(float(side), 1) for side in box],
                    }
                )
    files.write_text(options.output, json.dumps(record) + "\n")
    given = ", ".join(f"{count:,} from {name}" for name, count in counts.items())
    print(f"{options.output}: {len(record['annotations']):,} boxes of {len(record['images']):,} images; {given}")


if __name__ == "__main__":
    main()
