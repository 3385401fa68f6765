"""What of the light can be read from one block, several, atoms, chance directions, or everything: one seed.

    scenes of four shapes  →  a featurizer, no label          (``atoms``: b = 1, as many atoms and active scalars)
    other scenes of them   →  what is read with: ridge from pooled codes to a factor; which block: its check rows
    scenes of two shapes that neither has seen               →  what is reported

Pooled are codes and their norms, summed over positions and weighted by position (``statistics.pooled``). Chance
directions are random frames read exactly like blocks: at the share of positions at which a block fires, those where
the frame's own coordinates are longest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from backend.featurizers import statistics
from backend.featurizers.featurizer import Featurizer
from backend.featurizers.grassmannian import Grassmannian
from backend.featurizers.statistics import CodeTable, Halves, held_out_guess, held_out_r2
from backend.featurizers.trainer import Training, fit, measure
from backend.featurizers.union import communities, greedy_union, neighbourhoods

SCALARS = ("luminance", "shadow_area", "light_elevation")
AZIMUTH = "light_azimuth"


@dataclass(frozen=True)
class Plan:
    """Sizes of the study."""

    n_blocks: int = 16
    d_block: int = 8
    k: int = 4
    many: tuple[int, int, int] = (192, 3, 6)
    """(G, b, k) of a dictionary of many narrow blocks, for comparison."""
    training: Training = Training(steps=1000, batch=2048, lr=2e-3)
    n_scenes: int = 6000
    """Scenes of the train split, of all shapes; two thirds are of the shapes that a seed's featurizer sees."""
    n_test: int = 2000
    share_trained: float = 0.6
    """Of the scenes of seen shapes, those that train the featurizer; the rest fit and choose the reading."""
    n_unseen: int = 2
    n_seeds: int = 3
    n_random: int = 16
    """Random frames that the best is chosen of; as many as blocks."""
    n_most: int = 4
    """Blocks of a union."""

    @property
    def sizes(self) -> dict[str, tuple[int, int, int]]:
        """(G, b, k) of the featurizers: ``blocks``, ``atoms`` of equal budget, and ``many`` narrow blocks."""
        b = self.d_block
        return {"blocks": (self.n_blocks, b, self.k), "atoms": (self.n_blocks * b, 1, self.k * b), "many": self.many}


@dataclass(frozen=True)
class Guessed:
    """One reading of one factor on scenes of unseen shapes: truth and guess ``(n, m)``."""

    truth: np.ndarray
    guess: np.ndarray

    @property
    def r2(self) -> float:
        return float(1 - ((self.truth - self.guess) ** 2).sum() / ((self.truth - self.truth.mean(0)) ** 2).sum())

    @property
    def standard(self) -> tuple[np.ndarray, np.ndarray]:
        """Truth and guess of a scalar factor ``(n,)``, each of mean 0 and spread 1, so that seeds can be joined."""
        return tuple((v[:, 0] - v[:, 0].mean()) / max(v[:, 0].std(), 1e-12) for v in (self.truth, self.guess))

    @property
    def correlation(self) -> float:
        truth, guess = self.standard
        return float((truth * guess).mean())


@dataclass(frozen=True)
class Seed:
    """Everything that one seed measured: ``{factor: {arm: Guessed}}`` and what was chosen."""

    read: dict[str, dict[str, Guessed]]
    blocks: dict[str, list[int]]
    """Chosen blocks: ``factor`` the best block, ``union``, ``neighbourhood`` and ``community`` of the azimuth."""
    spread: dict[str, float]
    """Mean over random frames or over all blocks of the correlation with a scalar factor, ``"random luminance"`` ..."""
    r2: dict[str, float]
    """R² of the featurizers themselves on unseen shapes."""
    unseen: tuple[int, ...]


def unseen_shapes(seed: int, n_shapes: int, n: int) -> tuple[int, ...]:
    """The shapes that a seed leaves out: consecutive seeds leave out other ones, all in turn."""
    return tuple((seed * n + i) % n_shapes for i in range(n))


def random_features(x: Tensor, plan: Plan, *, seed: int) -> Tensor:
    """Pooled codes ``(frames, n, 3(b+1))`` of ``x`` (n, T, d), normalised, on random frames that fire as blocks do."""
    n, positions, d = x.shape
    generator = torch.Generator().manual_seed(seed + 7)
    n_fire = max(1, round(n * positions * plan.k / plan.n_blocks))
    flat, out = x.flatten(0, 1), []
    for _ in range(plan.n_random):
        z = flat @ torch.linalg.qr(torch.randn(d, plan.d_block, generator=generator)).Q
        z = torch.cat([z, z.norm(dim=1, keepdim=True)], 1)
        fires = z[:, -1] >= z[:, -1].topk(n_fire).values[-1]
        out.append(pooled_rows((z * fires[:, None]).view(n, positions, -1)))
    return torch.stack(out)


def pooled_rows(x: Tensor) -> Tensor:
    """Rows ``x`` (n, T, d) summed over positions, and weighted by position, (n, 3d)."""
    place = statistics.grid_positions(x.shape[1]).to(x)
    weight = torch.cat([torch.ones(len(place), 1).to(x), place], 1)
    return torch.einsum("ntd,tp->npd", x, weight).flatten(1)


def featurizer_of(x: Tensor, size: tuple[int, int, int], training: Training, *, seed: int) -> Featurizer:
    """A Grassmannian featurizer of size (G, b, k) of activations ``x`` (n, T, d)."""
    n_blocks, d_block, k = size
    featurizer = Grassmannian(x.shape[-1], n_blocks, d_block=d_block, k=k, aux="dead",
                              generator=torch.Generator().manual_seed(seed))  # fmt: skip
    featurizer.fit_centring(iter(x.split(256)))
    fit(featurizer, x, training=replace(training, seed=seed))
    return featurizer


@torch.no_grad()
def _best(features: Tensor, y: Tensor, halves: Halves) -> int:
    return int(held_out_r2(features, y, halves)[0].argmax())


def _joined(features: Tensor, blocks: list[int]) -> Tensor:
    return torch.cat([features[block] for block in blocks], -1)


def measure_seed(x: Tensor, factors: dict[str, np.ndarray], x_test: Tensor, factors_test: dict[str, np.ndarray],
                 plan: Plan, *, seed: int, n_shapes: int, tell: Callable[[float, str], None]) -> Seed:  # fmt: skip
    """Train on seen shapes, choose and fit on others of them, read on unseen ones; activations are (n, T, d)."""
    out = unseen_shapes(seed, n_shapes, plan.n_unseen)
    seen = np.flatnonzero(~np.isin(factors["shape"], out))
    new = np.flatnonzero(np.isin(factors_test["shape"], out))
    cut = int(plan.share_trained * len(seen))
    trained, chosen = seen[:cut], seen[cut:]
    featurizers = {}
    for i, (label, size) in enumerate(plan.sizes.items()):
        tell(0.25 * i, f"{label}, seed {seed}")
        featurizers[label] = featurizer_of(x[trained], size, plan.training, seed=seed)
    rows = torch.cat([x[chosen], x_test[new]])
    known = {k: np.concatenate([factors[k][chosen], factors_test[k][new]]) for k in (*SCALARS, AZIMUTH)}
    return read_light(featurizers, rows, known, len(chosen), plan, seed=seed, unseen=out,
                      tell=lambda share, what: tell(0.75 + 0.25 * share, what))  # fmt: skip


def read_light(featurizers: dict[str, Featurizer], rows: Tensor, known: dict[str, np.ndarray], n_chosen: int,
               plan: Plan, *, seed: int, unseen: tuple[int, ...],
               tell: Callable[[float, str], None]) -> Seed:  # fmt: skip
    """Every arm's reading of every factor: chosen and fitted on the first ``n_chosen`` scenes, reported on the rest."""
    featurizer = featurizers["blocks"]
    n_check = n_chosen // 4
    halves = Halves(inner=torch.arange(n_chosen - n_check), check=torch.arange(n_chosen - n_check, n_chosen),
                    test=torch.arange(n_chosen, len(rows)))  # fmt: skip
    table = statistics.read_codes(featurizer, rows)
    features = statistics.pooled(table)
    ones, narrow = (statistics.pooled(statistics.read_codes(featurizers[label], rows)) for label in ("atoms", "many"))
    chance = random_features(featurizer.normalise(rows), plan, seed=seed)
    whole = pooled_rows(rows)
    # Choosing among co-activations may not look at the unseen shapes either.
    overlap = statistics.co_activation(CodeTable(table.block[:n_chosen], table.code[:n_chosen], table.n_blocks))
    strength = torch.stack([table.presence(block).sum(1) for block in range(table.n_blocks)])[..., None]
    rng = np.random.default_rng(seed)
    read: dict[str, dict[str, Guessed]] = {}
    picked: dict[str, list[int]] = {}
    mean: dict[str, float] = {}
    for i, name in enumerate((*SCALARS, AZIMUTH)):
        tell(i / 4, f"{name}, seed {seed}")
        y = statistics.targets(known[name], kind="cyclic" if name == AZIMUTH else "value")
        truth = y[halves.test].numpy()

        def guessed(columns: Tensor, y: Tensor = y, truth: np.ndarray = truth) -> Guessed:
            return Guessed(truth, held_out_guess(columns, y, halves).numpy())

        best = _best(features, y, halves)
        picked[name] = [best]
        few = greedy_union(ones, y, halves, n_most=plan.d_block, gain=0.0)
        # The same search, in scenes whose light was exchanged: choosing among many blocks must not make a finding.
        mixed = y[torch.as_tensor(rng.permutation(len(y)))]
        read[name] = {
            "block": guessed(features[best]),
            "atoms": guessed(_joined(ones, few.blocks)),
            "of many": guessed(narrow[_best(narrow, y, halves)]),
            "best of random frames": guessed(chance[_best(chance, y, halves)]),
            "all": guessed(whole),
            "all blocks": guessed(features.transpose(0, 1).flatten(1)),
            "shuffled light": guessed(features[_best(features, mixed, halves)], mixed, mixed[halves.test].numpy()),
        }
        if name == AZIMUTH:
            union = greedy_union(features, y, halves, overlap=overlap, n_most=plan.n_most, gain=0.0)
            many = greedy_union(ones, y, halves, n_most=plan.n_most * plan.d_block, gain=0.0)
            thin = greedy_union(narrow, y, halves, n_most=plan.n_most, gain=0.0)
            near = _best_set(features, neighbourhoods(overlap, n=plan.n_most), y, halves)
            group = _best_set(features, communities(overlap, seed=seed), y, halves)
            picked |= {"union": union.blocks, "neighbourhood": near, "community": group}
            read[name] |= {
                "union": guessed(_joined(features, union.blocks)),
                "union of many": guessed(_joined(narrow, thin.blocks)),
                "atoms of a union": guessed(_joined(ones, many.blocks)),
                "neighbourhood": guessed(_joined(features, near)),
                "community": guessed(_joined(features, group)),
                "random frames of a union": guessed(_joined(chance, greedy_union(
                    chance, y, halves, n_most=plan.n_most, gain=0.0).blocks)),
            }  # fmt: skip
        else:
            read[name]["norm alone"] = guessed(strength[_best(strength, y, halves)])
            for label, each in (("random", chance), ("any block", features)):
                mean[f"{label} {name}"] = float(np.mean([abs(guessed(one).correlation) for one in each]))
    tested = {label: measure(one, one.normalise(rows[n_chosen:]).flatten(0, 1)).r2
              for label, one in featurizers.items()}  # fmt: skip
    return Seed(read, picked, mean, tested, unseen)


def _best_set(features: Tensor, sets: list[list[int]], y: Tensor, halves: Halves) -> list[int]:
    """Of sets of blocks that were made without labels, the one that holds ``y`` best on the check rows."""
    score = [float(held_out_r2(_joined(features, blocks)[None], y, halves)[0][0]) for blocks in sets]
    return sets[int(np.argmax(score))] if sets else [0]
