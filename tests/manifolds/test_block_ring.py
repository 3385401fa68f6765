"""From activations to a named, steerable ring: planted rings, segments and Gaussian planes in 64 dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.core.errors import Refused
from backend.featurizers.grassmannian import Grassmannian
from backend.featurizers.vanilla import Vanilla
from backend.manifolds import block_ring
from backend.manifolds.block_ring import active_mask, block_manifold, find_rings, fit_block_ring, name_ring
from backend.manifolds.store import read_manifold, save_manifold
from backend.wire.capabilities import ManifoldInfo

D, G, B = 64, 32, 2
RINGS, GAUSSIANS = range(0, 4), range(4, 8)


@pytest.fixture(scope="module")
def world():
    """Raw activations (n, 1, d) of 32 factors, three on at a time: 0-3 rings (0 stands off its centre), 4-7 Gaussian
    planes of a ring's spectrum, the rest segments; the featurizer has the true frames. And the rings' angles."""
    generator = torch.Generator().manual_seed(0)
    n = 12000
    # Together they fill the space, so that no factor shows up in another's block.
    frames = torch.linalg.qr(torch.randn(D, G * B, generator=generator))[0].mT.reshape(G, B, D)
    which = torch.rand(n, G, generator=generator).topk(3, dim=1).indices
    angle = 2 * torch.pi * torch.rand(n, 3, generator=generator)
    code = torch.zeros(n, 3, B)
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    ring = ring * (1 + 0.08 * torch.randn(n, 3, 1, generator=generator))
    code[which < 4] = ring[which < 4]
    code[which == 0] += torch.tensor([0.4, 0.0])
    plane = torch.randn(n, 3, B, generator=generator) * 0.7071
    gauss = (which >= 4) & (which < 8)
    code[gauss] = plane[gauss]
    rest = which >= 8
    code[rest] = (torch.randn(n, 3, 1, generator=generator) * torch.tensor([1.0, 0.3]))[rest]
    x = torch.einsum("nsb,nsbd->nd", code, frames[which])
    x = 0.5 * x + 3.0 * torch.randn(D, generator=generator) + 0.06 * torch.randn(n, D, generator=generator)
    model = Grassmannian(D, G, d_block=B, k=3)
    with torch.no_grad():
        model.frame.copy_(frames)
    model.fit_centring(x[:, None])
    model.initialise(model.normalise(x))
    on = torch.where(which == 1, angle, 0).sum(1)
    return model, x[:, None], which, on


@pytest.fixture(scope="module")
def rows(world):
    model, x, _, _ = world
    return model.normalise(x).flatten(0, 1)


def test_planted_rings_are_found_and_gaussians_are_not(world, rows, monkeypatch):
    monkeypatch.setattr(block_ring, "decide", lambda c, **k: topology_decide(c, n_null=19, **k))
    found = find_rings(world[0], rows, blocks=[0, 1, 4, 5, 9])
    assert {r.block for r in found} == {0, 1}, [(r.block, r.evidence) for r in found]
    assert all(r.evidence.confidence > 0.1 and r.spread < 0.5 for r in found)


def topology_decide(cloud, **keywords):
    from backend.manifolds import topology

    return topology.decide(cloud, **keywords)


@pytest.fixture(scope="module")
def one(world, rows):
    return fit_block_ring(world[0], 1, rows)


def test_labels_only_name_the_ring(world, rows, one):
    model, x, which, angle = world
    code, fired = block_ring.block_codes(model, 1, rows)
    present = fired & (which == 1).any(1)
    t = one.coordinate(code[present])
    name = name_ring(t, angle[present].numpy())
    assert np.degrees(name.median_error) < 8 and name.correlation > 0.95, name
    ticks = name.ticks(["0", "90", "180", "270"])
    for tick, degrees in zip(ticks, (0, 90, 180, 270)):
        read = np.degrees(name.angle_of(tick.t))
        assert abs((read - degrees + 180) % 360 - 180) < 1
    shuffled = name_ring(t, np.random.default_rng(0).permutation(angle[present].numpy()))
    assert shuffled.correlation < 0.2 and np.degrees(shuffled.median_error) > 60


def test_the_manifold_speaks_raw_coordinates(world, one, tmp_path):
    model, x, _, _ = world
    info = ManifoldInfo(name="planted", title="Planted", model="m", kind="ring", sites=["m/down.1.0#update"],
                        origin="blocks", blocks=[1])  # fmt: skip
    cloud = block_ring.block_codes(model, 1, model.normalise(x).flatten(0, 1))[0][:500]
    manifold = block_manifold(model, one, info=info, cloud=cloud)
    manifold = read_manifold(save_manifold(manifold, tmp_path / "planted"))
    entry = manifold.entry()
    target = manifold.targets(None, 0.3)
    # Clamp one activation's coordinates to the target, as an intervention does: its code is then the ring's point.
    raw = x[0]
    moved = raw + (target - raw @ entry.frame) @ entry.frame.T
    code = model.pre_codes(model.normalise(moved))[0, 1]
    assert torch.allclose(code, one.ring.point(0.3), atol=1e-3)
    t, distance = manifold.project(moved @ entry.frame)
    assert float((t - 0.3).abs()) < 1e-2 and float(distance) < 1e-3
    assert manifold.measured["confidence"] > 0 and manifold.info.origin == "blocks"
    assert manifold.display.points.shape == (500, 3) and len(manifold.display.variance) == 3


def test_the_mask_is_where_the_block_fires(world):
    model, x, which, _ = world
    mask = active_mask(model, 2, x[:400].view(100, 4, D))
    picked = model.select(model.normalise(x[:400]).flatten(0, 1)).block
    assert torch.equal(mask.flatten() > 0, (picked == 2).any(1))


def test_refusals(world, rows, one):
    with pytest.raises(Refused):
        fit_block_ring(world[0], 1, rows[:50])
    info = ManifoldInfo(name="p", title="P", model="m", kind="ring", sites=["m/down.1.0#update"])
    with pytest.raises(Refused):
        block_manifold(Vanilla(D, G, d_block=B, k=3), one, info=info)
