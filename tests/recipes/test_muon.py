"""Muon's parts: orthogonal updates, and that it learns where AdamW would."""

from __future__ import annotations

import torch
from torch import nn

from backend.recipes.muon import Muon, orthogonalise


def test_updates_are_nearly_orthogonal():
    for shape in ((16, 40), (40, 16), (24, 24)):
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
        values = torch.linalg.svdvals(orthogonalise(x))
        assert 0.5 < values.min() and values.max() < 1.3
        assert torch.linalg.svdvals(x).max() / torch.linalg.svdvals(x).min() > values.max() / values.min()


def test_it_fits_a_planted_linear_map_and_resumes_exactly():
    generator = torch.Generator().manual_seed(2)
    x, truth = torch.randn(256, 12, generator=generator), torch.randn(12, 5, generator=generator)

    def run(stop: int | None) -> tuple[nn.Module, float]:
        torch.manual_seed(3)
        net = nn.Linear(12, 5)
        optimizer = Muon(net.parameters(), lr=0.02)
        for i in range(300):
            if i == stop:
                kept, weights = optimizer.state_dict(), {k: v.clone() for k, v in net.state_dict().items()}
                net = nn.Linear(12, 5)
                net.load_state_dict(weights)
                optimizer = Muon(net.parameters(), lr=0.02)
                optimizer.load_state_dict(kept)
            loss = (net(x) - x @ truth).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return net, float(loss)

    (whole, loss), (resumed, _) = run(None), run(120)
    assert loss < 0.02 * float((x @ truth).square().mean())
    assert torch.equal(whole.weight, resumed.weight)
