"""Findings and cards: the catalogue as it crosses the network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from backend.wire.base import Message


class Finding(Message):
    """A measured claim that can be re-run."""

    id: str
    """Stable over time: ``study/measure``, for example ``light-ring/median-error-deg``."""
    claim: str
    """One sentence."""
    question: str = ""
    value: float | None
    low: float | None = None
    high: float | None = None
    """95 % interval."""
    n: int = 0
    unit: str = ""
    published: str | None = None
    """The paper's value, as printed there, with its setting."""
    controls: dict[str, float | None] = Field(default_factory=dict)
    evidence: Literal["observational", "correlational", "interventional"] = "observational"
    status: Literal["holds", "falls short", "null", "contradicted", "unjudged"] = "unjudged"
    aim: str = ""
    """What it was to reach, in words, where something was aimed at."""
    model: str = ""
    data: str = ""
    seeds: list[int] = Field(default_factory=list)
    command: str = ""
    caveat: str = ""
    supports: list[str] = Field(default_factory=list)
    contradicts: list[str] = Field(default_factory=list)
    measured: str = ""
    """ISO date of the run."""


class StudyResult(Message):
    """The last line of ``manifold-atlas study NAME --json``."""

    study: str
    scale: str
    seed: int
    seconds: float
    findings: list[Finding]


class Card(Message):
    """One entry of the catalogue that is not a finding."""

    name: str
    kind: Literal["model", "dataset", "featurizer", "manifold"]
    title: str
    summary: str
    facts: dict[str, str | float | int | None] = Field(default_factory=dict)
    gates: list[dict] = Field(default_factory=list)
    """``{name, value, aim, passed}`` of each measured gate."""
    licence: str = "Apache-2.0"
    markdown: str = ""


class Catalogue(Message):
    cards: list[Card]
    findings: list[Finding]
    skipped: list[str] = Field(default_factory=list)
