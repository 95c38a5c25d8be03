"""The Markdown report of a benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from captioner.benchmark import report_tables as tables
from captioner.benchmark.cost import ModelCost
from captioner.benchmark.groups import Group
from captioner.benchmark.quality import Quality
from captioner.benchmark.report_tables import Cell, ReportTable
from captioner.errors import count

# What GitHub's Markdown would not print as it is. An underscore between letters or digits, a lone & or <, and brackets
# around numbers stay, because these are common and harmless.
_SPECIAL = re.compile(r"[\\`*~|$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|<(?=[\w/!?])|\[(?=[^\]]*\]\s*[(\[:])")


def escape(text: str) -> str:
    """Escape text for Markdown, which then prints it as it is."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def markdown(
    title: str, quality: Quality, costs: Mapping[str, ModelCost], *, resamples: int, notes: Sequence[str] = ()
) -> str:
    """Write the whole report as Markdown tables."""
    whole, *thirds = quality.groups
    parts = [f"# {escape(title)}", f"{count(len(quality.images), 'image')}. {tables.method(quality, resamples)}"]
    if quality.seeds is not None:
        parts += [
            "## Quality over seeds",
            *_table(tables.seeds(quality.seeds)),
            tables.seeds_method(quality.seeds),
            *_tests(quality.seeds.means, "recipe"),
        ]
    parts += [
        "## Quality" if quality.seeds is None else "## Quality of each run",
        *_table(tables.scores(whole)),
        *_tests(whole),
    ]
    if quality.seeds is not None:
        parts += ["Here every run is compared with a single run; to compare recipes, use the table over seeds."]
    if thirds:
        parts += ["### By reference length"]
        for group in thirds:
            parts += [f"{group.name} ({count(group.photos, 'image')}):", write(tables.scores(group))]
            parts += [write(tables.differences(group.differences))] if group.differences else []
    parts += ["## Diversity", *_table(tables.diversity(quality))]
    if costs:
        parts += ["## Cost", *_table(tables.sizes(costs, quality.given)), *_table(tables.timings(costs, quality.given))]
    if remarks := tables.remarks(quality, notes):
        parts += ["## Notes", "\n".join(f"- {escape(note)}" for note in remarks)]
    return "\n\n".join(parts) + "\n"


def _tests(group: Group, first: str = "model") -> list[str]:
    if not group.differences:
        return []
    return [f"### Against {escape(next(iter(group.scores)))}", *_table(tables.differences(group.differences, first))]


def _table(table: ReportTable) -> list[str]:
    return [write(table), escape(table.note)]


def write(table: ReportTable) -> str:
    """Write a Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [
        table.head,
        ["---", *["---:"] * (len(table.head) - 1)],
        *([_cell(cell) for cell in row] for row in table.rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(cell: Cell) -> str:
    text = f"**{escape(cell.text)}**" if cell.best else escape(cell.text)
    return " ".join(part for part in (text + "†" * cell.differs, cell.detail) if part)
