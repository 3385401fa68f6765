"""Muon: momentum whose update is orthogonalised, matrix by matrix, before it is applied (Jordan et al., 2024).

    m ← β m + g;   u = β m + g;   W ← W − lr · 0.2 √max(rows, columns) · NS(u)

NS is the five-step Newton-Schulz iteration towards the nearest orthogonal matrix; the factor gives the update the
size of an AdamW update (Liu et al., 2025), so one learning rate serves both. Convolutions count as matrices
(out, in·h·w), which ``torch.optim.Muon`` does not take.

Everything that is not a matrix (biases, norms) goes to AdamW in the same object. Not covered: distributed training.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalise(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """About the nearest semi-orthogonal matrix to ``matrix (m, n)``: singular values move into [0.7, 1.2]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolutions, AdamW for the rest; ``lr`` means the same for both."""

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float = 1e-3, momentum: float = 0.95,
                 betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0) -> None:  # fmt: skip
        super().__init__(params, dict(lr=lr, momentum=momentum, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients that are there."""
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                p.mul_(1 - lr * decay)
                if p.ndim >= 2:
                    self._matrix(p, state, lr, group["momentum"])
                else:
                    self._vector(p, state, lr, group["betas"])

    @staticmethod
    def _matrix(p: Tensor, state: dict, lr: float, beta: float) -> None:
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        m = state["momentum"].mul_(beta).add_(p.grad)
        update = orthogonalise((p.grad + beta * m).flatten(1))
        p.sub_(update.view_as(p), alpha=lr * 0.2 * max(update.shape) ** 0.5)

    @staticmethod
    def _vector(p: Tensor, state: dict, lr: float, betas: tuple[float, float]) -> None:
        if "first" not in state:
            state["first"], state["second"], state["step"] = torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())
        state["step"] += 1
        t = float(state["step"])
        first = state["first"].lerp_(p.grad, 1 - betas[0]) / (1 - betas[0] ** t)
        second = state["second"].lerp_(p.grad.square(), 1 - betas[1]) / (1 - betas[1] ** t)
        p.sub_(lr * first / (second.sqrt() + 1e-8))
