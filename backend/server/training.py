"""Routes of training: what it would take, start, list, follow (as any job), remove."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from backend.core.errors import Refused
from backend.server.jobs import job_info
from backend.server.session import Atlas
from backend.wire.base import ErrorBody
from backend.wire.jobs import JobInfo
from backend.wire.training import FeaturizerRequest, TrainingEstimate, TrainingRun

router = APIRouter(tags=["training"])

ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (404, 409, 422, 503)}


@router.post("/v1/featurizers", responses=ERRORS)
async def post_featurizer(body: FeaturizerRequest, atlas: Atlas) -> JobInfo:
    """Train a featurizer as a job in a process of its own; the same request again goes on where it stopped."""
    adapter = await atlas.models.get(body.model)
    found = await asyncio.to_thread(atlas.trainings.estimate, body, adapter, timed=False)
    if found.refusal is not None:
        raise Refused(found.refusal.asked, found.refusal.true, found.refusal.todo)
    found = await asyncio.to_thread(atlas.trainings.estimate, body, adapter)
    return job_info(await asyncio.to_thread(atlas.trainings.start, body, found))


@router.post("/v1/featurizers/estimate", responses=ERRORS)
async def post_estimate(body: FeaturizerRequest, atlas: Atlas) -> TrainingEstimate:
    """What a training would take: rows, bytes, memory, and seconds from a short trial of the model and of steps."""
    adapter = await atlas.models.get(body.model)
    return await asyncio.to_thread(atlas.trainings.estimate, body, adapter)


@router.get("/v1/trainings")
def get_trainings(atlas: Atlas) -> list[TrainingRun]:
    """Every training on disk, the newest first, without their curves."""
    return atlas.trainings.every()


@router.get("/v1/trainings/{training}", responses={404: {"model": ErrorBody}, 500: {"model": ErrorBody}})
def get_training(training: str, atlas: Atlas) -> TrainingRun:
    """One training with its curve."""
    return atlas.trainings.get(training)


@router.delete("/v1/trainings/{training}", status_code=204, responses=ERRORS)
def delete_training(training: str, atlas: Atlas) -> None:
    """Forget a training that is over, with what it kept to go on from; its featurizer stays."""
    atlas.trainings.remove(training)
