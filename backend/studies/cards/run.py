"""The study ``cards``: every embedded model's gates, one part after the other."""

from __future__ import annotations

from backend.studies.base import StudyContext, study
from backend.studies.cards.language import calendar
from backend.studies.cards.pictures import autoencoder, diffusion, few_step, reader
from backend.studies.cards.vision import dino, inception
from backend.wire.findings import Finding

PARTS = ((calendar, 0.1), (inception, 0.15), (reader, 0.1), (autoencoder, 0.05), (dino, 0.2), (diffusion, 0.2),
         (few_step, 0.2))  # fmt: skip
"""Each part and its share of the time."""


@study("cards")
def run(ctx: StudyContext) -> list[Finding]:
    """The gates of every embedded model, measured on held-out data."""
    found, low = [], 0.0
    for part, width in PARTS:
        found += part(ctx, lambda f, message, low=low, width=width: ctx.progress(low + width * f, message))
        low += width
    return found
