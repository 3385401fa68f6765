"""The Group-Lasso featurizer: blocks are shrunk by a learned threshold instead of being counted.

    z_g = max(1 - theta_g / ‖a_g‖, 0) a_g,   a = x W + beta,   loss + lambda E‖z‖_{2,1}   (Fel et al., eq. 4, sec. 3.3)

One positive threshold per block, kept as its logarithm, so the number of active blocks varies and a row may abstain.
The penalty acts only while more than ``k`` blocks are active on average (the paper's device). Not covered: the block
JumpReLU that the authors' code uses by default, and control of lambda by dual ascent.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from backend.core.errors import Invalid
from backend.featurizers.featurizer import Aux, Selection, unbiased_gain
from backend.featurizers.vanilla import Vanilla


class GroupLasso(Vanilla):
    """Featurizer with soft block thresholds; ``k`` is the target mean of active blocks, ``penalty`` is lambda."""

    variant = "group_lasso"

    def __init__(self, d_in: int, n_blocks: int, *, d_block: int, k: int, aux: Aux = "none", penalty: float = 1e-2,
                 generator: torch.Generator | None = None) -> None:  # fmt: skip
        if aux != "none":
            raise Invalid("An auxiliary loss was asked for on a Group-Lasso featurizer.",
                          "It has no fixed k, so there is no next block to train.", "Use aux='none'.")  # fmt: skip
        super().__init__(d_in, n_blocks, d_block=d_block, k=k, aux=aux, generator=generator)
        self.penalty = penalty
        self.log_threshold = nn.Parameter(torch.full((n_blocks,), -2.0))

    def own_config(self) -> dict[str, Any]:
        return {"penalty": self.penalty}

    def encode(self, x: Tensor) -> Tensor:
        a = self.pre_codes(x)
        norm = a.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        return a * (1 - self.log_threshold.exp()[:, None] / norm).clamp_min(0)

    def select(self, x: Tensor) -> Selection:
        """The active blocks, padded with zero codes to the largest number of any row."""
        z = self.encode(x)
        return self._top(z, max(1, int((z.detach().square().sum(-1) > 0).sum(1).max())))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start the thresholds where k blocks are active on average, then make the reconstruction unbiased."""
        # quantile() takes at most 2**24 numbers
        norm = self.pre_codes(x).norm(dim=-1)[: 2**24 // self.n_blocks]
        self.log_threshold.fill_(math.log(max(float(norm.flatten().quantile(1 - self.k / self.n_blocks)), 1e-6)))
        gain = unbiased_gain(x, self(x))
        self.encoder.mul_(gain)
        self.log_threshold.add_(math.log(gain))

    def loss(self, x: Tensor, *, target: Tensor | None = None) -> tuple[Tensor, dict[str, float]]:
        target = x if target is None else target
        z = self.encode(x)
        mse = (target - self.decode(z)).square().mean()
        norm = z.norm(dim=-1)
        active = (norm > 0).float().sum(1).mean()
        if self.training:
            self.idle += 1
            self.idle[(norm > 0).any(0)] = 0
        loss = mse + self.penalty * norm.sum(1).mean() if active > self.k else mse
        return loss, {"mse": mse.item(), "active": active.item()}
