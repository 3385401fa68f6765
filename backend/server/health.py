"""The route that says how the server is; it answers at once, also while models load."""

from __future__ import annotations

import time

import psutil
from fastapi import APIRouter

from backend.server.session import Atlas
from backend.server.state import version
from backend.wire.capabilities import Health

router = APIRouter(tags=["health"])


@router.get("/v1/health")
async def get_health(atlas: Atlas) -> Health:
    """``starting`` while models load, ``degraded`` where one could not be loaded, else ``ready``."""
    models = atlas.models
    loaded, failed = list(models.loaded()), models.failed()
    status, detail = "ready", ""
    if models.busy:
        status = "starting"
        detail = f"loading {models.now}, {len(loaded)} of {len(models.names())} models are ready"
        if not models.listed.is_set() or not models.now:
            detail = "looking for models"
    elif not atlas.scheduler.alive:
        status, detail = "degraded", "the device thread is not running"
    elif failed:
        status, detail = "degraded", f"could not be loaded: {', '.join(failed)}"
    elif not loaded:
        detail = "there are no models yet; make one with 'manifold-atlas train NAME'"
    return Health(
        status=status, device=atlas.device or "not known yet", version=version(),
        uptime_s=round(time.monotonic() - atlas.began, 3), loaded=loaded, queue_depth=atlas.scheduler.depth,
        memory_mb=round(psutil.Process().memory_info().rss / 2**20, 1), detail=detail,
    )  # fmt: skip
