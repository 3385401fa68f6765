"""What featurizers with a learned threshold per block share: a varying number of active blocks, k on average.

    active:  ‖a_g‖ > theta_g = exp(log_threshold_g)
    log lambda <- log lambda + RATE * clip((active - k) / k, -1, 1)        after every training step

The multiplier lambda of the sparsity penalty climbs while more than k blocks are active on average and sinks while
fewer are (dual ascent), so that featurizers can be compared at a matched mean ‖z‖_{2,0} (Fel et al. 2606.25234,
sec. 3.3). The paper's own device, a constant penalty that acts only above the target, ends well below it: on its
starter set 3.9 active blocks for a target of 8.

A row may have no active block at all, which a top-k selection cannot say. Not covered: what the penalty prices, and
how a code is made from its pre-code (group_lasso.py, jump_relu.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from backend.core.errors import Invalid
from backend.featurizers.featurizer import Aux, Found, unbiased_gain
from backend.featurizers.vanilla import Vanilla

RATE = 3e-2
"""Step of the dual ascent."""

_QUANTILE = 2**24
"""Most numbers that a quantile is taken of."""


class Thresholded(Vanilla):
    """Base of threshold featurizers; ``k`` is the target mean of active blocks, ``penalty`` the first lambda."""

    def __init__(self, d_in: int, n_blocks: int, *, d_block: int, k: int, aux: Aux = "none", penalty: float = 1e-2,
                 generator: torch.Generator | None = None) -> None:  # fmt: skip
        super().__init__(d_in, n_blocks, d_block=d_block, k=k, aux=aux, generator=generator)
        if not penalty > 0:
            raise Invalid(f"A penalty of {penalty} was asked for.", "Dual ascent moves its logarithm.",
                          "Give a positive number.")  # fmt: skip
        self.penalty = penalty
        self.log_threshold = nn.Parameter(torch.full((n_blocks,), -2.0))
        self.register_buffer("log_penalty", torch.tensor(math.log(penalty)))

    def own_config(self) -> dict[str, Any]:
        return {"penalty": self.penalty}

    def _active(self, norm: Tensor) -> Tensor:
        # A ranking pass in a narrow type is off by a rounding; the exact codes decide.
        slack = 1.0 if self.ranking is None else 0.98
        return norm > (slack * self.log_threshold.detach().exp()).square()

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start the thresholds where k blocks are active on average, then make the reconstruction unbiased."""
        norm = self.block_norms(x[: max(1, _QUANTILE // self.n_blocks)])
        self._start(norm, max(float(norm.flatten().quantile(1 - self.k / self.n_blocks)), 1e-6))
        gain = unbiased_gain(x, self(x))
        self.encoder.mul_(gain)
        self._rescale(gain)

    def _start(self, norm: Tensor, threshold: float) -> None:
        self.log_threshold.fill_(math.log(threshold))

    def _rescale(self, gain: float) -> None:
        self.log_threshold.add_(math.log(gain))

    def _penalty(self, price: Tensor | None) -> Tensor | float:
        return self.log_penalty.exp() * price

    def _observe(self, a: Tensor, z: Tensor, found: Found) -> None:
        active = self.pool((z.square().sum(-1) > 0).sum() / found.support.n_rows)
        self.log_penalty += RATE * ((active - self.k) / self.k).clamp(-1, 1)
