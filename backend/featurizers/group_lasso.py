"""The Group-Lasso featurizer: blocks are shrunk by a learned threshold instead of being counted.

    z_g = max(1 - theta_g / ‖a_g‖, 0) a_g,   a = x W + beta,   loss + lambda E‖z‖_{2,1}   (Fel et al., eq. 4, sec. 3.3)

The soft threshold is the proximal operator of the penalty. One positive threshold per block, kept as its logarithm;
lambda follows the number of active blocks (threshold.py). With b = 1 it is a soft-thresholding autoencoder with signed
codes, the directional baseline. Not covered: the single scalar threshold of the authors' released "paper version".
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.core.errors import Invalid
from backend.featurizers.featurizer import Aux
from backend.featurizers.support import Support
from backend.featurizers.threshold import Thresholded


class GroupLasso(Thresholded):
    """Featurizer with soft block thresholds; parameters as in ``Thresholded``, without an auxiliary loss."""

    variant = "group_lasso"

    def __init__(self, d_in: int, n_blocks: int, *, d_block: int, k: int, aux: Aux = "none", penalty: float = 1e-2,
                 generator: torch.Generator | None = None) -> None:  # fmt: skip
        if aux != "none":
            raise Invalid("An auxiliary loss was asked for on a Group-Lasso featurizer.",
                          "Its codes are shrunk, so that a block below its threshold has none.",
                          "Use aux='none', or the jump_relu featurizer.")  # fmt: skip
        super().__init__(d_in, n_blocks, d_block=d_block, k=k, aux=aux, penalty=penalty, generator=generator)

    def _gate(self, a: Tensor, support: Support) -> tuple[Tensor, Tensor | None]:
        norm = a.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        threshold = self.log_threshold.exp().index_select(0, support.block)[:, None]
        z = a * (1 - threshold / norm).clamp_min(0)
        # ‖z_g‖ = ‖a_g‖ - theta_g where it is active
        return z, (norm - threshold).clamp_min(0).sum() / support.n_rows
