"""A small steerable manifold with random frames, for everything that holds, draws or stores one."""

import pytest
import torch

from backend.manifolds.behaviour import BehaviourManifold
from backend.manifolds.display import Display
from backend.manifolds.site_entry import SiteEntry
from backend.manifolds.steerable import SteerableManifold
from backend.wire.capabilities import ManifoldInfo, Tick


def _make(*, n_tokens=1, bins=None, full=True, sites=("toy/3#update",), name="toy-ring", d=16, k=3, n=7):
    g = torch.Generator().manual_seed(0)
    t = torch.arange(n).double() / n
    entries = {}
    for site in sites:
        frame = torch.linalg.qr(torch.randn(d, k, generator=g)).Q
        shape = (n, n_tokens, k) if bins is None else (len(bins), n, n_tokens, k)
        entries[site] = SiteEntry(
            frame, t, torch.randn(shape, generator=g), mean=torch.randn(n_tokens, k, generator=g), scale=0.5, bins=bins,
            full=torch.randn(n, n_tokens, d, generator=g) if full else None,
        )  # fmt: skip
    info = ManifoldInfo(name=name, title="Toy", model="toy", kind="ring", sites=list(sites),
                        ticks=[Tick(t=float(v), label=f"c{i}") for i, v in enumerate(t)])  # fmt: skip
    p = torch.eye(n, n + 1) * 0.8 + 0.2 / (n + 1)
    display = Display(torch.eye(k), torch.zeros(k), [0.5, 0.3, 0.1], torch.randn(5, 3, generator=g), torch.rand(5))
    return SteerableManifold(info, entries, behaviour=BehaviourManifold(p, t), display=display, measured={"a": 1})


@pytest.fixture(scope="session")
def make():
    """Makes one; the arguments say at how many tokens, bins of time and sites."""
    return _make
