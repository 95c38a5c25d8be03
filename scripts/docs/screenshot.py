"""Take the screenshot of the page of ``captioner serve``: docs/figures/page.webp.

It needs Chromium and playwright. Example: python scripts/docs/screenshot.py
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from captioner import files

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.browser import ARGUMENTS, executable

ROOT = Path(__file__).resolve().parents[2]
IMAGE, SCREENSHOT = ROOT / "assets" / "examples" / "horses.jpg", ROOT / "docs" / "figures" / "page.webp"
SIZE, SCALE, QUALITY = {"width": 960, "height": 1800}, 1.5, 85
MODEL, RIVAL = "show_attend_tell", "regions_top_down"
WORD = "horses"


def take(address: str) -> bytes:
    """Drop an image on the page, point at a word, and return a screenshot as PNG."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        page = browser.new_page(viewport=SIZE, device_scale_factor=SCALE, color_scheme="light", reduced_motion="reduce")
        page.goto(address)
        page.select_option("#rival", RIVAL)
        page.set_input_files("#files", IMAGE)
        word = page.get_by_text(WORD, exact=True)
        word.wait_for(timeout=120_000)
        page.wait_for_timeout(1500)  # until nothing moves
        word.hover()
        page.wait_for_timeout(500)  # until the colours have come
        return page.screenshot(clip=page.locator("#list > *").first.bounding_box())


def main() -> None:
    """Serve the page on a free port and take the screenshot."""
    command = [sys.executable, "-m", "captioner", "serve", "--port", "0", "-m", MODEL, "-m", RIVAL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            shot = take(server.stdout.readline().strip())
        finally:
            server.terminate()
    with files.atomic_path(SCREENSHOT) as temporary:
        Image.open(io.BytesIO(shot)).save(temporary, "WEBP", quality=QUALITY, method=6)
    print(f"{SCREENSHOT.relative_to(ROOT)}: {SCREENSHOT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
