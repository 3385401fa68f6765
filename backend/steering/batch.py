"""Many pictures at once, on the path that the app uses: for studies, site selection and film-strips of whole sets.

    rendered = render_many(steerer, requests)        # Rendered for each request, in order

Rows of all requests share UNet calls (give the steerer ``batching=Together()``), so a study measures the very code
that a drag runs, only with fuller batches.

Not covered: queues and users (``backend.engine``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backend.steering.image import ImageSteerer
from backend.steering.picture import Rendered
from backend.wire.canvas import ImageRequest


def render_many(
    steerer: ImageSteerer,
    requests: Sequence[ImageRequest],
    *,
    in_flight: int = 64,
    progress: Callable[[float], None] | None = None,
) -> list[Rendered]:
    """Render ``requests``, at most ``in_flight`` of them open at a time; ``progress`` gets the share that is done."""
    done: dict[int, Rendered] = {}
    waiting = list(enumerate(requests))[::-1]
    open_plans: dict[int, object] = {}
    while waiting or open_plans:
        while waiting and len(open_plans) < in_flight:
            i, request = waiting.pop()
            open_plans[i] = steerer.plan(request)
        ready = [r for plan in open_plans.values() for r in plan.rows if not r.done and r.batch_key is not None]
        if ready:
            # The fullest stage first: a call costs least a row when it is full.
            keys = [row.batch_key for row in ready]
            key = max(set(keys), key=keys.count)
            steerer.advance([row for row, k in zip(ready, keys, strict=True) if k == key][: steerer.max_batch])
        for i, plan in list(open_plans.items()):
            if all(row.done for row in plan.rows):
                done[i] = steerer.finish(plan)
                del open_plans[i]
        if progress:
            progress(len(done) / max(len(requests), 1))
    return [done[i] for i in range(len(requests))]
