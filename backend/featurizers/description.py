"""How many bits a token costs under a featurizer, and how many dimensions its blocks use.

    L(x) = selection + code + residual + dictionary            (Fel et al. 2606.25234, eq. 5 and 6, App. C.2)
    selection  = log2 C(G, k);  where k varies: E[log2 C(G, K)] + entropy of K
    code       = Σ_g p_g Σ_j rate(σ²_gj)         p_g firing rate, σ²_gj spectrum of the code where the block fires
    residual   = Σ_a rate(λ_a)                   λ_a spectrum of the covariance of x − x̂ on held-out rows
    dictionary = ½ G b (d − b) / N · log2 N      N training rows; b (d − b) is the dimension of a Grassmannian

    rate(v) = ½ log2(1 + v / δ)  (smooth, what the paper computes)  or  ½ max(0, log2(v / δ))  (clipped, what it states)
    δ = share · var_ref,  share = 1 − R² aimed at,  var_ref one variance for everything that is compared

The two rates rank differently: with the smooth one a residual exactly at the floor δ still costs ½ bit a dimension.
The code's spectrum depends on the scale of the frames unless they are orthonormal; that of the contributions z_g D_g
does not, so both are kept (``space``). σ² is taken around the mean (``centred``) or around zero; the paper does not
say. N and var_ref are not given by the paper and are stated with every number here. The four terms stay apart.

Not covered: bits of the means, an explicit quantiser, and gains or biases of the encoder (nobody sends them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from backend.core.errors import Invalid
from backend.featurizers.featurizer import Featurizer
from backend.featurizers.statistics import ranks

Rate = Literal["smooth", "clipped"]
Space = Literal["code", "contribution"]
SHARES = (0.01, 0.05, 0.10, 0.20)
"""Distortions of the paper; the headline is the last."""


def log2_choose(n: int, k: np.ndarray | float) -> np.ndarray:
    """log2 of the number of ways to choose k of n, ``k (...,)``."""
    k = np.asarray(k, np.float64)
    return (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(2)


def selection_bits(histogram: np.ndarray, n_blocks: int) -> float:
    """Bits that say which blocks are active; ``histogram[K]`` counts rows with K active blocks.

    Where every row has the same K only log2 C(G, K) is paid, else also the entropy of K.
    """
    share = np.asarray(histogram, np.float64)
    share = share / max(share.sum(), 1e-12)
    k = np.flatnonzero(share)
    p = share[k]
    return float((p * log2_choose(n_blocks, k)).sum() - (p * np.log2(p)).sum())


def rate_bits(spectrum: np.ndarray, delta: float, rate: Rate = "smooth") -> np.ndarray:
    """Gaussian rate in bits of eigenvalues ``(..., m)`` at distortion ``delta``, summed over the last axis."""
    if delta <= 0:
        raise Invalid(f"A rate at distortion {delta} was asked for.", "A distortion of zero costs endless bits.",
                      "Give a positive distortion.")  # fmt: skip
    ratio = np.maximum(np.asarray(spectrum, np.float64), 0) / delta
    if rate == "smooth":
        return 0.5 * np.log2(1 + ratio).sum(-1)
    return 0.5 * np.log2(np.maximum(ratio, 1.0)).sum(-1)


def dictionary_bits(n_blocks: int, d_block: int, d: int, n_train: int) -> float:
    """Bits of the dictionary, spread over ``n_train`` rows."""
    return 0.5 * n_blocks * d_block * (d - d_block) / n_train * math.log2(n_train)


@dataclass(frozen=True)
class Bits:
    """Description length of a token and its four terms, in bits, with what they depend on."""

    selection: float
    code: float
    residual: float
    dictionary: float
    delta: float
    n_train: int
    rate: Rate
    space: Space

    @property
    def total(self) -> float:
        return self.selection + self.code + self.residual + self.dictionary


@dataclass(frozen=True)
class CodeMoments:
    """Everything that bits and ranks are computed from: counts, second moments and the residual's covariance.

    All arrays are float64: ``count`` (G,), ``mean`` (G, b) and ``second`` (G, b, b) of the code where a block fires,
    ``gram`` (G, b, b) = D_g D_g', ``histogram`` of the number of active blocks, ``residual`` (d, d), ``variance`` the
    mean variance of x per dimension.
    """

    n: int
    count: np.ndarray
    mean: np.ndarray
    second: np.ndarray
    gram: np.ndarray
    histogram: np.ndarray
    residual: np.ndarray
    variance: float

    @classmethod
    @torch.no_grad()
    def of(cls, featurizer: Featurizer, x: Tensor, *, batch: int = 4096) -> CodeMoments:
        """Read normalised held-out rows ``x`` (N, d); raises ``Invalid`` for fewer than two."""
        if len(x) < 2:
            raise Invalid("A description length was asked for.", f"There are {len(x)} rows.", "Give held-out rows.")
        groups, width, d = featurizer.n_blocks, featurizer.d_block, featurizer.d_in
        frames = featurizer.frames().detach().double()
        count = torch.zeros(groups, dtype=torch.float64)
        first = torch.zeros(groups, width, dtype=torch.float64)
        second = torch.zeros(groups, width * width, dtype=torch.float64)
        histogram = torch.zeros(groups + 1, dtype=torch.float64)
        shift, outer = torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
        for part in x.split(batch):
            picked = featurizer.select(part)
            code, on = picked.code.double(), picked.code.square().sum(-1) > 0
            histogram += torch.bincount(on.sum(1), minlength=groups + 1)
            index, active = picked.block[on], code[on]
            count.index_add_(0, index, torch.ones(len(index), dtype=torch.float64))
            first.index_add_(0, index, active)
            second.index_add_(0, index, (active[:, :, None] * active[:, None, :]).flatten(1))
            error = (part - featurizer.decode_selection(picked)).double()
            shift += error.sum(0)
            outer += error.T @ error
        safe = count.clamp_min(1)
        middle = shift / len(x)
        return cls(
            n=len(x), count=count.numpy(), mean=(first / safe[:, None]).numpy(),
            second=(second / safe[:, None]).view(groups, width, width).numpy(), gram=(frames @ frames.mT).numpy(),
            histogram=histogram.numpy(), residual=(outer / len(x) - torch.outer(middle, middle)).numpy(),
            variance=float(x.double().var(0, unbiased=False).mean()),
        )  # fmt: skip

    @property
    def r2(self) -> float:
        """Share of variance explained, the residual's mean counted as free."""
        return 1 - float(np.trace(self.residual)) / (self.variance * len(self.residual))

    @property
    def mean_active(self) -> float:
        return float((self.histogram * np.arange(len(self.histogram))).sum() / self.histogram.sum())

    @property
    def dead(self) -> float:
        """Share of blocks that fire on no row."""
        return float((self.count == 0).mean())

    @cached_property
    def residual_spectrum(self) -> np.ndarray:
        """Eigenvalues ``(d,)`` of the residual's covariance."""
        return np.linalg.eigvalsh(self.residual)

    def spectrum(self, space: Space = "code", *, centred: bool = True) -> np.ndarray:
        """Eigenvalues ``(G, b)``, largest first, of every block's code or contribution where it fires."""
        moment = self.second
        if centred:
            moment = moment - self.mean[:, :, None] * self.mean[:, None, :]
        moment = (moment + moment.swapaxes(1, 2)) / 2
        if space == "contribution":
            # The non-zero eigenvalues of D' C D are those of √C (D D') √C, which is b × b.
            value, axes = np.linalg.eigh(moment)
            root = (axes * np.sqrt(np.maximum(value, 0))[:, None, :]) @ axes.swapaxes(1, 2)
            moment = root @ self.gram @ root
        return np.maximum(np.linalg.eigvalsh(moment)[:, ::-1], 0)

    def bits(self, *, n_train: int, var_ref: float, share: float = SHARES[-1], rate: Rate = "smooth",
             space: Space = "contribution", centred: bool = True) -> Bits:  # fmt: skip
        """Bits a token at distortion ``share · var_ref``; ``n_train`` rows carry the dictionary."""
        delta = share * var_ref
        groups, width = self.mean.shape
        code = (self.count / self.n) @ rate_bits(self.spectrum(space, centred=centred), delta, rate)
        residual = rate_bits(self.residual_spectrum, delta, rate)
        return Bits(
            selection=selection_bits(self.histogram, groups), code=float(code), residual=float(residual),
            dictionary=dictionary_bits(groups, width, len(self.residual), n_train), delta=delta, n_train=n_train,
            rate=rate, space=space,
        )  # fmt: skip

    def ranks(self, space: Space = "contribution", *, centred: bool = True,
              min_fired: int = 20) -> dict[str, np.ndarray]:  # fmt: skip
        """Rank measures of the blocks that fire on ``min_fired`` rows or more, each ``(n,)``.

        ``stable_rank`` reads Σl / max l, ``stable_rank_squared`` Σl² / max l²; ``utilisation`` is effective rank / b.
        ``block`` holds the indices. Fel et al. sec. 3.4.
        """
        block = np.flatnonzero(self.count >= min_fired)
        found = ranks(self.spectrum(space, centred=centred)[block])
        return {"block": block, **found, "utilisation": found["effective_rank"] / self.mean.shape[1]}
