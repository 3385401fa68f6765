"""The vanilla block-sparse featurizer: a free linear encoder and a free decoder of bounded blocks.

    z = Pi_k(x W + beta),    ‖D_g‖_F <= 1,    x_hat = z D              (Fel et al. 2606.25234, eq. 4, sec. 3.2)

The bound on the decoder removes the scale ambiguity between code and frame that would corrupt the top-k. W starts at
the decoder's transpose, scaled so that the first reconstruction is unbiased; that prevents most dead blocks.

With b = 1 it is a TopK sparse autoencoder with signed codes chosen by absolute value and no decoder bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backend.featurizers.featurizer import Aux, Featurizer, unbiased_gain


class Vanilla(Featurizer):
    """Featurizer with a free encoder; parameters as in ``Featurizer``; ``generator`` draws the initial decoder."""

    variant = "vanilla"

    def __init__(self, d_in: int, n_blocks: int, *, d_block: int, k: int, aux: Aux = "none",
                 generator: torch.Generator | None = None) -> None:  # fmt: skip
        super().__init__(d_in, n_blocks, d_block=d_block, k=k, aux=aux)
        decoder = torch.randn(n_blocks, d_block, d_in, generator=generator)
        self.decoder = nn.Parameter(decoder / decoder.flatten(1).norm(dim=1)[:, None, None])
        # (G b, d), the layout of F.linear
        self.encoder = nn.Parameter(self.decoder.detach().flatten(0, 1).clone())
        self.bias = nn.Parameter(torch.zeros(n_blocks * d_block))

    def encoder_blocks(self) -> tuple[Tensor, Tensor | None]:
        shape = (self.n_blocks, self.d_block)
        return self.encoder.view(*shape, self.d_in), self.bias.view(shape)

    def frames(self) -> Tensor:
        return self.decoder

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        self.encoder.mul_(unbiased_gain(x, self(x)))

    @torch.no_grad()
    def bound(self) -> None:
        """Shrink every decoder block of Frobenius norm above 1 back to 1, in place."""
        self.decoder.div_(self.decoder.flatten(1).norm(dim=1).clamp_min(1.0)[:, None, None])

    def after_step(self, step: int) -> None:
        self.bound()

    def finish(self) -> None:
        self.bound()
