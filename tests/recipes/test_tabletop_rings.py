"""Rings found without labels are named on some scenes, judged on others, and turned to what they follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.featurizers.grassmannian import Grassmannian
from backend.manifolds.block_ring import block_codes, block_manifold, fit_block_ring
from backend.recipes import tabletop_rings as rings


def test_names_are_judged_on_other_scenes():
    """A ring whose coordinate is the hue is named hue; with shuffled hues nothing is claimed."""
    generator = torch.Generator().manual_seed(0)
    hue = 2 * torch.pi * torch.rand(600, generator=generator)
    model = Grassmannian(24, 4, d_block=3, k=1, generator=generator)
    x = 0.1 * torch.randn(600, 4, 24, generator=generator)
    x[:, 1] += 2 * torch.stack([hue.cos(), hue.sin(), 0 * hue], 1) @ model.frame[0].detach()
    model.fit_centring(x)
    model.initialise(model.normalise(x).flatten(0, 1))
    ring = fit_block_ring(model, 0, model.normalise(x).flatten(0, 1))
    factors = {"hue": hue.numpy(), "row": np.arange(600)}
    for other in ("yaw", "light_azimuth"):
        factors[other] = (2 * torch.pi * torch.rand(600, generator=generator)).numpy()
    (named,) = rings.name_rings(model, [ring], x, factors)
    assert named.factor == "hue" and named.follows and np.degrees(named.name.median_error) < 12
    info = rings.ring_info(named, "hue-ring", model="tabletop-sdxl", site="tabletop-sdxl/up.1.0#update", featurizer="x")
    assert info.ticks[0].label == "red" and info.ticks[4].label == "green" and info.ticks[4].t == pytest.approx(1 / 3)
    # Once turned to the factor, the ring's coordinate of a scene is its hue.
    code, fired = block_codes(model, 0, model.normalise(x).flatten(0, 1))
    manifold = block_manifold(model, ring, info=info, cloud=code[fired])
    rings.turn_to_angle(manifold, named.name)
    raw = x @ manifold.entry().frame
    t = manifold.curve().project(manifold.stored(None, raw)[:, 1])[0]
    gap = np.angle(np.exp(1j * (2 * np.pi * t.numpy() - hue.numpy())))
    assert np.degrees(np.median(np.abs(gap))) < 12
    factors["hue"] = np.random.default_rng(0).permutation(factors["hue"])
    (named,) = rings.name_rings(model, [ring], x, factors)
    assert not named.follows
