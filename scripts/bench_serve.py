"""Measure the latency of captioner serve for one client and for several at once.

    python scripts/bench_serve.py --photos assets/examples

It starts a server on a free port and prints a table in Markdown: the time of POST /caption with the page's options, and
the time from adding an image to the page until its caption and explorer are drawn, in Chromium on the same machine
(needs playwright). Every client sends its next image after the last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Add each image, and return the milliseconds until it is drawn.
IN_PAGE = """async (photos) => {
  const times = [];
  for (const photo of photos) {
    const file = new File([Uint8Array.from(atob(photo), (letter) => letter.charCodeAt(0))], "photo.jpg");
    const began = performance.now();
    add([file]);
    const item = items[0];
    while (!item.element.querySelector(".words, .text, .failed")) await new Promise(requestAnimationFrame);
    times.push(item.failure ? NaN : performance.now() - began);
    document.getElementById("clear").click();
  }
  return times;
}"""


@contextmanager
def serving(model: str) -> Iterator[str]:
    """Run a server and yield its address."""
    command = [sys.executable, "-m", "captioner", "serve", "--model", model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def of_api(address: str, photos: list[bytes], clients: int) -> tuple[list[float], float]:
    """Return the milliseconds of each request, and the seconds of all; NaN is a failure."""

    def one(number: int) -> list[float]:
        times = []
        with httpx.Client(base_url=address, timeout=120) as client:
            for photo in photos[number::clients]:
                began = time.perf_counter()
                answer = client.post("/caption?figure=true", files={"image": ("photo.jpg", photo)})
                times.append(1000 * (time.perf_counter() - began) if answer.is_success else float("nan"))
        return times

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = list(itertools.chain.from_iterable(pool.map(one, range(clients))))
    return times, time.perf_counter() - began


def of_page(address: str, photos: list[bytes], clients: int) -> tuple[list[float], float]:
    """The same, in the page."""
    from playwright.async_api import async_playwright

    from tests.browser import ARGUMENTS, executable

    async def all_of_them() -> tuple[list[float], float]:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
            pages = [await (await browser.new_context()).new_page() for _ in range(clients)]
            for page in pages:
                await page.goto(address)
            texts = [base64.b64encode(photo).decode() for photo in photos]
            began = time.perf_counter()
            times = await asyncio.gather(
                *(page.evaluate(IN_PAGE, texts[number::clients]) for number, page in enumerate(pages))
            )
            seconds = time.perf_counter() - began
            await browser.close()
        return [value for each in times for value in each], seconds

    return asyncio.run(all_of_them())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--model", default="show_attend_tell")
    parser.add_argument("--requests", type=int, default=200, help="for each row")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    files = sorted(path for path in options.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    photos = [path.read_bytes() for path in itertools.islice(itertools.cycle(files), options.requests)]
    print(f"{options.model}; {len(files)} photos of {np.mean([len(photo) for photo in photos]) / 1e3:.0f} kB; "
          f"{platform.processor() or platform.machine()}\n")  # fmt: skip
    print("| | clients | p50 (ms) | p95 (ms) | photos/s | failed |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    with serving(options.model) as address:
        of_api(address, photos[:16], 4)  # warm
        for name, measure in (("API", of_api), ("page", of_page)):
            for clients in options.clients:
                times, seconds = measure(address, photos, clients)
                good = [value for value in times if value == value]
                low, high = np.percentile(good, [50, 95])
                failed = len(times) - len(good)
                print(
                    f"| {name} | {clients} | {low:.0f} | {high:.0f} | {len(good) / seconds:.0f} | {failed} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
