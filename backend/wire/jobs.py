"""Long work: its state and its progress."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from backend.wire.base import ErrorBody, Message


class JobRequest(Message):
    kind: Literal["study"] = "study"
    name: str
    seed: int = 0
    scale: Literal["small", "paper"] = "small"


class JobInfo(Message):
    id: str
    kind: str
    name: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float = Field(default=0.0, ge=0.0, le=1.0)
    message: str = ""
    seconds: float = 0.0
    error: ErrorBody | None = None


class JobEvent(Message):
    """One server-sent event; ``id`` rises by one, so that a reconnect can ask for what it missed."""

    id: int
    job: JobInfo
