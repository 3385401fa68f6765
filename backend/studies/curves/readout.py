"""Reading curve units from few coordinates: y ≈ ReLU(w·z + c), fitted on some angles, judged on the others.

The circle is cut into 24 sectors of 15 degrees; sector i belongs to fold i mod 4, and each fold is judged by what was
fitted on the other three, on stimuli of other radius, width, contrast and position. Ridge regression gives the start
and its penalty, chosen on one of the fitted folds; then least squares through the ReLU (L-BFGS). Every arm gets the
same. R² of a unit is over all judged rows of all folds. Not covered: read-outs deeper than one ReLU.
"""

from __future__ import annotations

import torch
from torch import Tensor

N_SECTORS, N_FOLDS = 24, 4
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def folds(n_angles: int) -> Tensor:
    """Fold (n_angles,) of equally spaced angles."""
    return (torch.arange(n_angles) * N_SECTORS // n_angles) % N_FOLDS


def _ridge(z: Tensor, y: Tensor, penalty: float) -> Tensor:
    gram = z.T @ z
    return torch.linalg.solve(gram + penalty * len(z) * torch.eye(len(gram), dtype=z.dtype), z.T @ y)


def _through_relu(z: Tensor, y: Tensor, weight: Tensor, bias: Tensor, penalty: float, steps: int) -> tuple:
    # A solve answers in columns; L-BFGS wants rows.
    weight, bias = weight.clone(memory_format=torch.contiguous_format).requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (torch.relu(z @ weight + bias) - y).square().mean(0).sum() + penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def read_out(z: Tensor, y: Tensor, fold: Tensor, z_judge: Tensor, y_judge: Tensor, fold_judge: Tensor, *,
             relu: bool = True, steps: int = 40) -> Tensor:  # fmt: skip
    """Held-out R² (U,) of units ``y`` (N, U) from coordinates ``z`` (N, p); judged on rows of their own."""
    z, y, z_judge, y_judge = (v.double() for v in (z, y, z_judge, y_judge))
    guess = torch.zeros_like(y_judge)
    for f in range(N_FOLDS):
        on = fold != f
        mean, spread = z[on].mean(0), z[on].std(0)
        # A coordinate that is silent on the fitted angles says nothing of the others.
        spread = torch.where(spread > 1e-9, spread, torch.inf)
        scale = y[on].std(0).clamp_min(1e-9)
        a, b = (z - mean) / spread, y / scale
        check = fold == (f + 1) % N_FOLDS
        inner = on & ~check
        centre = b[inner].mean(0)
        errors = [float((b[check] - a[check] @ _ridge(a[inner], b[inner] - centre, r) - centre).square().sum())
                  for r in PENALTIES]  # fmt: skip
        penalty = PENALTIES[errors.index(min(errors))]
        bias = b[on].mean(0)
        weight = _ridge(a[on], b[on] - bias, penalty)
        if relu:
            with torch.enable_grad():
                weight, bias = _through_relu(a[on], b[on], weight, bias, penalty, steps)
        there = fold_judge == f
        out = (z_judge[there] - mean) / spread @ weight + bias
        guess[there] = scale * (torch.relu(out) if relu else out)
    left = (y_judge - guess).square().sum(0)
    return 1 - left / (y_judge - y_judge.mean(0)).square().sum(0).clamp_min(1e-12)
