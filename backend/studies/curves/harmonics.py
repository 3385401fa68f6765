"""How often a block's contribution winds while a curve turns once, against two nulls.

m(θ) is the contribution of a block to the reconstruction, a closed curve; by Fourier analysis over θ its w-th harmonic
lies in a plane in which it winds w times, and its share is its part of the variance over θ.

    null 1   the first harmonic of the layer's response alone, through the same block      (1, 0, 0, 0)
    null 2   the first harmonic + noise, white over θ, with the energy and the channel covariance of all that is left
             of the response, through the same block

A block that is silent on part of the circle has harmonics from its gate alone: ``before`` leaves the gate out.
Fel et al. 2606.25234, App. E.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

N_HARMONICS = 4


def shares(m: Tensor) -> Tensor:
    """Shares (..., 4) of the harmonics 1 to 4 in the variance over θ of closed curves ``m`` (..., M, b)."""
    power = torch.fft.rfft(m.double(), dim=-2)[..., 1:, :].abs().square().sum(-1)
    return power[..., :N_HARMONICS] / power.sum(-1, keepdim=True).clamp_min(1e-24)


@dataclass(frozen=True)
class Harmonics:
    """Shares of four harmonics, (S, 4) by setting of the stimulus."""

    block: Tensor
    before: Tensor
    raw: Tensor
    only: Tensor
    noise: Tensor
    """Mean of null 2."""
    high: Tensor
    """97.5 % quantile of null 2."""


def first_harmonic(x: Tensor) -> Tensor:
    """Mean and first harmonic over θ of ``x`` (..., M, d)."""
    spectrum = torch.fft.rfft(x.double(), dim=-2)
    spectrum[..., 2:, :] = 0
    return torch.fft.irfft(spectrum, n=x.shape[-2], dim=-2)


def harmonics(x: Tensor, code: Tensor, frame: Tensor, *, n_draws: int = 200, seed: int = 0) -> Harmonics:
    """Of normalised responses ``x`` (S, M, d), codes (S, M, b) with their gate, and the block's frame (b, d)."""
    n = x.shape[1]
    own = first_harmonic(x)
    through = own @ frame.double().T
    # (S, M, b): noise with this covariance is white noise over θ times it.
    left = (x.double() - own) @ frame.double().T
    draw = torch.Generator().manual_seed(seed)
    null = []
    for _ in range(n_draws):
        white = torch.randn(n, n, generator=draw, dtype=torch.float64) / math.sqrt(n)
        null.append(shares(through + white @ left))
    null = torch.stack(null)
    return Harmonics(block=shares(code), before=shares(x @ frame.T), raw=shares(x), only=shares(through),
                     noise=null.mean(0), high=null.quantile(0.975, 0))  # fmt: skip
