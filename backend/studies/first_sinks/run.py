"""The study ``first-sinks``: language, vision, and the negative control."""

from __future__ import annotations

from backend.studies.base import StudyContext, study
from backend.studies.first_sinks.language import calendar, stories
from backend.studies.first_sinks.vision import dino
from backend.wire.findings import Finding

PARTS = ((calendar, 0.0, 0.3), (dino, 0.3, 0.7), (stories, 0.7, 1.0))


@study("first-sinks")
def run(ctx: StudyContext) -> list[Finding]:
    """Sinks of the embedded models against untrained copies and a model without one."""
    found = []
    for part, low, high in PARTS:
        found += part(ctx, lambda f, message, low=low, high=high: ctx.progress(low + (high - low) * f, message))
    return found
