"""How things stand on a page: headings, quiet lines, columns, and the stage of a steering page."""

from __future__ import annotations

import panel as pn

from app.views.theme import CSS

NONE = {"none installed": ""}
"""What a choice offers where there is nothing to choose."""

STAGE = """
:host { display: grid !important; gap: 16px 40px; align-items: start;
  height: max-content !important;
  grid-template: "main side" max-content "below side" 1fr / minmax(0, 2.1fr) minmax(320px, 1fr); }
.stage-main { grid-area: main; } .stage-side { grid-area: side; } .stage-below { grid-area: below; }
@media (max-width: 900px) {
  :host { grid-template: "main" max-content "side" max-content "below" max-content / minmax(0, 1fr); } }
"""


def markup(text: str = "", **params) -> pn.pane.HTML:
    """Markup in the page's type."""
    return pn.pane.HTML(text, stylesheets=[CSS], **{"sizing_mode": "stretch_width", "margin": 0, **params})


def heading(text: str, note: str = "") -> pn.pane.HTML:
    """A section's name and the one sentence that says how to read it."""
    said = f'<div class="atlas-quiet">{note}</div>' if note else ""
    return markup(f'<h2 class="atlas-h2">{text}</h2>{said}')


def quiet(text: str = "") -> pn.pane.HTML:
    """A quiet line of text."""
    return markup(f'<div class="atlas-quiet">{text}</div>' if text else "")


def column(*parts, grow: str | None = None, gap: int = 16, **params) -> pn.Column:
    """Things one below the other; ``grow`` is its share (CSS flex) where it is itself one of several columns."""
    styles = {"gap": f"{gap}px", "min-width": "0", **({"flex": grow} if grow else {}), **params.pop("styles", {})}
    return pn.Column(*parts, sizing_mode="stretch_width", margin=0, styles=styles, **params)


def row(*parts, gap: int = 12, align: str = "center", wrap: bool = True) -> pn.Row:
    """Things in one line."""
    styles = {"gap": f"{gap}px", "flex-wrap": "wrap" if wrap else "nowrap", "align-items": align}
    return pn.Row(*parts, sizing_mode="stretch_width", margin=0, styles=styles)


def columns(*parts, gap: int = 40) -> pn.Row:
    """Columns side by side; one below the other where they do not fit."""
    return row(*parts, gap=gap, align="flex-start")


def stage(main: pn.Column, side: pn.Column, below: pn.Column) -> pn.Column:
    """A steering page: the answer, beside it the pad; on a narrow screen the pad stays right below what answers it."""
    for part, name in ((main, "main"), (side, "side"), (below, "below")):
        part.css_classes = [f"stage-{name}"]
    return pn.Column(main, side, below, sizing_mode="stretch_width", margin=0, stylesheets=[STAGE])
