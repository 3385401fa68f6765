"""The BatchTopK featurizer: a batch of N rows shares N k active blocks, so that hard rows may use more than easy ones.

    training    z_g = a_g on the N k pairs (row, block) of largest norm,   a = x W + beta,   tau = the smallest of them
    inference   z_g = a_g where ‖a_g‖ > threshold                (a row's code must not depend on its neighbours)

The threshold is a moving average of tau over the training batches, so k blocks are active on average. Fel et al.
2606.25234 leave this selection to future work; with b = 1 it is the BatchTopK autoencoder (Bussmann et al. 2412.06410)
with signed codes, the directional baseline. Encoder, decoder and bound are those of vanilla.py. Not covered: a budget
shared by several devices (each takes its own N k).
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.featurizers.featurizer import Aux, Found, next_blocks, unbiased_gain
from backend.featurizers.support import Support
from backend.featurizers.vanilla import Vanilla

KEEP = 0.99
"""Share of the moving average that a step keeps."""


class BatchTop(Vanilla):
    """Featurizer with selection over the batch; parameters as in ``Vanilla``, ``k`` is the mean of active blocks."""

    variant = "batch_top"

    def __init__(self, d_in: int, n_blocks: int, *, d_block: int, k: int, aux: Aux = "none",
                 generator: torch.Generator | None = None) -> None:  # fmt: skip
        super().__init__(d_in, n_blocks, d_block=d_block, k=k, aux=aux, generator=generator)
        self.register_buffer("threshold", torch.zeros(()))

    def _active(self, norm: Tensor) -> Tensor:
        return norm > self.threshold.square()

    @torch.no_grad()
    def find(self, x: Tensor, *, n_extra: int = 0, among: Tensor | None = None) -> Found:
        if not self.training:
            return super().find(x, n_extra=n_extra, among=among)
        norm = torch.cat([part for _, part, _ in self._rank(x)])
        support = Support.where(norm >= smallest_of_top(norm, self.k * len(x)))
        return Found(support, None, next_blocks(norm, support, n_extra, among) if n_extra else None)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start the threshold where k blocks are active on average, then make the reconstruction unbiased."""
        self.threshold.copy_(smallest_of_top(self.block_norms(x), self.k * len(x)))
        gain = unbiased_gain(x, self(x))
        self.encoder.mul_(gain)
        self.threshold.mul_(gain)

    def _observe(self, a: Tensor, z: Tensor, found: Found) -> None:
        tau = z.square().sum(-1).amin().sqrt()
        self.threshold.mul_(KEEP).add_((1 - KEEP) * self.pool(tau))


def smallest_of_top(norm: Tensor, n: int) -> Tensor:
    """The n-th largest number of ``norm`` (rows, G).

    Looks at each row's largest few first: a batch rarely gives one row more than four times its share.
    """
    width = min(norm.shape[1], 4 * -(-n // len(norm)))
    top = norm.topk(width, dim=1).values
    tau = top.flatten().topk(n).values[-1]
    if width < norm.shape[1] and bool((top[:, -1] > tau).any()):
        tau = norm.flatten().topk(n).values[-1]
    return tau
