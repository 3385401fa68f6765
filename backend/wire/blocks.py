"""Browsing the blocks of a featurizer."""

from __future__ import annotations

from pydantic import Field

from backend.wire.base import Message


class BlockSummary(Message):
    index: int
    label: str
    """Short and honest: what it follows best, or ``block 17``."""
    xy: tuple[float, float]
    """Place on the map (UMAP of co-activation)."""
    firing_rate: float
    energy: float
    """Share of the explained energy."""
    stable_rank: float
    participation_ratio: float
    effective_rank: float
    topology: str = "unknown"
    """``ring``, ``ring of directions``, ``line``, ``point``, ``sheet``, ``torus``, ``none`` or ``unknown``."""
    factors: dict[str, float] = Field(default_factory=dict)
    """Held-out R² of each known factor from this block (sin and cos for cyclic ones)."""
    manifold: str | None = None
    """Name of a manifold that can be steered, where one was fitted in this block."""


class BlockList(Message):
    featurizer: str
    blocks: list[BlockSummary]
    factors: list[str]


class BlockExample(Message):
    t: float
    """Coordinate along the block's manifold (or its first axis), in [0, 1)."""
    strength: float
    """Norm of the block's code, relative to its maximum."""
    band: str
    """Activation band: ``top``, ``p75``, ``p50`` or ``p10``."""
    offset: int
    length: int
    """Where the picture lies in the body of the examples frame."""
    width: int
    height: int
    heat: list[list[float]] = Field(default_factory=list)
    """Presence by patch or site position, 0 to 1."""
    caption: str = ""
    factors: dict[str, float] = Field(default_factory=dict)


class BlockDetail(BlockSummary):
    featurizer: str
    spectrum: list[float]
    """Eigenvalues of the code's covariance where the block fires, largest first."""
    axes_variance: list[float]
    reason: str = ""
    """One sentence: why this topology."""
    confidence: float | None = None
    """How sure a ring is, 0 to 1."""
    antipodal: float | None = None
    """How alike the cloud is to its mirror image, 0 to 1: high means that a ring may be an artefact of signs."""
    tuning: dict[str, list[float]] = Field(default_factory=dict)
    """Mean code norm in equal bins of each cyclic factor."""
    neighbours: list[int] = Field(default_factory=list)
    """Blocks that are active with it."""
    examples: list[BlockExample] = Field(default_factory=list)
    findings: list[str] = Field(default_factory=list)


class CloudHeader(Message):
    """Header of the code cloud; the body is float16 ``(n, 3)`` positions, then float16 ``(n,)`` for each column."""

    featurizer: str
    block: int
    n: int
    columns: list[str]
    """``t`` first where there is a manifold coordinate, then the known factors (angles in radians)."""
    variance: list[float]
