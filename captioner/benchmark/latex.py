r"""LaTeX tables of a benchmark for ``\input{table.tex}``; they need the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from captioner.benchmark import report_tables as tables
from captioner.benchmark.cost import ModelCost
from captioner.benchmark.quality import Quality
from captioner.benchmark.report_tables import Cell, ReportTable
from captioner.errors import count

# A bracket or a star at the start of a row would be parsed as an argument of the command that ended the previous row.
_ESCAPED = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "–": "--",
    "“": "``",
    "”": "''",
    "\n": " ",
}


def escape(text: str) -> str:
    """Escape text for LaTeX, which then prints it verbatim; non-ASCII letters stay, as LaTeX reads UTF-8."""
    return "".join(_ESCAPED.get(letter, letter) for letter in text)


def latex(title: str, quality: Quality, costs: Mapping[str, ModelCost], *, resamples: int) -> str:
    """Write the tables of quality, means over seeds (if any), diversity, and costs (if measured)."""
    parts = [f"% {_comment(title)}, written by: captioner benchmark --latex", "% It needs \\usepackage{booktabs}"]
    about = f"Quality on {title}, {count(len(quality.images), 'image')}."
    if quality.seeds is not None:
        parts.append(
            write(
                tables.seeds(quality.seeds), f"{about[:-1]}, over seeds.", "seeds", tables.seeds_method(quality.seeds)
            )
        )
    parts += [
        write(tables.scores(quality.groups[0]), about, "quality", tables.method(quality, resamples)),
        write(tables.diversity(quality), f"Diversity of the captions on {title}.", "diversity"),
    ]
    if costs:
        parts += [
            write(tables.sizes(costs, quality.given), "Sizes of the models.", "sizes"),
            write(tables.timings(costs, quality.given), "Time to caption a batch.", "times"),
        ]
    return "\n\n".join(parts) + "\n"


def write(table: ReportTable, caption: str, label: str, about: str = "") -> str:
    """Write a table.

    Intervals are set in smaller type on a second line of their row, and long column names are broken into lines.

    Args:
        table: the table to write.
        caption: its caption.
        label: the label for references, without its prefix ``tab:captioner-``.
        about: sentences to add to the table's note below it.
    """
    note = f"{table.note} {about}".strip()
    lines = [
        r"\begin{table}",
        r"  \centering",
        r"  \small",
        rf"  \caption{{{escape(caption)}}}",
        rf"  \label{{tab:captioner-{label}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
        r"    \toprule",
        *(f"    {_row(map(escape, line))}" for line in _head(table.head)),
        r"    \midrule",
        *(f"    {line}" for row in table.rows for line in _lines(row)),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(
            [rf"  \par\smallskip\begin{{minipage}}{{\linewidth}}\footnotesize {escape(note)}\end{{minipage}}"]
            if note
            else []
        ),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _head(names: list[str]) -> Iterator[tuple[str, ...]]:
    """Break column names before units and after commas, aligned at the bottom."""
    broken = [re.split(r"(?<=,) | (?=\()", name) for name in names]
    height = max(map(len, broken))
    yield from zip(*([""] * (height - len(lines)) + lines for lines in broken), strict=True)


def _lines(row: list[Cell]) -> Iterator[str]:
    yield _row(_cell(cell) for cell in row)
    if any(cell.detail for cell in row):
        yield _row(rf"{{\scriptsize {escape(cell.detail)}}}" if cell.detail else "" for cell in row)


def _row(cells: Iterator[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return (rf"\textbf{{{text}}}" if cell.best else text) + escape("†" * cell.differs)


def _comment(text: str) -> str:
    return " ".join(text.split())
