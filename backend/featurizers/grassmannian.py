"""The Grassmannian featurizer: every block is a point on a Grassmannian, read and written by the same frame.

    z = Pi_k(gamma x D'),    D_g D_g' = I_b,    x_hat = z D            (Fel et al. 2606.25234, eq. 4, sec. 3.1)

gamma is one positive number for all blocks, kept as its logarithm. An active block contributes gamma times the
orthogonal projection of x on its subspace. The optimiser moves D freely; every 20 steps and at the end D is brought
back to orthonormal frames by Cholesky-QR (D <- L^-1 D with L L' = D D', a b-by-b factorisation per block), and by
Householder QR where a block has become singular.

With b = 1 it is a TopK sparse autoencoder with tied, unit-norm weights and signed codes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from backend.featurizers.featurizer import Aux, Featurizer, unbiased_gain

PROJECT_EVERY = 20
"""Steps between re-projections; the paper finds 20 often enough."""


def orthonormal(frames: Tensor) -> Tensor:
    """Orthonormal frames ``(G, b, d)`` that span the same subspaces; the first row keeps its direction."""
    x = frames.double()
    # (G, b, b)
    gram = x @ x.mT
    factor, failed = torch.linalg.cholesky_ex(gram)
    size = gram.diagonal(dim1=1, dim2=2).amax(1).sqrt()
    good = (failed == 0) & (factor.diagonal(dim1=1, dim2=2).amin(1) > 1e-6 * size)
    safe = torch.where(good[:, None, None], factor, torch.eye(x.shape[1], dtype=x.dtype, device=x.device))
    out = torch.linalg.solve_triangular(safe, x, upper=False)
    if not bool(good.all()):
        q, r = torch.linalg.qr(x[~good].mT)
        out[~good] = (q * torch.where(r.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)[:, None, :]).mT
    # A triangular solve answers in columns; a parameter of that layout is slow, and a fused update of it needs
    # moments of the same layout, which a checkpoint does not keep.
    return out.to(frames.dtype).contiguous()


class Grassmannian(Featurizer):
    """Featurizer with orthonormal frames and one gain.

    Parameters as in ``Featurizer``; ``generator`` draws the initial frames.
    """

    variant = "grassmannian"

    def __init__(self, d_in: int, n_blocks: int, *, d_block: int, k: int, aux: Aux = "none",
                 generator: torch.Generator | None = None) -> None:  # fmt: skip
        super().__init__(d_in, n_blocks, d_block=d_block, k=k, aux=aux)
        self.frame = nn.Parameter(orthonormal(torch.randn(n_blocks, d_block, d_in, generator=generator)))
        self.log_gain = nn.Parameter(torch.zeros(()))

    def encoder_blocks(self) -> tuple[Tensor, Tensor | None]:
        # The gain is left out: it changes no ranking.
        return self.frame, None

    def gain_of_codes(self) -> Tensor | None:
        return self.log_gain.exp()

    def frames(self) -> Tensor:
        return self.frame

    def gain(self) -> float:
        """gamma, the factor between a projection on a block and its code."""
        return float(self.log_gain.detach().exp())

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set gamma = Σ⟨x, x_1⟩ / Σ‖x_1‖², x_1 the reconstruction at gamma = 1."""
        self.log_gain.zero_()
        self.log_gain.fill_(math.log(unbiased_gain(x, self(x))))

    @torch.no_grad()
    def project(self) -> None:
        """Bring every frame back to the Stiefel manifold, in place."""
        self.frame.copy_(orthonormal(self.frame))

    def after_step(self, step: int) -> None:
        if (step + 1) % PROJECT_EVERY == 0:
            self.project()

    def finish(self) -> None:
        self.project()

    @torch.no_grad()
    def frame_error(self) -> float:
        """Largest entry of ``|D_g D_g' - I|`` over all blocks."""
        gram = self.frame.double() @ self.frame.double().mT
        return float((gram - torch.eye(self.d_block, dtype=gram.dtype, device=gram.device)).abs().max())
