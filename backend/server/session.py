"""What every route is given: the server's state, and who asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from backend.server.state import AtlasState


def _state(request: Request) -> AtlasState:
    return request.app.state.atlas


Atlas = Annotated[AtlasState, Depends(_state)]
"""The server's state, as an argument of a route."""


def user_of(request: Request) -> str:
    """Whose share of the device a request counts to: ``X-Atlas-User`` where a client names it, else its address."""
    return request.headers.get("x-atlas-user", "")[:80] or (request.client.host if request.client else "")
