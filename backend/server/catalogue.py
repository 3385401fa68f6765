"""Routes of what there is: capabilities, manifolds, catalogue, findings."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter
from fastapi.responses import Response

from backend.catalogue.store import Catalogue as Store
from backend.server.model_shelf import load_wait
from backend.server.session import Atlas
from backend.server.state import AtlasState, version
from backend.wire.base import ErrorBody
from backend.wire.capabilities import Capabilities, ManifoldInfo
from backend.wire.findings import Catalogue, Finding
from backend.wire.text import ManifoldCurves

router = APIRouter(tags=["catalogue"])


def _capabilities(atlas: AtlasState) -> Capabilities:
    cards = {card.name: card for card in Store().cards() if card.kind == "model"}
    manifolds, _ = atlas.manifolds.infos()
    featurizers, _ = atlas.featurizers.infos()
    models = [atlas.model_info(adapter, cards) for adapter in atlas.models.loaded().values()]
    return Capabilities(
        version=version(), device=atlas.device or "not known yet", models=models, manifolds=manifolds,
        featurizers=featurizers, skipped=atlas.skipped(),
    )  # fmt: skip


@router.get("/v1/capabilities")
async def get_capabilities(atlas: Atlas) -> Capabilities:
    """Models, manifolds, featurizers and limits. Waits a while for models that are still loading."""
    until = time.monotonic() + load_wait()
    while atlas.models.busy and time.monotonic() < until:
        await asyncio.sleep(0.05)
    return await asyncio.to_thread(_capabilities, atlas)


@router.get("/v1/manifolds")
def get_manifolds(atlas: Atlas) -> list[ManifoldInfo]:
    """Every manifold that can be read."""
    return atlas.manifolds.infos()[0]


@router.get("/v1/manifolds/{manifold}/curves", response_model=ManifoldCurves,
            responses={404: {"model": ErrorBody}, 500: {"model": ErrorBody}})  # fmt: skip
def get_curves(manifold: str, atlas: Atlas) -> Response:
    """A manifold, and its behaviour manifold where it has one, as curves in three dimensions."""
    curves = atlas.manifolds.get(manifold).curves()
    return Response(curves.model_dump_json(), media_type="application/json")


@router.get("/v1/catalogue", response_model=Catalogue)
def get_catalogue() -> Response:
    """All cards and findings."""
    return Response(Store().message().model_dump_json(), media_type="application/json")


@router.get("/v1/findings")
def get_findings() -> list[Finding]:
    """All findings, by id."""
    return Store().findings()


@router.get("/v1/findings/{study}/{measure}", responses={404: {"model": ErrorBody}})
def get_finding(study: str, measure: str) -> Finding:
    """One finding, for example ``light-ring/median-error-deg``."""
    return Store().finding(f"{study}/{measure}")
