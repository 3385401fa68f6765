"""Class probabilities along a path, one panel an arm: where the straight way leaks, it shows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from app.views.charts import lines
from app.views.theme import ARMS
from backend.wire.text import PathResponse


def path_panels(path: PathResponse, colours: Sequence[str]) -> str:
    """One panel for each arm; classes in their manifold colours, everything off the concept grey and dashed."""
    panels = []
    for arm in path.arms:
        title, colour = ARMS[arm.arm]
        series = [
            (label.strip(), colours[i % len(colours)], [row[i] for row in arm.classes], False)
            for i, label in enumerate(path.labels)
        ]
        series.append(("off the concept", "#8a8f98", arm.other, True))
        energy = sum(arm.energy) / max(len(arm.energy), 1)
        coherence = 100 * sum(arm.coherence) / max(len(arm.coherence), 1)
        panels.append(
            f'<figure style="margin:0;min-width:0"><div style="font-size:13px;font-weight:700">'
            f'<i style="display:inline-block;width:9px;height:9px;border-radius:50%;background:{colour};margin-right:6px"></i>{escape(title)}</div>'
            f'<div class="atlas-quiet">energy {energy:.3f} · on the concept {coherence:.0f} %</div>'
            f"{lines(series, path.fraction, label=f'{title}: probability of each class along the way')}</figure>"
        )
    return f'<div style="display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:16px 24px">{"".join(panels)}</div>'
