"""The pursuit featurizer: blocks are chosen one after the other, each by what the former leave unexplained.

    r_0 = x;   in each round: S <- S + the blocks g outside S of largest ‖D_g r‖
                              z_S = argmin ‖x - z_S D_S‖² + ridge ‖z_S‖²,   r = x - z_S D_S

One pass over x (grassmannian.py) ranks blocks by ‖D_g x‖, so with coherent frames the strongest factor lends its
strength to all its neighbours. The residual has no part in what is chosen already (this is block orthogonal matching
pursuit; Eldar & Bölcskei 2009), and the joint fit takes the overlap of the chosen frames apart.

Selection is discrete; the fit is differentiable, and its gradient with respect to frames and x is exact (``fitted``).
There is no gain: a least-squares code is unbiased by itself. ``rounds`` below k choose several blocks a round, which
costs one dense product a round instead of one a block. Where the dictionary is small, correlations come from the Gram
matrix of all frames instead of new products with the residual. With b = 1 it is a matching-pursuit autoencoder
(Costa et al. 2506.03093) with orthogonal steps, the directional baseline. Not covered: a number of blocks that varies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.core.errors import Invalid
from backend.featurizers.featurizer import Aux, Found, next_blocks
from backend.featurizers.grassmannian import Grassmannian
from backend.featurizers.support import Support, fitted, sampled

RIDGE = 1e-4
"""Added to the Gram matrix of the chosen frames: two blocks may span nearly the same subspace."""

GRAM_ATOMS = 1024
"""Largest G b at which the Gram matrix of all frames (4 MiB then) is used: it must stay in the cache."""

_CHUNK = 2**24
"""Numbers in the gathered frames of a chunk of rows."""


class Pursued(NamedTuple):
    """Chosen ``block`` (n, k), ``code`` (n, k b), Cholesky ``factor`` (n, k b, k b), norms of the residual (n, G)."""

    block: Tensor
    code: Tensor
    factor: Tensor
    left: Tensor | None


@torch.no_grad()
def pursue(x: Tensor, frames: Tensor, k: int, *, rounds: int, gram: Tensor | None = None,
           leftover: bool = False) -> Pursued:  # fmt: skip
    """Block pursuit of rows ``x`` (n, d) in ``frames`` (G, b, d); ``gram`` (G b, G b) replaces products with residuals.

    With ``leftover`` the squared norms of the last residual on every block are given too, -1 where it was chosen.
    """
    n_blocks, b, d = frames.shape
    n, flat = len(x), frames.flatten(0, 1)
    first = x @ flat.T
    norm = first.view(n, n_blocks, b).square().sum(-1)
    taken = torch.zeros_like(norm, dtype=torch.bool)
    block = torch.empty(n, 0, dtype=torch.long, device=x.device)
    within = torch.arange(b, device=x.device)
    code = factor = None
    for i in range(rounds):
        n_new = k * (i + 1) // rounds - block.shape[1]
        if not n_new:
            continue
        new = norm.masked_fill(taken, -1.0).topk(n_new, dim=1).indices
        taken.scatter_(1, new, True)
        block = torch.cat([block, new], 1)
        atoms = (block[..., None] * b + within).flatten(1)
        chosen = None if gram is not None else flat[atoms]
        inner = gram[atoms[:, :, None], atoms[:, None, :]] if gram is not None else chosen @ chosen.mT
        inner.diagonal(dim1=1, dim2=2).add_(RIDGE)
        factor = torch.linalg.cholesky(inner)
        code = torch.cholesky_solve(first.gather(1, atoms)[..., None], factor)[..., 0]
        if i + 1 < rounds or leftover:
            if gram is not None:
                now = first - F.embedding_bag(atoms, gram, mode="sum", per_sample_weights=code)
            else:
                now = (x - torch.bmm(code[:, None], chosen)[:, 0]) @ flat.T
            norm = now.view(n, n_blocks, b).square().sum(-1)
    return Pursued(block, code, factor, norm.masked_fill(taken, -1.0) if leftover else None)


class BlockPursuit(Grassmannian):
    """Featurizer with orthonormal frames and a pursuit for an encoder; ``rounds`` is k by default.

    Other parameters as in ``Featurizer``. A trained ``Grassmannian`` becomes one by ``of``.
    """

    variant = "pursuit"

    def __init__(self, d_in: int, n_blocks: int, *, d_block: int, k: int, aux: Aux = "none", rounds: int | None = None,
                 generator: torch.Generator | None = None) -> None:  # fmt: skip
        super().__init__(d_in, n_blocks, d_block=d_block, k=k, aux=aux, generator=generator)
        if rounds is not None and not 1 <= rounds <= k:
            raise Invalid(f"A pursuit of {k} blocks in {rounds} rounds was asked for.", "A round adds a block or more.",
                          f"Choose 1..{k} rounds.")  # fmt: skip
        self.rounds = rounds
        self.log_gain.requires_grad_(False)
        self._fits: Tensor | None = None

    @classmethod
    def of(cls, featurizer: Grassmannian, *, rounds: int | None = None) -> BlockPursuit:
        """The same dictionary, read by pursuit; frames are shared, not copied."""
        out = cls(featurizer.d_in, featurizer.n_blocks, d_block=featurizer.d_block, k=featurizer.k, aux=featurizer.aux,
                  rounds=rounds)  # fmt: skip
        out.frame, out.info = featurizer.frame, featurizer.info
        out.centre, out.scale = featurizer.centre, featurizer.scale
        return out.train(featurizer.training)

    def own_config(self) -> dict[str, Any]:
        return {"rounds": self.rounds}

    def initialise(self, x: Tensor) -> None:
        """Nothing to set: the gain stays 1."""

    @torch.no_grad()
    def find(self, x: Tensor, *, n_extra: int = 0, among: Tensor | None = None) -> Found:
        frames = self.frame.detach()
        width = self.k * self.d_block
        gram = None
        if self.n_blocks * self.d_block <= GRAM_ATOMS:
            gram = frames.flatten(0, 1) @ frames.flatten(0, 1).T
        size = max(1, _CHUNK // (width * max(width, self.d_in)))
        parts = [pursue(part, frames, self.k, rounds=self.rounds or self.k, gram=gram, leftover=n_extra > 0)
                 for part in x.split(size)]  # fmt: skip
        self._fits = torch.cat([p.factor for p in parts])
        support = Support.fixed(torch.cat([p.block for p in parts]), self.n_blocks)
        extra = next_blocks(torch.cat([p.left for p in parts]), support, n_extra, among) if n_extra else None
        return Found(support, torch.cat([p.code for p in parts]).view(-1, self.d_block), extra)

    def _codes(self, x: Tensor, support: Support, known: Tensor | None) -> Tensor:
        factor, self._fits = self._fits, None
        return fitted(x, self.frame, support, code=known, factor=factor)

    def _extra_codes(self, x: Tensor, residual: Tensor, found: Found) -> Tensor:
        # What one more round would find: the residual's own codes.
        return sampled(residual, self.frame, None, found.extra)
