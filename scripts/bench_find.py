#!/usr/bin/env python
"""Measure how often `captioner find` finds a photo by a caption that a person wrote for it.

    python scripts/bench_find.py data/flickr8k
    python scripts/bench_find.py data/coco/dataset_coco.json --split val

Every query is the first caption of a photo, which is searched among all photos of the split. The rows are BM25 over
captions that the model wrote, as a text search has it; `find` without captions; `find` where each photo also has its
second caption, by another person, next to it; and BM25 over these.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from captioner import Captioner, read_captions
from captioner.data.dataset import CaptionedImage
from captioner.retrieval import INDEX, Finder, PhotoIndex, open_index
from captioner.text.vocabulary import tokenize

RANKS = (1, 5, 10)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a caption data set")
    parser.add_argument("--split", default="dev", help="its split (dev)")
    parser.add_argument("--queries", type=int, default=0, help="number of queries, evenly chosen; 0 for all")
    parser.add_argument("--model", help="a captioner (the default)")
    arguments = parser.parse_args()
    images = read_captions(arguments.data).split(arguments.split).images
    step = max(1, len(images) // arguments.queries) if arguments.queries else 1
    queries = [(number, image.captions[0]) for number, image in enumerate(images)][::step][: arguments.queries or None]
    captioner = Captioner.from_pretrained(arguments.model)
    print(f"{len(images):,} photos of {arguments.split}, {len(queries):,} queries; recall in percent")
    print(f"{'':24}{''.join(f'R@{rank}'.rjust(8) for rank in RANKS)}{'seconds':>10}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        linked = link(images, folder)

        def run(title: str, captions: Sequence[str] = (), *, only_texts: bool = False) -> None:
            """Put captions next to the photos and measure one way to find them."""
            for path, caption in zip(linked, captions, strict=False):
                path.with_suffix(".txt").write_text(f"{caption}\n", encoding="utf-8")
            with open_index(folder / INDEX, folder) as index:
                index.update(linked, "captioner", lambda: captioner)
                finder = Finder(index, captioner)
                if only_texts:
                    measure(title, linked, queries, lambda text: by_texts(index, folder, text))
                else:
                    measure(title, linked, queries, lambda text: [hit.path for hit in finder.find(text)])

        run("find, no captions")
        run("BM25, the model's", [str(caption) for caption in captioner.stream(linked)], only_texts=True)
        run("BM25, a person's", [image.captions[1] for image in images], only_texts=True)
        run("find, a person's")


def link(images: Sequence[CaptionedImage], folder: Path) -> list[Path]:
    """Link the photos into a folder."""
    linked = [folder / f"{number:05}{image.path.suffix}" for number, image in enumerate(images)]
    for path, image in zip(linked, images, strict=True):
        path.symlink_to(image.path.resolve())
    return linked


def by_texts(index: PhotoIndex, folder: Path, sentence: str) -> list[Path]:
    """Return the ten photos whose texts match best."""
    found = index.texts.matches(tokenize(sentence))
    return [folder / os.fsdecode(name) for name in sorted(found, key=lambda name: -found[name])[: RANKS[-1]]]


def measure(
    title: str, linked: Sequence[Path], queries: Sequence[tuple[int, str]], find: Callable[[str], list[Path]]
) -> None:
    """Print the recall and the median seconds of a query."""
    places, seconds = [], []
    for number, sentence in queries:
        began = time.perf_counter()
        found = find(sentence)
        seconds.append(time.perf_counter() - began)
        places.append(found.index(linked[number]) + 1 if linked[number] in found else RANKS[-1] + 1)
    recall = [100 * np.mean(np.array(places) <= rank) for rank in RANKS]
    print(f"{title:24}{''.join(f'{each:8.1f}' for each in recall)}{np.median(seconds):10.3f}", flush=True)


if __name__ == "__main__":
    main()
