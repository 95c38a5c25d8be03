"""Make what the README shows again, from the shipped models: the heatmap picture and the table of the benchmark.

Example: python scripts/readme.py --data data/flickr8k

The picture is drawn from an example photo in seconds. The table takes minutes: both models caption Flickr8k's dev split
and are timed. Without ``--data`` only the picture is made.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from pathlib import Path

from PIL import Image

from captioner import Captioner, files
from captioner.figures import figure

ROOT = Path(__file__).resolve().parent.parent
PHOTO, PICTURE, LARGEST = ROOT / "assets" / "examples" / "photographer.png", ROOT / "assets" / "heatmap.png", 300_000
MODELS = ("show_tell", "show_attend_tell")
MARKS = ("<!-- benchmark:begin -->", "<!-- benchmark:end -->")


def draw() -> None:
    """Draw the picture in a palette of 256 colours, which halves its size."""
    drawn = figure(Captioner.from_pretrained()(PHOTO), width=1000).image()
    reduced = drawn.quantize(palette=drawn.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
    stream = io.BytesIO()
    reduced.save(stream, "PNG", optimize=True)
    if len(stream.getvalue()) > LARGEST:
        raise SystemExit(f"{PICTURE}: would have {len(stream.getvalue()):,} bytes, more than {LARGEST:,}")
    with files.atomic_path(PICTURE) as temporary:
        temporary.write_bytes(stream.getvalue())
    print(f"{PICTURE.relative_to(ROOT)}: {len(stream.getvalue()):,} bytes")


def tables(report: str) -> str:
    """Take from a benchmark's report the first table of its quality and its last of cost, each with the note below it."""
    parts = report.split("\n\n")
    quality = parts.index("## Quality") + 1
    timings = max(number for number, part in enumerate(parts) if part.startswith("| model | batch |"))
    return "\n\n".join([*parts[quality : quality + 2], *parts[timings : timings + 2]])


def put_table(table: str) -> None:
    """Write the table between its marks in the README."""
    file = ROOT / "README.md"
    text = file.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    files.write_text(file, f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")


def main() -> None:
    """Read the command line and make both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of Flickr8k")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmark"), help="folder of the benchmark (default: %(default)s)"
    )
    arguments = parser.parse_args()
    draw()
    if arguments.data is not None:
        command = [
            "captioner",
            "benchmark",
            *MODELS,
            "--data",
            str(arguments.data),
            "--split",
            "dev",
            "--output",
            str(arguments.output),
        ]
        subprocess.run([sys.executable, "-m", *command], check=True)
        put_table(tables((arguments.output / "table.md").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
