"""Steering language: completions in the form that OpenAI's clients speak, live distributions, and paths."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.wire.base import Arm, Message


class TextSteer(Message):
    manifold: str
    t: float = Field(ge=0.0, le=1.0)
    t_from: float | None = None
    strength: float = Field(default=1.0, ge=0.0, le=4.0)
    arm: Arm = "manifold"
    positions: Literal["last", "all"] = "last"
    """``last``: only the prompt's last token (the paper's setting); ``all``: every token from there on."""


class CompletionRequest(BaseModel):
    """OpenAI's ``/v1/completions``; unknown fields are ignored, as clients of that API expect."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    model: str
    prompt: str = Field(max_length=4000)
    max_tokens: int = Field(default=24, ge=1, le=128)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    seed: int | None = None
    stream: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)
    stop: str | list[str] | None = None
    steering: TextSteer | None = None


class TextCanvasRequest(Message):
    """The next-token distribution of a prompt for several arms; latest ``seq`` wins."""

    seq: int = Field(ge=0)
    model: str = "calendar-llama"
    prompt: str = Field(max_length=4000)
    manifold: str
    t: float = Field(ge=0.0, le=1.0)
    t_from: float | None = None
    strength: float = Field(default=1.0, ge=0.0, le=4.0)
    arms: list[Arm] = Field(default_factory=lambda: ["off", "manifold", "chord"])


class ArmDistribution(Message):
    arm: Arm
    classes: list[float]
    """Probability of each class of the manifold, in its order."""
    other: float
    """Probability outside the concept."""
    top: list[tuple[str, float]]
    """The most likely tokens."""
    landed: float | None = None
    """Manifold coordinate of the distribution's circular (or plain) mean."""
    energy: float = 0.0
    """Bhattacharyya distance to the behaviour manifold."""
    coherence: float = 0.0
    """Probability on the concept."""
    activation_xyz: tuple[float, float, float] | None = None
    behaviour_xyz: tuple[float, float, float] | None = None


class TextFrame(Message):
    seq: int
    model: str
    prompt: str
    manifold: str
    t: float
    t_from: float
    labels: list[str]
    arms: list[ArmDistribution]
    timing_ms: dict[str, float]


class PathRequest(Message):
    """Class probabilities along the way from ``t_from`` to ``t`` for each arm."""

    model: str = "calendar-llama"
    prompt: str = Field(max_length=4000)
    manifold: str
    t_from: float = Field(ge=0.0, le=1.0)
    t: float = Field(ge=0.0, le=1.0)
    points: int = Field(default=25, ge=2, le=101)
    arms: list[Arm] = Field(default_factory=lambda: ["manifold", "chord", "chord_subspace"])


class ArmPath(Message):
    arm: Arm
    classes: list[list[float]]
    """(points, classes)."""
    other: list[float]
    energy: list[float]
    coherence: list[float]
    activation_xyz: list[tuple[float, float, float]]
    behaviour_xyz: list[tuple[float, float, float]]


class PathResponse(Message):
    labels: list[str]
    fraction: list[float]
    arms: list[ArmPath]
    timing_ms: dict[str, float]


class ManifoldCurves(Message):
    """Both manifolds as 3-D curves, for drawing."""

    name: str
    labels: list[str]
    label_t: list[float]
    activation_curve: list[tuple[float, float, float]]
    activation_centroids: list[tuple[float, float, float]]
    activation_points: list[tuple[float, float, float]] = Field(default_factory=list)
    activation_point_t: list[float] = Field(default_factory=list)
    activation_variance: list[float] = Field(default_factory=list)
    """Share of the centroids' variance on each of the three axes."""
    behaviour_curve: list[tuple[float, float, float]] = Field(default_factory=list)
    behaviour_centroids: list[tuple[float, float, float]] = Field(default_factory=list)
