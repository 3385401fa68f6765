"""Featurizers of many sizes on the same activations: what the studies of description length and of rank read.

    activations of a model's site  →  for every (G, k, b), seed: train, read held-out codes  →  their moments, kept

Two families: the same (G, k) for every b, and the same number of atoms G b and active scalars k b. Only moments are
kept (``ATLAS_HOME/studies/block-sweep``), one file a configuration, so a run that was killed goes on with the next.
The control trains the same featurizers on Gaussian rows with the activations' own mean and covariance.

Not covered: the choice of layer, and learning rates per configuration (one for all).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.activations.harvest import harvest
from backend.activations.site import Site
from backend.core.settings import atlas_home
from backend.featurizers.description import CodeMoments
from backend.featurizers.featurizer import Featurizer
from backend.featurizers.trainer import Training, fit
from backend.models import registry
from backend.models.adapter import Adapter
from backend.studies.base import StudyContext
from backend.wire.findings import Finding
from backend.worlds import curves
from backend.worlds.calendar import sample_story

GAUSSIAN = "gaussian"


@dataclass(frozen=True)
class Config:
    """One featurizer of a sweep."""

    n_blocks: int
    k: int
    d_block: int
    variant: str = "grassmannian"

    @property
    def name(self) -> str:
        return f"{self.variant}-G{self.n_blocks}-k{self.k}-b{self.d_block}"


@dataclass(frozen=True)
class Sweep:
    """Sizes, rows and training of a sweep; ``matched`` is (atoms, active scalars)."""

    widths: tuple[int, ...]
    same: tuple[tuple[int, int], ...]
    matched: tuple[int, int]
    wide: Config
    """One configuration of large blocks, for the ranks."""
    n_train: int
    n_held: int
    steps: int
    batch: int
    lr: float
    n_seeds: int = 3

    def same_gk(self) -> dict[tuple[int, int], list[Config]]:
        """For each (G, k) the configurations of every b."""
        return {(g, k): [Config(g, k, b) for b in self.widths] for g, k in self.same}

    def same_budget(self) -> list[Config]:
        """Configurations of equal atoms and active scalars, one for each b that divides both."""
        atoms, scalars = self.matched
        return [Config(atoms // b, scalars // b, b) for b in self.widths if atoms % b == 0 and scalars % b == 0]

    def everything(self) -> list[Config]:
        """All configurations, each once."""
        found = [c for family in self.same_gk().values() for c in family] + self.same_budget() + [self.wide]
        return list(dict.fromkeys(found))


SWEEPS = {
    "small": Sweep(widths=(1, 2, 3, 4, 6, 8), same=((48, 4), (96, 6)), matched=(384, 24), wide=Config(48, 3, 16),
                   n_train=40_000, n_held=10_000, steps=500, batch=1024, lr=5e-3),
    "paper": Sweep(widths=(1, 2, 3, 4, 5, 6, 7, 8), same=((128, 8), (256, 8), (512, 16), (1024, 16)),
                   matched=(1680, 48), wide=Config(512, 8, 16), n_train=1_000_000, n_held=100_000, steps=20_000,
                   batch=4096, lr=2e-3),
}  # fmt: skip


def stories(adapter: Adapter, n: int, generator: torch.Generator, site: str) -> Tensor:
    """Residual stream ``(n, d)`` of story tokens, the first token of each story left out."""
    rows, start = [], adapter.tokenizer.pad_token_id or 0
    tokens = 0

    def batches() -> Iterator[list[list[int]]]:
        while tokens < n:
            yield [adapter.tokenizer(sample_story(generator))["input_ids"] for _ in range(64)]

    def forward(ids: list[list[int]]) -> None:
        longest = max(map(len, ids))
        table = torch.tensor([row + [start] * (longest - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        adapter.model(input_ids=table.to(adapter.device), attention_mask=mask.to(adapter.device))

    for got in harvest(adapter, [site], batches(), forward):
        x = got.x[site].float()
        # The first token is where attention rests; its activation is the same in every story.
        rows += [x[i, 1 : len(ids)] for i, ids in enumerate(got.batch)]
        tokens = sum(map(len, rows))
    return torch.cat(rows)[:n]


def stimuli(adapter: Adapter, n: int, generator: torch.Generator, site: str) -> Tensor:
    """Activations ``(n, d)`` at places of the map over curves, lines, textures and shapes; 16 places a stimulus."""
    rows = []

    def batches() -> Iterator[Tensor]:
        while sum(map(len, rows)) < n:
            yield curves.sample(128, generator).pixels

    for got in harvest(adapter, [site], batches(), lambda pixels: adapter.model(pixels.to(adapter.device))):
        x = got.x[site].float()
        place = torch.rand(x.shape[:2], generator=generator).topk(min(16, x.shape[1]), 1).indices
        rows.append(x.gather(1, place[..., None].expand(-1, -1, x.shape[-1])).flatten(0, 1))
    return torch.cat(rows)[:n]


SOURCES: dict[str, tuple[str, Callable[[Adapter, int, torch.Generator, str], Tensor]]] = {
    "calendar-llama": ("calendar-llama/4#resid_post", stories),
    "curve-inception": ("curve-inception/mixed3b#residual", stimuli),
}
"""Model → its site and how rows are read there."""


def present() -> list[str]:
    """The models of ``SOURCES`` that are on disk."""
    on_disk = registry.available()
    return [name for name in SOURCES if name in on_disk]


def home(sweep: Sweep, model: str, seed: int) -> Path:
    """Where a sweep's results on a model lie."""
    own = hashlib.sha256(json.dumps([asdict(sweep), SOURCES.get(model, ("",))[0]], sort_keys=True).encode())
    folder = atlas_home() / "studies" / "block-sweep" / f"{model}-{own.hexdigest()[:10]}" / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def activations(sweep: Sweep, model: str, seed: int) -> tuple[Tensor, Tensor]:
    """Training and held-out rows ``(N, d)`` of a model, read once and kept."""
    path = home(sweep, model, seed) / "activations.safetensors"
    if not path.exists():
        site, read = SOURCES[model]
        adapter = registry.load(model)
        canonical = str(Site.parse(site, model=adapter.name))
        held, train = (read(adapter, n, torch.Generator().manual_seed(100_003 * seed + i), canonical).contiguous()
                       for i, n in enumerate((sweep.n_held, sweep.n_train)))  # fmt: skip
        _write({"train": train, "held": held}, path)
    found = load_file(path)
    return found["train"], found["held"]


def gaussian_like(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """``n`` Gaussian rows with the mean and covariance of ``x`` (N, d)."""
    mean = x.mean(0)
    value, axes = torch.linalg.eigh(torch.cov(x.double().T))
    root = (axes * value.clamp_min(0).sqrt()).float()
    return mean + torch.randn(n, x.shape[1], generator=generator) @ root.T


def trained(config: Config, train: Tensor, sweep: Sweep, seed: int) -> Featurizer:
    """A featurizer of a configuration, trained on raw rows ``train`` (N, d) as long as ``sweep`` says."""
    kind = Featurizer.of_variant(config.variant)
    featurizer = kind(train.shape[1], config.n_blocks, d_block=config.d_block, k=config.k,
                      aux="none" if config.variant == "group_lasso" else "dead",
                      generator=torch.Generator().manual_seed(seed))  # fmt: skip
    featurizer.fit_centring(train)
    fit(featurizer, train, training=Training(steps=sweep.steps, batch=sweep.batch, lr=sweep.lr,
                                             warmup=sweep.steps // 10, seed=seed))  # fmt: skip
    return featurizer


def moments(sweep: Sweep, model: str, config: Config, seed: int, *, rows: Callable[[], tuple[Tensor, Tensor]],
            control: str = "") -> CodeMoments:  # fmt: skip
    """Moments of the held-out codes of one configuration, trained where they are not kept yet."""
    path = home(sweep, model, seed) / f"{control or 'real'}-{config.name}.safetensors"
    if not path.exists():
        train, held = rows()
        featurizer = trained(config, train, sweep, seed)
        with torch.no_grad():
            found = CodeMoments.of(featurizer, featurizer.normalise(held))
        _write({key: torch.as_tensor(value, dtype=torch.float64) for key, value in asdict(found).items()}, path)
    kept = load_file(path)
    arrays = {key: value.numpy() for key, value in kept.items() if value.ndim}
    return CodeMoments(n=int(kept["n"]), variance=float(kept["variance"]), **arrays)


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    part = path.with_suffix(".part")
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, part)
    part.replace(path)


@dataclass(frozen=True)
class Swept:
    """Moments of one model and seed: ``real`` by configuration, ``null`` of the Gaussian control."""

    model: str
    seed: int
    real: dict[Config, CodeMoments]
    null: dict[Config, CodeMoments]


def swept(sweep: Sweep, seeds: list[int], *, progress: Callable[[float, str], None]) -> list[Swept]:
    """Every present model and seed; the control is trained on the first seed only."""
    models, out = present(), []
    configs = sweep.everything()
    n_null = len(configs)
    total = len(models) * (len(seeds) * len(configs) + n_null)
    done = 0

    def tick(model: str, config: Config, what: str = "") -> None:
        nonlocal done
        progress(done / total, f"{model}{what}, {config.name}")
        done += 1

    for model in models:
        for i, seed in enumerate(seeds):
            rows = cache(lambda model=model, seed=seed: activations(sweep, model, seed))
            real, null = {}, {}
            for config in configs:
                tick(model, config)
                real[config] = moments(sweep, model, config, seed, rows=rows)
            if i == 0:
                fake = cache(lambda rows=rows, seed=seed: _gaussian(rows()[0], sweep, seed))
                for config in configs:
                    tick(model, config, ", Gaussian rows")
                    null[config] = moments(sweep, model, config, seed, rows=fake, control=GAUSSIAN)
            out.append(Swept(model, seed, real, null))
    return out


def swept_findings(ctx: StudyContext, claims: Mapping[str, str],
                   findings: Callable[[Sweep, list[Swept]], list[Finding]]) -> list[Finding]:  # fmt: skip
    """What ``findings`` makes of a study's sweep; every claim as absent where no model is on disk."""
    if not present():
        reason = "neither calendar-llama nor curve-inception is on disk; train one of them first"
        return [ctx.absent(measure, claim, reason) for measure, claim in claims.items()]
    sweep = SWEEPS[ctx.scale]
    seeds = [sweep.n_seeds * ctx.seed + i for i in range(sweep.n_seeds)]
    runs = swept(sweep, seeds, progress=lambda share, what: ctx.progress(0.97 * share, what))
    return [finding.model_copy(update={"seeds": seeds}) for finding in findings(sweep, runs)]


def _gaussian(train: Tensor, sweep: Sweep, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(55_001 + seed)
    return gaussian_like(train, sweep.n_train, generator), gaussian_like(train, sweep.n_held, generator)
