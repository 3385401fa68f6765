"""``study``: run one experiment by name, print its table, keep its findings."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


def study(
    name: Annotated[str | None, typer.Argument(help="Which study; without a name they are listed.")] = None,
    scale: Annotated[str, typer.Option(help="small: minutes on two cores; paper: a GPU.")] = "small",
    seed: Annotated[int, typer.Option(help="Another seed, another run.")] = 0,
    json_line: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
    save_to: Annotated[
        Path | None, typer.Option(help="Folder that holds catalogue/; by default ATLAS_HOME.", file_okay=False)
    ] = None,
) -> None:
    """Re-run an experiment: a table of findings, each with an interval and its controls.

    Example: `manifold-atlas study cards`

    Example: `manifold-atlas study first-sinks --seed 1 --json`
    """
    from backend.studies import base

    if name is None:
        console = Console()
        for known, purpose in base.available().items():
            console.print(f"  [bold]{known:20s}[/bold] {purpose}", highlight=False)
        return
    from backend.studies.table import study_table, wide_console

    notes: list[str] = []
    share = TextColumn("{task.percentage:>3.0f} %")
    columns = (TextColumn("{task.description}"), BarColumn(), share, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=1.0)

        def progress(fraction: float, message: str) -> None:
            bar.update(task, completed=fraction, description=f"{name}: {message}")

        # Recipes print while they evaluate; standard output is for the table and the JSON line.
        with contextlib.redirect_stdout(sys.stderr):
            result = base.run_study(name, scale, seed, progress=progress, root=save_to, notes=notes)
    console = wide_console()
    console.print(study_table(result))
    for note in notes:
        console.print(note, style="yellow", markup=False, highlight=False)
    if json_line:
        print(result.model_dump_json())
