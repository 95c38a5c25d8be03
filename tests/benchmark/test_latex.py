from __future__ import annotations

import re

import pytest

from captioner.benchmark.cost import ModelCost
from captioner.benchmark.latex import escape, latex, write
from captioner.benchmark.quality import Quality
from captioner.benchmark.report_tables import Cell, ReportTable
from tests.benchmark.conftest import MIDDLING, POOR, WORDS, compare

# What LaTeX prints for each command, according to its documentation (Lamport 1994, appendix C; usrguide.pdf).
PRINTED = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$\pm$": "±",
    r"$^\dagger$": "†",
    "{[}": "[",
    "{]}": "]",
    "{*}": "*",
}


def printed(text: str) -> str:
    """Return what LaTeX prints for the commands used here; any other special character is an error."""
    known = "|".join(map(re.escape, PRINTED))
    out = ""
    for command, letter, other in re.findall(rf"({known})|\\([&%$#_{{}}])|(.)", text, flags=re.DOTALL):
        assert other not in set("\\{}$&#%_^~") or not other, f"{other} is not escaped in {text}"
        out += PRINTED.get(command, letter or other)
    return out


@pytest.mark.parametrize(
    "text",
    [r"a\b_c", "100 % & more", "{x}^2 ~ #1 $5", "[1.0, 2.0]", "*star", "p < 0.05 > |x|", "40.3 ± 0.5†", "Ünï 猫", ""],
)
def test_text_is_printed_as_it_is(text: str) -> None:
    assert printed(escape(text)) == text


def rows(text: str) -> list[tuple[int, list[str]]]:
    """Return the rows of all tables, each with the number of columns of its table."""
    out = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l?r*)\}\n(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        lines = [line.strip() for line in body.strip().splitlines()]
        rules = [line for line in lines if not line.endswith(r"\\")]
        assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
        out += [(len(columns), re.split(r"(?<!\\)&", line.removesuffix(r"\\"))) for line in lines if line not in rules]
    return out


def test_every_row_has_as_many_cells_as_its_table_columns(quality: Quality, costs: dict[str, ModelCost]) -> None:
    trained = compare(
        WORDS, MIDDLING, POOR, POOR, recipes=[("50%_off", 0), ("50%_off", 1), ("poor & old", 0), ("poor & old", 1)]
    )
    for result, tables in ((quality, 4), (trained, 5)):
        text = latex("a_b & 100 % {x}", result, costs, resamples=200)
        assert (
            text.count(r"\begin{table}")
            == text.count(r"\end{table}")
            == text.count(r"\toprule")
            == text.count(r"\bottomrule")
            == tables
        )
        assert len(rows(text)) > 12
        for columns, cells in rows(text):
            assert columns == len(cells)
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
        for caption in re.findall(r"\\caption\{(.*)\}\n", text):
            printed(caption)
    assert r"50\%\_off" in text and r"$\pm$" in text


def test_marks_intervals_and_names(quality: Quality) -> None:
    text = latex("toys", quality, {}, resamples=200)
    assert r"a & \textbf{100.0} &" in text and r"{\scriptsize {[}100.0, 100.0{]}}" in text
    table = ReportTable(
        ["model", "time, batch 1 (ms)", "x"], [[Cell("[odd]"), Cell("1.0", best=True, differs=True), Cell("2")]]
    )
    lines = write(table, "A caption.", "odd").splitlines()
    head = [line.strip() for line in lines[lines.index(r"    \toprule") + 1 : lines.index(r"    \midrule")]]
    assert head == [r"& time, &  \\", r"& batch 1 &  \\", r"model & (ms) & x \\"]
    # A bracket after the end of a row would be parsed as a vertical skip.
    assert r"    {[}odd{]} & \textbf{1.0}$^\dagger$ & 2 \\" in lines
