"""Class probabilities along a path, one panel an arm: where the straight way leaks, it shows."""

from __future__ import annotations

from collections.abc import Sequence

from app.views.charts import lines
from app.views.theme import ARMS, arm_name
from backend.wire.text import ArmPath, PathResponse


def path_panels(path: PathResponse, colours: Sequence[str]) -> str:
    """One panel for each arm; classes in their manifold colours, everything off the concept grey and dashed."""
    panels = "".join(f"<figure>{_panel(path, arm, colours)}</figure>" for arm in path.arms)
    return f'<div class="atlas-panels">{panels}</div>'


def _panel(path: PathResponse, arm: ArmPath, colours: Sequence[str]) -> str:
    series = [
        (label.strip(), colours[i % len(colours)], [row[i] for row in arm.classes], False)
        for i, label in enumerate(path.labels)
    ]
    series.append(("off the concept", "#8a8f98", arm.other, True))
    n = max(len(path.fraction), 1)
    told = f"energy {sum(arm.energy) / n:.3f} · on the concept {100 * sum(arm.coherence) / n:.0f} %"
    drawn = lines(series, path.fraction, label=f"{ARMS[arm.arm][0]}: probability of each class along the way")
    return f'{arm_name(arm.arm)}<div class="atlas-quiet">{told}</div>{drawn}'
