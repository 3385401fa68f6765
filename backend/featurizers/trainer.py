"""Training a featurizer: Adam, cosine rate, batches streamed from wherever the activations lie.

A ``Run`` is what a resumable training loop needs: modules, an optimiser and ``step(i)``. Every batch is a function of
(seed, step) alone, so a run that was killed goes on exactly where it stopped; ``fit`` is the plain loop without
checkpoints. Sources: a tensor (N, d) or (n, T, d); an iterable of such tensors; or an ``ActivationStore``, of which
one shard is held at a time. The order of shards is drawn per epoch, the rows within a shard per visit.

Optional denoising (the released code of Fel et al.): noise of ``denoise`` standard deviations is added to the input
and the clean activations are the target.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backend.core.errors import Invalid
from backend.featurizers.featurizer import Featurizer


def drawn(seed: int, step: int) -> torch.Generator:
    """A CPU generator that depends on ``(seed, step)`` alone."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step * 7_919 + 29) % 2**63)


@dataclass(frozen=True)
class Training:
    """How long and how fast."""

    steps: int = 2000
    batch: int = 2048
    lr: float = 3e-3
    warmup: int = 100
    denoise: float = 0.0
    """Standard deviation of the noise on the input, in units of the activations' own."""
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up to ``lr``, cosine down to a tenth of it (the paper's ratio)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        part = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * part)))


@dataclass(frozen=True)
class Quality:
    """How well a featurizer explains held-out rows."""

    r2: float
    """1 - Σ‖x - x_hat‖² / Σ‖x - mean‖²."""
    dead: float
    """Share of blocks that fire on no row."""
    active: float
    """Mean number of active blocks per row."""
    n: int


class Rows:
    """Batches of normalised rows ``(batch, d)`` from shards; ``read`` loads shard i as ``(n, d)``."""

    def __init__(self, sizes: Sequence[int], read: Callable[[int], Tensor]) -> None:
        if not sizes or min(sizes) <= 0:
            raise Invalid("A featurizer was to be trained.", "There is no row of activations.", "Harvest some first.")
        self.sizes, self._read, self._held = list(sizes), read, (-1, torch.empty(0))

    def shard(self, i: int) -> Tensor:
        if self._held[0] != i:
            self._held = (i, self._read(i))
        return self._held[1]

    def batch(self, step: int, n: int, *, seed: int = 0) -> Tensor:
        """Batch number ``step``; every row of the source is seen once an epoch, up to each shard's last part batch."""
        parts = [max(1, size // n) for size in self.sizes]
        epoch, place = divmod(step, sum(parts))
        order = torch.randperm(len(parts), generator=drawn(seed, epoch)).tolist()
        for i in order:
            if place < parts[i]:
                break
            place -= parts[i]
        rows = torch.randperm(self.sizes[i], generator=drawn(seed + 1 + i, epoch))
        return self.shard(i)[rows[place * n : (place + 1) * n]]


def rows_of(source: Any, featurizer: Featurizer) -> Rows:
    """``Rows`` of any source the module docstring names; raw activations are normalised by ``featurizer``."""

    def flat(part: Any) -> Tensor:
        x = getattr(part, "x", part).float()
        return featurizer.normalise(x).reshape(-1, featurizer.d_in)

    if isinstance(source, Tensor):
        whole = flat(source)
        return Rows([len(whole)], lambda i: whole)
    if hasattr(source, "shard"):
        sizes = [part["rows"] * source.shape[0] for part in source.meta["shards"]]
        return Rows(sizes, lambda i: flat(source.shard(i)))
    if isinstance(source, Iterable):
        parts = list(source)
        return Rows([part.numel() // featurizer.d_in for part in parts], lambda i: flat(parts[i]))
    raise Invalid(f"A featurizer was to be trained on a {type(source).__name__}.",
                  "This is neither a tensor, nor shards, nor a store.", "Give one of these.")  # fmt: skip


class Run:
    """One training: ``modules``, ``optimizer`` and ``step(i)`` for a resumable loop, ``finish()`` at its end.

    ``source`` holds raw activations; the featurizer's centring (``fit_centring``) must have been set before.
    """

    def __init__(self, featurizer: Featurizer, source: Any, *, training: Training) -> None:
        self.featurizer, self.training = featurizer, training
        self.rows = rows_of(source, featurizer)
        first = self.rows.batch(0, max(training.batch, 2048), seed=training.seed)
        featurizer.train()
        featurizer.initialise(first)
        self._spread = float(first.std())
        self.modules: dict[str, nn.Module] = {"featurizer": featurizer}
        self.optimizer = torch.optim.Adam(featurizer.parameters(), lr=training.lr)

    def step(self, i: int) -> dict[str, float]:
        """One update; returns the mean squared error, the batch's R² and the share of dead blocks."""
        training = self.training
        x = self.rows.batch(i, training.batch, seed=training.seed)
        noisy = x
        if training.denoise:
            noise = torch.randn(x.shape, generator=drawn(training.seed + 77, i))
            noisy = x + training.denoise * self._spread * noise
        for group in self.optimizer.param_groups:
            group["lr"] = training.rate(i)
        loss, log = self.featurizer.loss(noisy, target=x)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.featurizer.after_step(i)
        return {**log, "r2": 1 - log["mse"] / float(x.var(0, unbiased=False).mean()),
                "dead": float(self.featurizer.dead().float().mean())}  # fmt: skip

    def finish(self) -> Featurizer:
        """Restore the decoder's constraint exactly and switch to evaluation."""
        self.featurizer.finish()
        return self.featurizer.eval()


def fit(featurizer: Featurizer, source: Any, *, training: Training) -> float:
    """Train in place without checkpoints; return the seconds spent."""
    began = time.perf_counter()
    run = Run(featurizer, source, training=training)
    for i in range(training.steps):
        run.step(i)
    run.finish()
    return time.perf_counter() - began


@torch.no_grad()
def measure(featurizer: Featurizer, x: Tensor, *, batch: int = 8192) -> Quality:
    """Quality on normalised rows ``x`` (N, d)."""
    error, fired, active = 0.0, torch.zeros(featurizer.n_blocks, dtype=torch.bool), 0.0
    for part in x.split(batch):
        picked = featurizer.select(part)
        error += float((part - featurizer.decode_selection(picked)).double().square().sum())
        on = picked.code.square().sum(-1) > 0
        fired[picked.block[on]] = True
        active += float(on.sum())
    total = float((x - x.mean(0)).double().square().sum())
    return Quality(1 - error / max(total, 1e-12), float((~fired).float().mean()), active / len(x), len(x))
