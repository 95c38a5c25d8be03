"""The page against the rules of axe-core, which the repository does not have: ``CAPTIONER_AXE`` names its script."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.web.conftest import encoded, explorers

SCRIPT = Path(os.environ.get("CAPTIONER_AXE") or "node_modules/axe-core/axe.min.js")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

pytestmark = pytest.mark.skipif(
    not SCRIPT.is_file(), reason="axe-core is not here: npm install axe-core, or name its axe.min.js in CAPTIONER_AXE"
)


def empty(page: Any, photos: list[Path]) -> None: ...


def one(page: Any, photos: list[Path]) -> None:
    page.set_input_files("#files", photos[:1])
    explorers(page, 1)


def failed(page: Any, photos: list[Path]) -> None:
    page.set_input_files("#files", photos[-1:])
    page.locator(".failed").wait_for()


def compared(page: Any, photos: list[Path]) -> None:
    page.select_option("#rival", "second")
    page.set_input_files("#files", photos[:1])
    explorers(page, 1, ".many")
    page.locator("textarea").first.fill("Edited")


def grid(page: Any, photos: list[Path]) -> None:
    page.set_input_files("#files", photos)
    page.wait_for_function("() => document.getElementById('count').textContent.startsWith('6 images')")


def large(page: Any, photos: list[Path]) -> None:
    grid(page, photos)
    page.locator(".tile button").nth(1).click()
    explorers(page, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", ["desktop", "phone"])
@pytest.mark.parametrize("view", [empty, one, failed, compared, grid, large])
def test_axe_finds_nothing(
    show: Any, tmp_path: Path, view: Callable[[Any, list[Path]], None], screen: str, scheme: str
) -> None:
    photos = [tmp_path / f"{number}.jpg" for number in range(5)]
    for number, path in enumerate(photos):
        path.write_bytes(encoded(seed=number))
    (tmp_path / "notes.txt").write_bytes(b"hello")
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = show(color_scheme=scheme, reduced_motion="reduce", bypass_csp=True, **(phone if screen == "phone" else {}))
    view(page, [*photos, tmp_path / "notes.txt"])
    page.evaluate(SCRIPT.read_text(encoding="utf-8"))
    found = page.evaluate("rules => axe.run(document, { runOnly: { type: 'tag', values: rules } })", RULES)
    assert len(found["passes"]) > 20
    assert [(rule["id"], rule["nodes"][0]["target"]) for rule in found["violations"]] == []
