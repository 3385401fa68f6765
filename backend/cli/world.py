"""``world``: look at what a procedural world draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend.core.errors import NotFound

WORLDS = ("tabletop", "curves", "calendar")


def world(
    name: Annotated[str, typer.Argument(help="tabletop, curves or calendar.")],
    out: Annotated[Path | None, typer.Option(help="Where the picture goes; by default NAME.png.")] = None,
    n: Annotated[int, typer.Option(min=1, max=400, help="Scenes on the sheet, or stories to print.")] = 24,
    seed: Annotated[int, typer.Option(help="Another seed, other samples.")] = 0,
) -> None:
    """Draw samples of a world: a sheet of pictures, or stories as text.

    Example: `manifold-atlas world tabletop --out sheet.png`

    Example: `manifold-atlas world calendar --n 5`
    """
    if name not in WORLDS:
        raise NotFound(f"The world {name!r} was asked for.", f"There are {', '.join(WORLDS)}.", "Choose one of these.")
    console = Console(stderr=True)
    if name == "calendar":
        import torch

        from backend.worlds.calendar import sample_story

        generator = torch.Generator().manual_seed(seed)
        for _ in range(n):
            print(sample_story(generator))
        return
    with console.status(f"drawing {n} samples of {name}"):
        if name == "tabletop":
            from backend.worlds import tabletop

            sheet = tabletop.contact_sheet(n, seed)
        else:
            from backend.worlds import curves

            sheet = curves.contact_sheet()
    out = out or Path(f"{name}.png")
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    console.print(f"{out}: {sheet.width} × {sheet.height} pixels", highlight=False)
