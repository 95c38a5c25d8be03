"""Measure the page of captioner export --web in Chromium: its sizes, the first caption and later ones.

    captioner export show_attend_tell --web site
    python scripts/bench_browser.py site

It serves the folder on this machine, opens the page in a new profile each time, adds an example at once and then the
others, one after the other. It prints a table in Markdown; needs playwright and Linux. --cores limits the browser's
cores. The table has the wall-clock time, and the processor time of all processes of the browser: if other programs run
at the same time, it is closer to the wall-clock time without them.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import os
import re
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from captioner.data.examples import example_images
from tests.browser import ARGUMENTS, executable

UNLOADED = ("examples", "LICENSE", "ThirdPartyNotices.txt")  # what a caption does not wait for


class Host(SimpleHTTPRequestHandler):
    """A web host that prints nothing."""

    def log_message(self, *given: Any) -> None:
        """Print nothing."""


class Times:
    """Seconds of the clock and of the processor, a pair for each time that something was done."""

    def __init__(self) -> None:
        self.pairs: list[tuple[float, float]] = []

    @contextmanager
    def another(self) -> Iterator[None]:
        """Measure a block."""
        began = time.perf_counter(), processor_seconds()
        yield
        self.pairs.append((time.perf_counter() - began[0], processor_seconds() - began[1]))

    def row(self, name: str) -> str:
        """Return a row of the table, with medians and ranges."""
        cells = (
            f"{statistics.median(each):.1f} ({min(each):.1f}–{max(each):.1f})" for each in zip(*self.pairs, strict=True)
        )
        return f"| {name} | {' | '.join(cells)} |"


def processor_seconds() -> float:
    """Return the processor's seconds in the processes that this one has started, and in theirs."""
    used: dict[int, tuple[int, int]] = {}  # parent and ticks of each process
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            used[int(stat.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours = {os.getpid()}
    while more := {pid for pid, (parent, _) in used.items() if parent in ours} - ours:
        ours |= more
    return sum(used[pid][1] for pid in ours - {os.getpid()} if pid in used) / os.sysconf("SC_CLK_TCK")


def caption(page: Any, image: Path, count: int) -> None:
    """Add an image, and wait until its caption is drawn next to ``count`` others."""
    page.set_input_files("#files", image)
    number = "1 image" if not count else f"{count + 1} images"  # while one is captioned, it is "0 of 1 image"
    page.locator("#count", has_text=re.compile(f"^{number}$")).wait_for(timeout=300_000)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what captioner export --web wrote")
    parser.add_argument("--rounds", type=int, default=5, help="how often the page is opened (5)")
    parser.add_argument("--cores", type=int, default=2, help="cores of this program and the browser (2)")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    from playwright.sync_api import sync_playwright

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Host, directory=arguments.folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    first, later = Times(), Times()
    one, *others = example_images()
    with sync_playwright() as playwright:
        for _ in range(arguments.rounds):
            browser = playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
            page = browser.new_page()
            with first.another():
                page.goto(f"http://127.0.0.1:{server.server_port}/", wait_until="commit")
                caption(page, one, 0)
            for count, image in enumerate(others, 1):
                with later.another():
                    caption(page, image, count)
            browser.close()
    server.shutdown()
    files = [path for path in arguments.folder.rglob("*") if path.is_file()]
    loaded = [path for path in files if not {path.name, path.parent.name} & {*UNLOADED}]
    sent = sum(len(gzip.compress(path.read_bytes(), 6)) for path in loaded)
    whole, needed = (sum(path.stat().st_size for path in some) for some in (files, loaded))
    print(
        f"{whole / 1e6:.1f} MB, {needed / 1e6:.1f} of them loaded, {sent / 1e6:.1f} if the web host compresses them\n"
    )
    print("| seconds | clock | processor |\n| --- | ---: | ---: |")
    print(first.row("from opening the page to the first caption"))
    print(later.row("a later caption"))


if __name__ == "__main__":
    main()
