"""The arms: what each writes, that controls move as far as the manifold does, and where a drag's chord runs."""

import pytest
import torch

from backend.core.errors import Invalid
from backend.manifolds.site_entry import SiteEntry
from backend.manifolds.steerable import SteerableManifold
from backend.steering.arms import drag_chord, interventions_for, path_interventions, random_frame
from backend.wire.capabilities import ManifoldInfo

SITE = "toy/3#update"
D, K = 24, 3


def make(kind="ring", *, full=True, n_tokens=1, bins=None, sites=(SITE,)):
    g = torch.Generator().manual_seed(0)
    n = 7
    t = torch.arange(n).double() / n if kind == "ring" else torch.linspace(0, 1, n).double()
    entries = {
        site: SiteEntry(
            torch.linalg.qr(torch.randn(D, K, generator=g)).Q, t,
            torch.randn((n, n_tokens, K) if bins is None else (len(bins), n, n_tokens, K), generator=g),
            mean=torch.randn(1, K, generator=g), scale=2.0, bins=bins,
            full=torch.randn(n, 1, D, generator=g) if full else None,
        )
        for site in sites
    }  # fmt: skip
    info = ManifoldInfo(name="toy", title="Toy", model="toy", kind=kind, sites=list(sites))
    return SteerableManifold(info, entries)


def written(x, made):
    for each in made:
        z = x @ each.frame
        new = z if each.lo is None else torch.maximum(torch.minimum(z, each.hi), each.lo)
        new = new if each.shift is None else new + each.shift
        x = x + each.gate * (new - z) @ (each.frame if each.out is None else each.out).T
    return x


X = torch.randn(5, D, generator=torch.Generator().manual_seed(9))


def test_off_writes_nothing():
    assert interventions_for(make(), "off", 0.3) == []


def test_the_manifold_arm_sets_the_block_and_keeps_the_rest():
    manifold = make()
    frame = manifold.entry().frame
    made = interventions_for(manifold, "manifold", 0.3)
    after = written(X, made)
    assert torch.allclose(after @ frame, manifold.targets(SITE, 0.3).expand(5, K), atol=1e-5)
    rest = torch.eye(D) - frame @ frame.T
    assert torch.allclose(after @ rest, X @ rest, atol=1e-5)


def test_strength_is_the_gate():
    manifold = make()
    whole, half = (written(X, interventions_for(manifold, "manifold", 0.3, strength=s)) for s in (1.0, 0.5))
    assert torch.allclose(half - X, (whole - X) / 2, atol=1e-5)
    assert torch.equal(written(X, interventions_for(manifold, "manifold", 0.3, strength=0.0)), X)


def test_the_full_chord_replaces_everything_and_the_other_only_the_block():
    manifold = make()
    full = written(X, path_interventions(manifold, "chord", 0.0, 3 / 7, 0.5))
    middle = manifold.entry().full[0, [0, 3], 0].mean(0)
    assert torch.allclose(full, middle.expand(5, D), atol=1e-4)
    frame = manifold.entry().frame
    inside = written(X, path_interventions(manifold, "chord_subspace", 0.0, 3 / 7, 0.5))
    halfway = (manifold.targets(SITE, 0.0) + manifold.targets(SITE, 3 / 7)) / 2
    assert torch.allclose(inside @ frame, halfway.expand(5, K), atol=1e-5)
    rest = torch.eye(D) - frame @ frame.T
    assert torch.allclose(inside @ rest, X @ rest, atol=1e-5)


def test_without_full_centroids_the_two_chords_are_one():
    manifold = make(full=False)
    a, b = (written(X, path_interventions(manifold, arm, 0.1, 0.5, 0.4)) for arm in ("chord", "chord_subspace"))
    assert torch.equal(a, b)


@pytest.mark.parametrize("s", [0.0, 1.0])
def test_manifold_and_chord_meet_at_both_ends_of_a_path(s):
    manifold = make()
    curve = written(X, path_interventions(manifold, "manifold", 1 / 7, 4 / 7, s))
    chord = written(X, path_interventions(manifold, "chord_subspace", 1 / 7, 4 / 7, s))
    assert torch.allclose(curve, chord, atol=1e-4)


def test_a_path_takes_the_shorter_arc():
    manifold = make()
    a = written(X, path_interventions(manifold, "manifold", 6 / 7, 1 / 7, 0.5))
    b = written(X, interventions_for(manifold, "manifold", 0.0))
    assert torch.allclose(a, b, atol=1e-4)


def test_the_random_arm_moves_every_token_as_far_as_the_manifold_arm_and_elsewhere():
    manifold = make()
    moved = written(X, interventions_for(manifold, "manifold", 0.4)) - X
    made = interventions_for(manifold, "random", 0.4, seed=3)
    other = written(X, made) - X
    assert torch.allclose(moved.norm(dim=1), other.norm(dim=1), rtol=1e-4)
    assert torch.nn.functional.cosine_similarity(moved, other).abs().mean() < 0.6
    again = interventions_for(manifold, "random", 0.4, t_from=0.1, seed=3)
    assert torch.equal(again[0].out, made[0].out) and torch.equal(again[0].lo, made[0].lo)
    assert not torch.equal(random_frame(D, K, seed=4, site=SITE), random_frame(D, K, seed=3, site=SITE))


def test_a_drags_chord_runs_to_the_antipode_at_the_same_share():
    assert drag_chord("ring", 0.2, 0.3) == (0.2, pytest.approx(0.7), pytest.approx(0.2))
    assert drag_chord("ring", 0.2, 0.1) == (0.2, pytest.approx(0.7), pytest.approx(0.2))
    assert drag_chord("ring", 0.9, 0.15) == (0.9, pytest.approx(0.4), pytest.approx(0.5))
    assert drag_chord("line", 0.2, 0.6) == (0.2, 1.0, pytest.approx(0.5))
    assert drag_chord("line", 0.2, 0.1) == (0.2, 0.0, pytest.approx(0.5))
    assert drag_chord("line", 1.0, 1.0)[2] == 0.0


def test_a_drags_chord_leaves_the_ring_where_the_manifold_arm_stays():
    t = torch.arange(12).double() / 12
    circle = torch.stack([(2 * torch.pi * t).cos(), (2 * torch.pi * t).sin()], 1).float()
    info = ManifoldInfo(name="c", title="c", model="toy", kind="ring", sites=[SITE])
    manifold = SteerableManifold(info, {SITE: SiteEntry(torch.eye(D)[:, :2], t, circle)})
    radius = {
        arm: interventions_for(manifold, arm, 0.25, t_from=0.0)[0].lo.norm().item()
        for arm in ("manifold", "chord_subspace")
    }
    assert radius["manifold"] == pytest.approx(1.0, abs=1e-3) and radius["chord_subspace"] < 1e-4


def test_tokens_time_bins_and_several_sites():
    manifold = make(n_tokens=4, bins=[0.5, 1.0], full=False, sites=("toy/1#update", "toy/2#update"))
    made = interventions_for(manifold, "manifold", 0.2, time=0.7, window=(0.25, 0.75))
    assert [each.site for each in made] == ["toy/1#update", "toy/2#update"]
    assert made[0].lo.shape == (4, K) and made[0].window == (0.25, 0.75)
    early = interventions_for(manifold, "manifold", 0.2, time=0.3, sites=["toy/2#update"])
    assert len(early) == 1 and not torch.equal(early[0].lo, made[1].lo)


def test_unknown_arms_and_missing_starts_are_refused():
    with pytest.raises(Invalid, match="Arms are"):
        interventions_for(make(), "sideways", 0.1)
    for arm in ("chord", "chord_subspace"):
        with pytest.raises(Invalid, match="t_from"):
            interventions_for(make(), arm, 0.1)
