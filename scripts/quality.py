"""Write the tables of ``docs/howto/quality.md`` from ``docs/howto/quality.json``.

Each table there has the names of its columns (``head``), those whose best number is in bold (``best``), and its
``rows``. A cell is a text; a number; a mean over seeds in percent, ``{"value", "deviation", "low", "high",
"differs"}``; or a paired difference in percentage points, ``{"difference", "p"}``. ``scripts/readme.py`` gives the
tables to the pages.

Run as a script, it replaces the rows of a table by the means over seeds of a benchmark:

Example: python scripts/quality.py convolution ablation/benchmark.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from captioner import files
from captioner.benchmark.report_tables import SIGNIFICANT

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cards

RECORD = Path(__file__).resolve().parent.parent / "docs" / "howto" / "quality.json"
PREFIX = "quality_"  # before a table's name in a page
Table = dict[str, Any]


def tables() -> dict[str, Table]:
    """Read the tables, by name."""
    found: dict[str, Table] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def write(table: Table) -> str:
    """Write a table as Markdown; the columns of texts come first."""
    head, rows = table["head"], table["rows"]
    best = {head.index(name): max(number(row[head.index(name)]) for row in rows) for name in table.get("best", ())}
    lines = [[cell(value, number(value) == best.get(column)) for column, value in enumerate(row)] for row in rows]
    texts = next((at for at in range(len(head)) if not all(isinstance(row[at], str) for row in rows)), len(head))
    return cards.markdown_table(head, lines, text_columns=texts)


def number(value: Any) -> float:
    """Return the number by which a cell is compared, as it is printed; minus infinity for a text or an empty cell."""
    if isinstance(value, dict):
        value = value.get("value", value.get("difference"))
    return round(float(value), 1) if isinstance(value, (int, float)) else -float("inf")


def cell(value: Any, best: bool) -> str:
    """Write a cell."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, dict) and "difference" in value:
        return f"{value['difference']:+.1f} (p {value['p']:.2f})"
    if isinstance(value, dict):
        text = f"{value['value']:.1f} ± {value['deviation']:.1f}"
        text = f"**{text}**" if best else text
        return f"{text}{'†' * value['differs']} [{value['low']:.1f}, {value['high']:.1f}]"
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return f"**{text}**" if best else text


def means_over_seeds(benchmark: dict[str, Any]) -> Table:
    """Return the table of a benchmark of recipes with several seeds, from its ``benchmark.json``.

    Raises:
        SystemExit: its recipes do not have two seeds in common.
    """
    seeds = benchmark["quality"]["seeds"]
    if seeds is None:
        sys.exit("this benchmark has no means over seeds; run it with --train and --seeds 0,1,2")
    means, deviations = seeds["means"], seeds["deviations"]
    metrics = list(next(iter(means["scores"].values())))
    rows = []
    for recipe, scores in means["scores"].items():
        tests = means["differences"].get(recipe, {})
        rows.append(
            [
                f"`{recipe}`",
                *(
                    {
                        **{part: round(100 * scores[metric][part], 1) for part in ("value", "low", "high")},
                        "deviation": round(100 * deviations[recipe][metric], 1),
                        "differs": metric in tests and tests[metric]["p_randomisation"] < SIGNIFICANT,
                    }
                    for metric in metrics
                ),
            ]
        )
    return {"head": ["recipe", *metrics], "best": metrics, "rows": rows}


def dump(found: dict[str, Table]) -> str:
    """Write tables as JSON with one row on a line."""
    parts = []
    for name, table in found.items():
        rows = ",\n".join(f"   {json.dumps(row, ensure_ascii=False)}" for row in table["rows"])
        lines = [f"  {json.dumps(key)}: {json.dumps(table[key])}" for key in ("head", "best") if key in table]
        lines.append(f'  "rows": [\n{rows}\n  ]')
        parts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """Read the command line and replace a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="its name in docs/howto/quality.json")
    parser.add_argument("benchmark", type=Path, help="benchmark.json of captioner benchmark --train ... --seeds ...")
    arguments = parser.parse_args()
    made = means_over_seeds(json.loads(arguments.benchmark.read_text(encoding="utf-8")))
    files.write_text(RECORD, dump({**tables(), arguments.table: made}))


if __name__ == "__main__":
    main()
