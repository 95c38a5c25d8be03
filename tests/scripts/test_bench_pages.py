"""The pages of speed and of growth are those that their scripts write, and their rates agree."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.scripts.test_cards import load


@pytest.mark.parametrize(("script", "page"), [("bench", "performance"), ("bench_scale", "scale")])
def test_a_page_is_written_from_its_json_file(script: str, page: str, repository: Path) -> None:
    docs = repository / "docs"
    record = json.loads((docs / f"{page}.json").read_text(encoding="utf-8"))
    assert (docs / f"{page}.md").read_text(encoding="utf-8") == load(repository, script).page(record)


def test_what_grows_is_extrapolated_at_the_rates_of_the_page_of_performance(repository: Path) -> None:
    performance, scale = (
        (repository / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("performance", "scale")
    )

    def rate(title: str) -> float:
        (found,) = re.findall(rf"^\| {title}[^|]*\| ([\d,]+) ", performance, re.MULTILINE)
        return float(found.replace(",", ""))

    def taken(what: str) -> float:
        """Return a time in seconds."""
        ((found, unit),) = re.findall(rf"^\| {what}[^|]*\| ([\d.]+) (s|minutes|days) \|", scale, re.MULTILINE)
        return float(found) * {"s": 1, "minutes": 60, "days": 86400}[unit]

    captioning, features = rate(r"captioning files, \d+ a turn"), rate("features of files")
    assert taken("captioning on one worker") == pytest.approx(1e8 / captioning, rel=0.04)
    assert taken("captioning the 5,000 test images") == pytest.approx(5000 / captioning, rel=0.04)
    assert taken("encoding all images") == pytest.approx(123_287 / features, rel=0.04)
    epoch = 5 * 113_287 / rate("training, show_attend_tell, bfloat16")
    assert taken("an epoch of soft attention") == pytest.approx(epoch, rel=0.04)
