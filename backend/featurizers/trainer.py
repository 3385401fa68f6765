"""Training a featurizer: Adam, cosine rate, batches streamed from wherever the activations lie.

A ``Run`` is what a resumable training loop needs: modules, an optimiser and ``step(i)``. Every batch is a function of
(seed, step) alone and everything that a step changes is a parameter, a buffer or the optimiser's, so a run that was
killed goes on bit for bit where it stopped; ``fit`` is the plain loop without checkpoints. Sources: a tensor (N, d) or
(n, T, d); an iterable of such tensors; or an ``ActivationStore``, of which one shard is held at a time. The order of
shards is drawn per epoch, the rows within a shard per visit.

Training runs on the GPU where there is one. Mixed precision: the one dense product of a step, which ranks the blocks,
runs in bf16 where the device has it; codes of the chosen blocks, losses, gradients and the optimiser stay in float32.
Several devices: give an ``accelerate.Accelerator``; each process then reads its own share of every batch, gradients
and statistics are averaged, and all processes keep the same weights.

Optional denoising (the released code of Fel et al.): noise of ``denoise`` standard deviations is added to the input
and the clean activations are the target. Not covered: dictionaries that do not fit on one device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from backend.core.device import has_fast_bf16, pick_device
from backend.core.errors import Invalid
from backend.featurizers.featurizer import Featurizer

if TYPE_CHECKING:
    from accelerate import Accelerator


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
    ranking: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the product that ranks the blocks; auto is bfloat16 where the device multiplies it faster."""
    log_every: int = 25
    """Steps between logs; only then does a step wait for its device to be asked how good it was."""

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
        self._order: tuple[tuple[int, int, int], Tensor] = ((-1, -1, -1), torch.empty(0))

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
        # Drawing the order of a shard's rows costs as much as a small step: it is drawn once a visit.
        visit = (seed, epoch, i)
        if self._order[0] != visit:
            self._order = (visit, torch.randperm(self.sizes[i], generator=drawn(seed + 1 + i, epoch)))
        return self.shard(i)[self._order[1][place * n : (place + 1) * n]]


def rows_of(source: Any, featurizer: Featurizer) -> Rows:
    """``Rows`` of any source the module docstring names; raw activations are normalised by ``featurizer``."""
    # The featurizer may move to another device; rows are prepared where they lie.
    centre, scale = featurizer.centre.detach().cpu().clone(), featurizer.scale.detach().cpu().clone()

    def flat(part: Any) -> Tensor:
        x = getattr(part, "x", part).float().cpu()
        return ((x - centre.squeeze(0) if len(centre) == 1 else x - centre) * scale).reshape(-1, featurizer.d_in)

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
    ``device`` is the GPU where there is one; ``finish`` brings the featurizer back to where it came from.
    With an ``accelerator`` its device is used, and ``training.batch`` counts the rows of all processes together.
    """

    def __init__(self, featurizer: Featurizer, source: Any, *, training: Training,
                 device: torch.device | str | None = None, accelerator: Accelerator | None = None) -> None:  # fmt: skip
        self.featurizer, self.training, self.accelerator = featurizer, training, accelerator
        self.rows = rows_of(source, featurizer)
        self._home = featurizer.centre.device
        self.device = torch.device(device) if device else accelerator.device if accelerator else pick_device()
        first = self.rows.batch(0, max(training.batch, 2048), seed=training.seed)
        self._spread = float(first.std())
        featurizer.to(self.device).train()
        fast = training.ranking == "auto" and has_fast_bf16(self.device)
        featurizer.ranking = torch.bfloat16 if fast or training.ranking == "bfloat16" else None
        # Every process starts from the same rows, so that scales and thresholds agree.
        featurizer.initialise(first.to(self.device))
        if accelerator is not None:
            featurizer.pool = lambda value: accelerator.reduce(value.float(), reduction="mean")
        self.modules: dict[str, nn.Module] = {"featurizer": featurizer}
        trained = [p for p in featurizer.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=training.lr, fused=self.device.type in ("cpu", "cuda"))
        self._log: dict[str, float] = {}
        self._seen, self._since = 0, time.perf_counter()

    def batch(self, i: int) -> tuple[Tensor, Tensor]:
        """Input and target of step ``i`` on the device; of this process where there are several."""
        training = self.training
        x = noisy = self.rows.batch(i, training.batch, seed=training.seed)
        if training.denoise:
            noise = torch.randn(x.shape, generator=drawn(training.seed + 77, i))
            noisy = x + training.denoise * self._spread * noise
        if self.accelerator is not None:
            mine = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
            x, noisy = x[mine], noisy[mine]
        if self.device.type == "cuda":
            moved = x.pin_memory().to(self.device, non_blocking=True)
            noisy = moved if noisy is x else noisy.pin_memory().to(self.device, non_blocking=True)
            x = moved
        return noisy, x

    def step(self, i: int) -> dict[str, float]:
        """One update; returns what was logged last: mse, R² and active blocks of a batch, dead share, tokens a second.

        The log is renewed at every ``log_every``-th step and at the last one.
        """
        training = self.training
        noisy, x = self.batch(i)
        for group in self.optimizer.param_groups:
            group["lr"] = training.rate(i)
        loss, log = self.featurizer.loss(noisy, target=x)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            for p in self.optimizer.param_groups[0]["params"]:
                if p.grad is not None:
                    p.grad = self.accelerator.reduce(p.grad, reduction="mean")
        self._settle()
        self.optimizer.step()
        self.featurizer.after_step(i)
        self._seen += training.batch
        if i % training.log_every == 0 or i == training.steps - 1 or not self._log:
            variance = x.var(0, unbiased=False).mean()
            dead = self.featurizer.dead().float().mean()
            mse, active, variance, dead = torch.stack([log["mse"], log["active"], variance, dead]).tolist()
            now = time.perf_counter()
            self._log = {"mse": mse, "active": active, "r2": 1 - mse / max(variance, 1e-12), "dead": dead,
                         "tokens_per_s": self._seen / max(now - self._since, 1e-9)}  # fmt: skip
            self._seen, self._since = 0, now
        return self._log

    def _settle(self) -> None:
        # A restored step counter lies on the CPU; the fused update wants it beside its parameter.
        for p, state in self.optimizer.state.items():
            if state and state["step"].device != p.device:
                state["step"] = state["step"].to(p.device)

    def finish(self) -> Featurizer:
        """Restore the decoder's constraint exactly, go back to the device it came from, switch to evaluation."""
        self.featurizer.finish()
        self.featurizer.ranking = None
        return self.featurizer.to(self._home).eval()


def fit(featurizer: Featurizer, source: Any, *, training: Training, device: torch.device | str | None = None,
        accelerator: Accelerator | None = None) -> float:  # fmt: skip
    """Train in place without checkpoints; return the seconds spent."""
    began = time.perf_counter()
    run = Run(featurizer, source, training=training, device=device, accelerator=accelerator)
    for i in range(training.steps):
        run.step(i)
    run.finish()
    return time.perf_counter() - began


@torch.no_grad()
def measure(featurizer: Featurizer, x: Tensor, *, batch: int = 8192) -> Quality:
    """Quality on normalised rows ``x`` (N, d), in the featurizer's present mode (``eval`` for inference)."""
    device = featurizer.centre.device
    error, active = 0.0, 0.0
    fired = torch.zeros(featurizer.n_blocks, dtype=torch.bool, device=device)
    for part in x.split(batch):
        part = part.to(device)
        picked = featurizer.select(part)
        error += float((part - featurizer.decode_selection(picked)).double().square().sum())
        on = picked.code.square().sum(-1) > 0
        fired[picked.block[on]] = True
        active += float(on.sum())
    total = float((x - x.mean(0)).double().square().sum())
    return Quality(1 - error / max(total, 1e-12), float((~fired).float().mean()), active / len(x), len(x))
