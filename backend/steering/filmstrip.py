"""Film-strips: the stops of one manifold, rendered at low priority when it is opened.

On a ring the stops are i / n (the first is also where the last leads), on a line i / (n - 1), both ends included. A
drag cross-fades them, labelled as cached, while the exact frame is on its way. Not covered: sheets.
"""

from __future__ import annotations

from backend.core.errors import Invalid
from backend.steering.image import ImagePlan, ImageSteerer
from backend.wire.canvas import FilmstripRequest


def stops_of(kind: str, n: int) -> list[float]:
    """``n`` coordinates along a manifold of this kind."""
    return [i / n for i in range(n)] if kind == "ring" else [i / (n - 1) for i in range(n)]


def plan_filmstrip(steerer: ImageSteerer, request: FilmstripRequest) -> ImagePlan:
    """The rows of a film-strip along the first steer's manifold; raises ``Invalid`` where nothing is steered."""
    if not request.steer:
        raise Invalid("A film-strip was asked for.", "The request names no manifold.", "Give one in steer.")
    kind = steerer.manifolds(request.steer[0].manifold).kind
    return steerer.plan(request.model_copy(update={"arms": ["manifold"]}), stops=stops_of(kind, request.stops))
