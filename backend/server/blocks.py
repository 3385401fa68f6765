"""Routes of featurizers and their blocks.

What is read from disk is read on the pool's threads; only a search, which runs a model, goes to the device's thread.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from backend.engine.work import Priority, call
from backend.server.answers import frame_response, settle
from backend.server.block_findings import about_block
from backend.server.session import Atlas, user_of
from backend.wire.base import ErrorBody
from backend.wire.blocks import BlockList, BlockMatches, BlockSearch
from backend.wire.capabilities import FeaturizerInfo
from backend.wire.frame import MEDIA_TYPE

router = APIRouter(tags=["blocks"])

CONTAINER: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}, "description": "A container."},
    404: {"model": ErrorBody}, 500: {"model": ErrorBody},
}  # fmt: skip

SEARCH: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (404, 409, 422, 500, 503)}


@router.get("/v1/featurizers")
def get_featurizers(atlas: Atlas) -> list[FeaturizerInfo]:
    """The featurizers on disk; those that cannot be read are listed in the capabilities' ``skipped``."""
    return atlas.featurizers.infos()[0]


LIST: dict[int | str, dict[str, Any]] = {
    200: {"model": BlockList}, 404: {"model": ErrorBody}, 500: {"model": ErrorBody},
}  # fmt: skip


@router.get("/v1/featurizers/{featurizer}/blocks", responses=LIST, response_class=Response)
def get_blocks(featurizer: str, atlas: Atlas) -> Response:
    """All living blocks of a featurizer, with their places on the map, its edges, and unions that hold a factor."""
    # Kept as bytes: validating and writing thousands of blocks anew would cost every visitor a tenth of a second.
    return Response(atlas.featurizers.browser(featurizer).blocks_json, media_type="application/json")


@router.get("/v1/featurizers/{featurizer}/blocks/{block}", responses=CONTAINER, response_class=Response)
def get_block(featurizer: str, block: int, atlas: Atlas) -> Response:
    """One block; the container's header is a ``BlockDetail``, its body the example pictures (WebP)."""
    detail, body = atlas.featurizers.browser(featurizer).detail(block)
    detail.measured = about_block(atlas, detail)
    detail.findings = list(dict.fromkeys([*detail.findings, *(f.id for f in detail.measured)]))
    return frame_response(detail, body if isinstance(body, list) else [body])


@router.post("/v1/featurizers/{featurizer}/search", responses=SEARCH)
async def post_search(featurizer: str, body: BlockSearch, request: Request, atlas: Atlas) -> BlockMatches:
    """The blocks that one's own text or picture holds, ranked by the summed norms of their codes."""
    shelf = atlas.featurizers
    info, browser = await asyncio.to_thread(lambda: (shelf.get(featurizer), shelf.browser(featurizer)))
    adapter = await atlas.models.get(info.model)
    weights = await asyncio.to_thread(shelf.weights, featurizer)

    def run() -> BlockMatches:
        from backend.featurizers.search import search

        return search(weights, adapter, body, site=info.site, browser=browser)

    work = call(run, stage="search", priority=Priority.IMAGE, user=user_of(request))
    return await settle(request, atlas.submit(work), lambda: atlas.scheduler.cancel(work))


@router.get("/v1/featurizers/{featurizer}/blocks/{block}/cloud", responses=CONTAINER, response_class=Response)
def get_cloud(
    featurizer: str, block: int, atlas: Atlas, n: Annotated[int | None, Query(ge=1, le=200_000)] = None
) -> Response:
    """The code cloud of one block; the container's header is a ``CloudHeader``, its body float16 columns."""
    header, body = atlas.featurizers.browser(featurizer).cloud(block, n=n)
    return frame_response(header, [body])
