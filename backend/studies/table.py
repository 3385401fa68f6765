"""The table that ``manifold-atlas study`` prints: one line a finding, its controls under it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from backend.wire.findings import Finding, StudyResult

_MARK = {"holds": "[green]holds[/green]", "falls short": "[red]falls short[/red]", "null": "[yellow]null[/yellow]",
         "contradicted": "[red]contradicted[/red]", "unjudged": "–"}  # fmt: skip


def number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    return "–" if value is None else f"{value:.4g}"


def _interval(finding: Finding) -> str:
    if finding.low is None or finding.high is None:
        return "–"
    return f"{number(finding.low)} … {number(finding.high)}"


def wide_console() -> Console:
    """Standard output; at least 140 columns where it is a file or a pipe, so that no id is broken over lines."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)
    return console


def study_table(result: StudyResult) -> Table:
    """A rich table of a study's findings."""
    table = Table(title=f"{result.study}, {result.scale} scale, seed {result.seed}, {result.seconds:.1f} s")
    for column in ("finding", "value", "95 % interval", "n", "aim", "status", "published"):
        table.add_column(column, justify="right" if column in ("value", "n") else "left", overflow="fold")
    for f in result.findings:
        value = number(f.value) + (f" {f.unit}" if f.unit and f.value is not None else "")
        table.add_row(f.id, value, _interval(f), str(f.n or "–"), f.aim or "–", _MARK[f.status], f.published or "–")
        for name, control in f.controls.items():
            table.add_row(f"  control: {name}", number(control), style="dim")
    return table
