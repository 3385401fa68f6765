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
    """About the nearest semi-orthogonal matrix to each ``matrix (..., m, n)``: singular values move into [0.7, 1.2]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    # Each step multiplies x from the left by a polynomial of its Gram matrix, and that Gram matrix changes by the same
    # polynomial: so all steps run on the small square side, and the long side is touched twice instead of ten times.
    gram = x @ x.mT
    whole = None
    for step in range(steps):
        poly = b * gram + c * gram @ gram
        poly.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = poly if whole is None else poly @ whole
        if step < steps - 1:
            gram = poly @ gram @ poly
    x = whole @ x
    return x.mT if tall else x


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
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.mul_(1 - lr * decay)
                if p.ndim >= 2:
                    alike.setdefault(p.flatten(1).shape, []).append(p)
                else:
                    self._vector(p, self.state[p], lr, group["betas"])
            for matrices in alike.values():
                self._matrices(matrices, lr, group["momentum"])

    def _matrices(self, alike: list[nn.Parameter], lr: float, beta: float) -> None:
        """Matrices of one shape in one batched product: a network has a hundred, and calls cost more than sums."""
        updates = []
        for p in alike:
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            m = state["momentum"].mul_(beta).add_(p.grad)
            updates.append(torch.add(p.grad, m, alpha=beta).flatten(1))
        done = orthogonalise(torch.stack(updates))
        for p, update in zip(alike, done, strict=True):
            p.sub_(update.reshape(p.shape), alpha=lr * 0.2 * max(update.shape) ** 0.5)

    @staticmethod
    def _vector(p: Tensor, state: dict, lr: float, betas: tuple[float, float]) -> None:
        if "first" not in state:
            state["first"], state["second"], state["step"] = torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())
        state["step"] += 1
        t = float(state["step"])
        first = state["first"].lerp_(p.grad, 1 - betas[0]) / (1 - betas[0] ** t)
        second = state["second"].lerp_(p.grad.square(), 1 - betas[1]) / (1 - betas[1] ** t)
        p.sub_(lr * first / (second.sqrt() + 1e-8))
