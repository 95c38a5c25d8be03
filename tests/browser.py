"""A browser for tests of pages: :func:`launched` starts one, or skips and says why.

@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as started:
        yield started
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# No sandbox, as root cannot use it in containers; no background traffic.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def executable() -> str | None:
    """Return the browser's file: ``$CAPTIONER_CHROMIUM``, else the first of :data:`NAMES` on the path.

    ``None`` is playwright's own.
    """
    return os.environ.get("CAPTIONER_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def launched(*arguments: str) -> Iterator[Any]:
    """Start a headless Chromium, with more arguments if any are given, and yield playwright's ``Browser``.

    Without playwright or a browser the test is skipped; a browser named in ``$CAPTIONER_CHROMIUM`` must start, or the
    test fails.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=executable(), args=[*ARGUMENTS, *arguments])
        except playwright.Error as error:
            if os.environ.get("CAPTIONER_CHROMIUM"):
                raise
            why = str(error).strip().splitlines()[0]
            pytest.skip(
                f"no browser starts ({why}): install chromium, name one in CAPTIONER_CHROMIUM, or run "
                "playwright install chromium"
            )
        try:
            yield browser
        finally:
            browser.close()
