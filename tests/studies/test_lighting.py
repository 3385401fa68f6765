"""Light planted in one block, in two, and in none: the study must tell which, on shapes that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.featurizers.grassmannian import Grassmannian
from backend.featurizers.trainer import Training
from backend.studies.base import StudyContext
from backend.studies.lighting import findings
from backend.studies.lighting.reading import Plan, featurizer_of, read_light, unseen_shapes

PLAN = Plan(n_blocks=8, d_block=3, k=3, many=(12, 2, 4), n_seeds=1,
            training=Training(steps=20, batch=256, lr=1e-2))  # fmt: skip
N, N_CHOSEN, POSITIONS = 1100, 700, 9
FRAMES = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(0))).Q.view(8, 3, 24)
"""Block 0 holds luminance, 1 the cosine of the azimuth, 2 its sine, 3 to 7 hold noise."""


def planted() -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    factors = {"luminance": rng.uniform(0.5, 2, N), "shadow_area": rng.uniform(size=N),
               "light_elevation": rng.uniform(size=N), "light_azimuth": rng.uniform(0, 2 * np.pi, N)}  # fmt: skip
    code = 0.1 * rng.standard_normal((N, POSITIONS, 8, 3))
    code[:, :, 0] += factors["luminance"][:, None, None] * np.array([1.0, 0.5, 0.0])
    for block, turn in ((1, np.cos), (2, np.sin)):
        code[:, :, block] += (1.5 + turn(factors["light_azimuth"]))[:, None, None] * np.array([1.0, 0.3, 0.0])
    return torch.einsum("ntgb,gbd->ntd", torch.as_tensor(code, dtype=torch.float32), FRAMES), factors


def with_frames(frames: torch.Tensor, k: int) -> Grassmannian:
    """A featurizer that has found exactly these frames."""
    featurizer = Grassmannian(24, len(frames), d_block=frames.shape[1], k=k)
    with torch.no_grad():
        featurizer.frame.copy_(frames)
    return featurizer


@pytest.fixture(scope="module")
def measured():
    x, known = planted()
    made = {"blocks": with_frames(FRAMES, 3), "atoms": with_frames(FRAMES.reshape(24, 1, 24), 9),
            "many": with_frames(FRAMES.reshape(12, 2, 24), 5)}  # fmt: skip
    return read_light(made, x, known, N_CHOSEN, PLAN, seed=0, unseen=(0, 1), tell=lambda share, what: None)


def test_atoms_have_the_blocks_budget():
    assert PLAN.sizes["atoms"] == (24, 1, 9)
    x, _ = planted()
    atoms = featurizer_of(x[:50], PLAN.sizes["atoms"], PLAN.training, seed=0)
    assert (atoms.n_blocks, atoms.d_block, atoms.k) == (24, 1, 9)


def test_every_shape_is_unseen_once():
    assert sorted(s for seed in range(3) for s in unseen_shapes(seed, 6, 2)) == list(range(6))


def test_a_planted_luminance_is_read_and_an_absent_shadow_is_not(measured):
    assert measured.read["luminance"]["block"].correlation > 0.98
    assert measured.blocks["luminance"] == [0]
    assert abs(measured.read["luminance"]["shuffled light"].correlation) < 0.25
    assert abs(measured.read["shadow_area"]["block"].correlation) < 0.25


def test_an_azimuth_spread_over_two_blocks_needs_their_union(measured):
    azimuth = measured.read["light_azimuth"]
    assert azimuth["block"].r2 < 0.7
    assert azimuth["union"].r2 > 0.9 * azimuth["all"].r2 > 0.8
    assert set(measured.blocks["union"]) >= {1, 2}
    assert azimuth["shuffled light"].r2 < 0.05


def test_only_scenes_that_nothing_was_fitted_on_are_reported(measured):
    _, known = planted()
    assert np.allclose(measured.read["luminance"]["block"].truth[:, 0], known["luminance"][N_CHOSEN:])


def test_findings_have_the_fixed_ids_and_their_controls(measured):
    ctx = StudyContext("lighting", "small", 0, lambda share, what: None, torch.Generator())
    found = {f.id: f for f in findings(ctx, PLAN, [0], [measured])}
    asked = ("luminance-correlation", "shadow-correlation", "azimuth-r2-block", "azimuth-r2-union",
             "azimuth-r2-atoms", "azimuth-r2-all", "random-block-correlation")  # fmt: skip
    assert {f"lighting/{m}" for m in asked} <= set(found)
    union = found["lighting/azimuth-r2-union"]
    assert union.status == "holds" and union.low < union.value < union.high
    assert union.controls["best single block"] < union.value
    assert found["lighting/shadow-correlation"].status == "falls short"
