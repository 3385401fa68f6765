"""Routes of featurizers and their blocks. Read from disk, so they run on the pool's threads, never on the device's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from backend.server.answers import frame_response
from backend.server.session import Atlas
from backend.wire.base import ErrorBody
from backend.wire.blocks import BlockList
from backend.wire.capabilities import FeaturizerInfo
from backend.wire.frame import MEDIA_TYPE

router = APIRouter(tags=["blocks"])

CONTAINER: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}, "description": "A container."},
    404: {"model": ErrorBody}, 500: {"model": ErrorBody},
}  # fmt: skip


@router.get("/v1/featurizers")
def get_featurizers(atlas: Atlas) -> list[FeaturizerInfo]:
    """The featurizers on disk; those that cannot be read are listed in the capabilities' ``skipped``."""
    return atlas.featurizers.infos()[0]


@router.get("/v1/featurizers/{featurizer}/blocks", responses={404: {"model": ErrorBody}, 500: {"model": ErrorBody}})
def get_blocks(featurizer: str, atlas: Atlas) -> BlockList:
    """All living blocks of a featurizer, with their place on the map."""
    return atlas.featurizers.browser(featurizer).blocks()


@router.get("/v1/featurizers/{featurizer}/blocks/{block}", responses=CONTAINER, response_class=Response)
def get_block(featurizer: str, block: int, atlas: Atlas) -> Response:
    """One block; the container's header is a ``BlockDetail``, its body the example pictures (WebP)."""
    detail, body = atlas.featurizers.browser(featurizer).detail(block)
    return frame_response(detail, body if isinstance(body, list) else [body])


@router.get("/v1/featurizers/{featurizer}/blocks/{block}/cloud", responses=CONTAINER, response_class=Response)
def get_cloud(
    featurizer: str, block: int, atlas: Atlas, n: Annotated[int | None, Query(ge=1, le=200_000)] = None
) -> Response:
    """The code cloud of one block; the container's header is a ``CloudHeader``, its body float16 columns."""
    header, body = atlas.featurizers.browser(featurizer).cloud(block, n=n)
    return frame_response(header, [body])
