"""Taking a block out of a layer: what happens to curve units of the next?

    x' = x − z_g D_g / scale  at every place of the map,     effect = Σ_θ (y' − y)² / Σ_θ (y − ȳ)²

y is the tuning curve of a next-layer unit (mean over settings of the stimulus), y' the same with the block taken out:
0 where nothing happens, 1 where as much is moved as there was tuning. Controls: other living blocks, one at a time;
and the block's own codes written along random directions, which takes away as much energy at the same places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backend.featurizers.featurizer import Featurizer, Selection
from backend.studies.curves.blocks import random_frame
from backend.studies.curves.networks import Bench, Network


class Ablation:
    """Maps of some of the judged curves, their codes, and the tuning of the next layer's curve units."""

    def __init__(self, bench: Bench, *, n_settings: int = 3, every: int = 2) -> None:
        self.network: Network = bench.network
        settings = np.linspace(0, len(bench.judge.pixels) - 1, n_settings).round().astype(int)
        pixels = bench.judge.pixels[settings, ::every]
        self.shape = pixels.shape[:2]
        self.maps = bench.network.maps(pixels.flatten(0, 1))
        self.units = bench.next_units
        self.intact = self._tuning(self.maps)

    def _tuning(self, maps: Tensor) -> Tensor:
        return self.network.following(maps)[:, self.units].view(*self.shape, -1).mean(0)

    def effect(self, taken: Tensor) -> Tensor:
        """Effect (U,) on every unit of taking ``taken`` (N, d, h, w) off the maps."""
        moved = (self._tuning(self.maps - taken) - self.intact).square().sum(0)
        return moved / (self.intact - self.intact.mean(0)).square().sum(0).clamp_min(1e-12)

    @torch.no_grad()
    def pick(self, featurizer: Featurizer) -> Selection:
        """Active blocks (N·h·w, k) and codes at all places."""
        return featurizer.select(featurizer.normalise(self.maps.flatten(2).transpose(1, 2).flatten(0, 1)))

    @torch.no_grad()
    def contribution(self, featurizer: Featurizer, picked: Selection, blocks: Sequence[int],
                     frames: Tensor | None = None) -> Tensor:  # fmt: skip
        """What ``blocks`` contribute (N, d, h, w) in raw units; ``frames`` (len(blocks), b, d) replace their own."""
        frames = featurizer.frames()[list(blocks)] if frames is None else frames
        out = torch.zeros(len(picked.block), self.maps.shape[1])
        for block, frame in zip(blocks, frames):
            on = (picked.block == block).to(picked.code)
            out += (picked.code * on.unsqueeze(-1)).sum(1) @ frame
        n, d, h, w = self.maps.shape
        return (out / featurizer.scale).view(n, h, w, d).permute(0, 3, 1, 2)

    def measure(self, featurizer: Featurizer, blocks: Sequence[int], living: Sequence[int], *, n_draws: int,
                rng: np.random.Generator) -> dict[str, Tensor]:  # fmt: skip
        """Effect (U,) of the blocks, the mean over as many random living ones, and over random directions."""
        picked = self.pick(featurizer)
        other = [b for b in living if b not in blocks]
        n = min(len(blocks), len(other))
        random = [rng.choice(other, n, replace=False).tolist() for _ in range(n_draws)] if n else []
        if n == 1:
            # One at a time, none twice.
            random = [[int(b)] for b in rng.permutation(other)[:n_draws]]
        d, b = self.maps.shape[1], featurizer.d_block
        along = [
            torch.stack([random_frame(b, d, rng) for _ in blocks]) for _ in range(max(1, n_draws // 2))
        ]  # fmt: skip
        nothing = [torch.zeros(len(self.units))]
        return {
            "block": self.effect(self.contribution(featurizer, picked, blocks)),
            "random": torch.stack([self.effect(self.contribution(featurizer, picked, r)) for r in random]
                                  or nothing).mean(0),
            "directions": torch.stack([self.effect(self.contribution(featurizer, picked, blocks, f))
                                       for f in along]).mean(0),
        }  # fmt: skip
