from __future__ import annotations

from html.parser import HTMLParser

import pytest

from captioner.benchmark.markdown import write
from captioner.benchmark.report_tables import Cell, ReportTable

NAMES = [
    "a|b",
    "_under_score_",
    "__init__",
    "show_attend_tell",
    "a & b &amp; c &#38;",
    "50% *best* **of**",
    "<b>bold</b> <!-- x --> a < b",
    "`code` ~~gone~~ $x$",
    r"back\slash \| end\\",
    "[link](http://x) [1.0, 2.0]",
    "Ünï 猫",
]


class Cells(HTMLParser):
    """The text of a table's cells, and the tags in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("td", "th"):
            self.cells.append("")
        elif self.cells:
            self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@pytest.mark.parametrize("name", NAMES)
def test_another_program_prints_names_as_they_are(name: str) -> None:
    """markdown-it renders them as given, with nothing set in another type but the best number."""
    from markdown_it import MarkdownIt

    table = ReportTable(["model", "CIDEr"], [[Cell(name), Cell("54.0", "[50.1, 58.2]", best=True, differs=True)]])
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(write(table))
    found = Cells(rendered)
    assert [cell.strip() for cell in found.cells] == ["model", "CIDEr", name, "54.0† [50.1, 58.2]"]
    assert found.tags <= {"tbody", "tr", "strong"}
    assert rendered.count("<strong>") == 1
