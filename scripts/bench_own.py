"""Measure training on own images, for which COCO's are a substitute: captions before and after.

    python scripts/bench_own.py --coco data/coco/dataset_coco.json --start runs/flickr8k/best --output runs/own

The images of Karpathy's split "train" are used for training, those of "restval" are held out. The shipped models have
seen both, so start from a model trained on Flickr8k alone, for example by

    captioner train flickr8k_show_attend_tell --set data.path=data/flickr8k --output runs/flickr8k

It prints the scores on the held-out images, and the new words in their captions.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from captioner.data.annotations import read_captions
from captioner.store import VOCABULARY
from captioner.text.vocabulary import Vocabulary, tokenize


def main() -> None:
    """Read the command line, train, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True, help="dataset_coco.json, with the photos next to it")
    parser.add_argument("--start", required=True, help="a model that has not seen them")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True)
    table = arguments.output / "own.csv"
    with open(table, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "caption", "split"))
        for photo in read_captions(arguments.coco).images:
            split = {"train": "train", "restval": "test"}.get(photo.split)
            rows.writerows((photo.path.resolve(), caption, split) for caption in photo.captions if split)
    run = arguments.output / "run"
    captioner("train", table, "--set", f"start={json.dumps(arguments.start)}", "--output", run)
    for when, model in (("before", arguments.start), ("after", run / "best")):
        captions = arguments.output / f"{when}.json"
        scores = json.loads(
            captioner("evaluate", model, table, "--split", "test", "--output-captions", captions, "--json")
        )["scores"]
        print(when, ", ".join(f"{metric} {100 * value:.1f}" for metric, value in scores.items()), flush=True)
    known = Vocabulary.load(Path(arguments.start) / VOCABULARY)
    written = Counter(word for record in json.loads(captions.read_text()) for word in tokenize(record["caption"]))
    new = {word: count for word, count in written.most_common() if word not in known}
    print(f"{len(new)} new words, {sum(new.values())} times: {', '.join(new)}")


def captioner(*words: object) -> str:
    """Run the program; return its output."""
    command = [sys.executable, "-m", "captioner", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
