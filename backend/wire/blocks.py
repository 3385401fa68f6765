"""Browsing the blocks of a featurizer."""

from __future__ import annotations

from pydantic import Field

from backend.wire.base import Message
from backend.wire.findings import Finding


class BlockSummary(Message):
    index: int
    label: str
    """Short and honest: what it follows best, or ``block 17``."""
    xy: tuple[float, float]
    """Place on the map (UMAP of co-activation)."""
    graph_xy: tuple[float, float] | None = None
    """Place in the graph of co-activation (forces along its edges); ``None`` in atlases that were made before it."""
    firing_rate: float
    energy: float
    """Share of the explained energy."""
    stable_rank: float
    participation_ratio: float
    effective_rank: float
    bits: float | None = None
    """Bits of its code where it fires, at a distortion of 20 % of the activation's variance."""
    topology: str = "unknown"
    """``ring``, ``ring of directions``, ``line``, ``point``, ``sheet``, ``torus``, ``none`` or ``unknown``."""
    factors: dict[str, float] = Field(default_factory=dict)
    """Held-out R² of each known factor from this block (sin and cos for cyclic ones)."""
    manifold: str | None = None
    """Name of a manifold that can be steered, where one was fitted in this block."""


class Union(Message):
    """Blocks that fire together and together hold a factor; chosen on one half of the pictures, R² of the other."""

    factor: str
    blocks: list[int]
    """In the order of choice."""
    r2: float
    single: float
    """R² of the first block alone."""
    all: float | None = None
    """R² of all blocks of the featurizer together."""


class BlockList(Message):
    featurizer: str
    blocks: list[BlockSummary]
    factors: list[str]
    edges: list[tuple[int, int, float]] = Field(default_factory=list)
    """The strongest co-activations: two blocks by index, and the overlap of where they fire, 0 to 1."""
    unions: list[Union] = Field(default_factory=list)


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
    turn: list[list[float]] = Field(default_factory=list)
    """Direction of the code by position, 0 to 1 around the plane of the first two axes; meaningless where silent."""
    caption: str = ""
    factors: dict[str, float] = Field(default_factory=dict)


class Atom(Message):
    """One direction of a b = 1 featurizer of the same activations that fires inside a block."""

    atom: int
    arrow: tuple[float, float, float]
    """From the origin of the codes along the atom, on the axes and in the units of the cloud."""
    inside: float
    """Length of the atom's direction inside the block's subspace, 0 to 1."""
    share: float
    """Share of the energy that all atoms put into the block's subspace where the block fires."""
    firing_rate: float
    """Share of the block's firings at which the atom fires."""
    along: list[float] = Field(default_factory=list)
    """Mean strength along the block's coordinate t, in equal bins, relative to the strongest of all atoms."""


class BlockDetail(BlockSummary):
    featurizer: str
    spectrum: list[float]
    """Eigenvalues of the code's covariance where the block fires, largest first."""
    axes_variance: list[float]
    origin: tuple[float, float, float] | None = None
    """Where the cloud's axes have a code of zero."""
    reason: str = ""
    """One sentence: why this topology."""
    confidence: float | None = None
    """How sure a ring is, 0 to 1."""
    antipodal: float | None = None
    """How alike the cloud is to its mirror image, 0 to 1: high means that a ring may be an artefact of signs."""
    tuning: dict[str, list[float]] = Field(default_factory=dict)
    """Mean code norm in equal bins of each cyclic factor."""
    harmonics: dict[str, list[float]] = Field(default_factory=dict)
    """Share of the code's variance that turns w = 1, 2, ... times while a cyclic factor turns once."""
    harmonic_floor: float | None = None
    """The share that a harmonic of a code that knows nothing of the factor exceeds in one of a hundred."""
    strengths: list[int] = Field(default_factory=list)
    """Pictures on which it fires, by strength in equal bins from 0 to its maximum."""
    bands: dict[str, float] = Field(default_factory=dict)
    """Strength, relative to its maximum, at which each activation band stands."""
    neighbours: list[int] = Field(default_factory=list)
    """Blocks that are active with it."""
    overlap: list[float] = Field(default_factory=list)
    """Of each neighbour: positions with both over positions with either."""
    unions: list[Union] = Field(default_factory=list)
    """Those of the featurizer's unions that it belongs to."""
    atoms: list[Atom] = Field(default_factory=list)
    """The b = 1 atoms that share its manifold among them; empty where no atoms were trained."""
    atoms_from: str = ""
    """The featurizer that the atoms belong to; empty where none was trained."""
    atoms_command: str = ""
    """The command that trains the atoms."""
    examples: list[BlockExample] = Field(default_factory=list)
    findings: list[str] = Field(default_factory=list)
    measured: list[Finding] = Field(default_factory=list)
    """The findings of the catalogue that name this block or its manifold."""


class CloudHeader(Message):
    """Header of the code cloud; the body is float16 ``(n, 3)`` positions, then float16 ``(n,)`` for each column."""

    featurizer: str
    block: int
    n: int
    columns: list[str]
    """``t`` first where there is a manifold coordinate, ``strength``, then the known factors (angles in radians)."""
    variance: list[float]


class BlockSearch(Message):
    """One's own text or picture, to be read at the featurizer's site; a model of pictures takes both together."""

    text: str | None = Field(default=None, max_length=4000)
    image: str | None = None
    """base64 (PNG, JPEG or WebP, at most 4 MB)."""
    seed: int = 0
    """Noise of a model that draws; the same seed gives the same answer."""
    n: int = Field(default=64, ge=1, le=512)


class BlockMatch(Message):
    block: int
    score: float
    """Norms of its code, summed over positions."""
    share: float
    """Of the norms of all blocks."""
    lift: float | None = None
    """Score over its mean score on the atlas' pictures."""
    heat: list[list[float]] = Field(default_factory=list)
    """Its norm by position, relative to its largest; of the first few."""


class BlockMatches(Message):
    featurizer: str
    matches: list[BlockMatch]
    """Strongest first; only blocks of the atlas."""
    positions: int
    tokens: list[str] = Field(default_factory=list)
    picture: str | None = None
    """The picture that was read, as a data URI."""
    note: str = ""
    """How it was read, in one sentence."""
    timing_ms: dict[str, float] = Field(default_factory=dict)
