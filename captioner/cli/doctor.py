"""``captioner doctor``: check that the installation works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from captioner.cli import bars, console, options, streams

if TYPE_CHECKING:
    from captioner.cli.findings import Finding

EXAMPLES = """Example: captioner doctor

Example: captioner doctor --json > report.json

Example: captioner doctor --model small"""

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def run(models: options.Models = None, json: options.Json = False) -> None:
    """Check the installation, the machine and the shipped models, and caption a generated image.

    A warning means that some commands will fail or be slow; with a problem, the exit code is 1. JSON is for bug
    reports. No network is used.
    """
    from captioner.cli.findings import examine, report

    findings: list[Finding] = []
    with bars.progress("Examining") as progress:
        for finding in examine(options.ensemble(models)):
            findings.append(finding)
            progress(len(findings), None)
    found = report(findings)
    if json:
        streams.show_json(found, indent=2)
    else:
        _print(findings)
    if not found["healthy"]:
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    from rich.table import Column
    from rich.text import Text

    first = Column("state", no_wrap=True), Column("check", no_wrap=True)
    table = console.table(*first, Column("found, and advice", overflow="fold"))
    for finding in findings:
        advice = f"\n{finding.advice}" if finding.advice else ""
        found = Text.assemble(finding.found, (advice, "" if finding.state == "ok" else _COLOURS[finding.state]))
        table.add_row(Text(finding.state, _COLOURS[finding.state]), Text(finding.name), found)
    console.show(table)
    counts = {state: sum(finding.state == state for finding in findings) for state in ("warning", "problem")}
    typer.echo(", ".join(f"{count or 'no'} {state}{'s' * (count != 1)}" for state, count in counts.items()))
