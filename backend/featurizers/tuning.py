"""How blocks follow an angle: tuning curves, and which harmonics of the angle their codes carry.

With s_i the strength of a block in picture i (its norms summed over positions), z_i its code summed likewise and θ_i
an angle of the picture,

    tuning      mean of s_i in equal bins of θ
    harmonic w  2 |mean_i (z_i − z̄) exp(−i w θ_i)|² / Var(z),  summed over the b dimensions

the second is the share of the code's variance that turns w times while θ turns once, where θ is spread evenly
(Fel et al. 2606.25234, App. E, there on noiseless sweeps). A code that knows nothing of θ has shares of about 2 / n;
``harmonic_floor`` is what one of a hundred such codes exceeds where a single dimension holds all variance, and with
more dimensions fewer do. Not covered: angles that are spread unevenly, where harmonics leak into each other.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

N_HARMONICS = 4


def tuning_curves(strength: Tensor, angle: np.ndarray, *, n_bins: int = 24) -> np.ndarray:
    """Mean strength ``(G, n) -> (G, n_bins)`` of every block in equal bins of an angle (radians, n)."""
    bins = (np.asarray(angle) % (2 * np.pi) / (2 * np.pi) * n_bins).astype(int).clip(0, n_bins - 1)
    inside = torch.nn.functional.one_hot(torch.from_numpy(bins), n_bins).to(strength)
    return (strength @ inside / inside.sum(0).clamp_min(1)).numpy()


def harmonics(code: Tensor, angle: np.ndarray, *, n: int = N_HARMONICS) -> np.ndarray:
    """Share of every block's code ``(G, n, b)`` that each harmonic w = 1..n of an angle (radians) holds, ``(G, n)``."""
    w = torch.arange(1, n + 1, dtype=torch.float64)
    turn = torch.as_tensor(np.asarray(angle), dtype=torch.float64)[:, None] * w
    out = torch.zeros(len(code), n, dtype=torch.float64)
    for first in range(0, len(code), 256):
        part = code[first : first + 256].double()
        part = part - part.mean(1, keepdim=True)
        # (g, b, w)
        real, imaginary = part.mT @ turn.cos(), part.mT @ turn.sin()
        power = 2 * (real.square() + imaginary.square()).sum(1) / part.shape[1] ** 2
        out[first : first + 256] = power / part.square().mean(1).sum(1, keepdim=True).clamp_min(1e-12)
    return out.numpy()


def harmonic_floor(n: int) -> float:
    """The share that a harmonic of a code of one dimension exceeds by chance in one of a hundred, from n pictures."""
    # 2 |c|² / Var is (2 / n) · chi²(2) / 2 for independent angles; chi²(2) exceeds −2 ln(0.01) once in a hundred.
    return -2 * math.log(0.01) / n
