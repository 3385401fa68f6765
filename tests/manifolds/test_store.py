"""The folder on disk: what is saved comes back, raw coordinates are undone centring, broken files are named."""

import json

import pytest
import torch

from backend.core.errors import Corrupt, Invalid, NotFound
from backend.manifolds.behaviour import BehaviourManifold
from backend.manifolds.store import Display, SiteEntry, SteerableManifold, list_manifolds, load_manifold
from backend.wire.capabilities import ManifoldInfo, Tick

SITE = "toy/3#update"


def make(*, n_tokens=1, bins=None, full=True, sites=(SITE,), name="toy-ring", d=16, k=3, n=7):
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


@pytest.mark.parametrize("how", [{}, {"n_tokens": 4}, {"bins": [0.3, 0.6, 1.0], "n_tokens": 4},
                                 {"sites": ("toy/1#update", "toy/2#update")}])  # fmt: skip
def test_what_is_saved_comes_back(tmp_path, how):
    made = make(**how)
    back = SteerableManifold.load(made.save(tmp_path / "m"))
    assert back.info == made.info and back.measured == {"a": 1}
    time = 0.5 if how.get("bins") else None
    for site in made.sites:
        assert torch.equal(back.targets(site, 0.31, time=time), made.targets(site, 0.31, time=time))
        assert torch.equal(back.full_targets(site, 0.31, time=time), made.full_targets(site, 0.31, time=time))
    assert back.curves() == made.curves()
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["manifold.json", "manifold.safetensors"]


def test_targets_undo_centring_and_scale():
    manifold = make(n_tokens=4)
    entry = manifold.entry()
    raw = manifold.targets(SITE, float(entry.knots_t[2]))
    assert raw.shape == (4, 3)
    assert torch.allclose(raw, entry.knots[0, 2] / 0.5 + entry.mean[0], atol=1e-6)
    assert torch.allclose(manifold.stored(SITE, raw), entry.knots[0, 2], atol=1e-6)
    t, distance = manifold.project(manifold.targets(SITE, torch.tensor([0.1, 0.77])))
    assert torch.allclose(t, torch.tensor([0.1, 0.77], dtype=torch.float64), atol=1e-5) and distance.max() < 1e-5


def test_time_bins_choose_their_own_curve():
    manifold = make(bins=[0.3, 1.0])
    early, late = manifold.targets(SITE, 0.2, time=0.1), manifold.targets(SITE, 0.2, time=0.9)
    assert not torch.allclose(early, late)
    assert torch.equal(manifold.targets(SITE, 0.2, time=0.3), early)
    with pytest.raises(Invalid, match="time"):
        manifold.targets(SITE, 0.2)


def test_the_chord_is_straight_and_meets_the_curve_at_its_ends():
    manifold = make()
    points = manifold.chord(SITE, 0.1, 0.6, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.allclose(points[0], manifold.targets(SITE, 0.1)) and torch.allclose(
        points[2], manifold.targets(SITE, 0.6)
    )
    assert torch.allclose(points[1], (points[0] + points[2]) / 2, atol=1e-6)
    assert manifold.chord(SITE, 0.1, 0.6, 0.5, full=True).shape == (1, 16)


def test_drawing_has_closed_curves_on_which_the_centroids_lie():
    drawn = make().curves(n=700)
    curve, centroids = torch.tensor(drawn.activation_curve), torch.tensor(drawn.activation_centroids)
    assert torch.allclose(curve[0], curve[-1], atol=1e-4)
    assert torch.cdist(centroids, curve).min(1).values.max() < 0.05
    assert len(drawn.behaviour_curve) == 700 and len(drawn.behaviour_centroids) == 7
    assert len(drawn.activation_points) == len(drawn.activation_point_t) == 5


def test_entries_that_do_not_fit_are_refused():
    t, knots = torch.arange(4) / 4, torch.randn(4, 2)
    with pytest.raises(Invalid, match="orthonormal"):
        SiteEntry(torch.ones(8, 2), t, knots)
    with pytest.raises(Invalid, match="frame"):
        SiteEntry(torch.eye(8)[:, :3], t, knots)
    with pytest.raises(Invalid, match="bins"):
        SiteEntry(torch.eye(8)[:, :2], t, knots, bins=[0.5, 1.0])


def test_unknown_sites_and_missing_centroids_are_named():
    with pytest.raises(NotFound, match="toy/3#update"):
        make().targets("toy/9#update", 0.1)
    with pytest.raises(NotFound, match="Full-space"):
        make(full=False).full_targets(SITE, 0.1)


def test_the_shelf_lists_shipped_and_own_and_skips_the_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    make(name="one").save(tmp_path / "assets" / "manifolds" / "one")
    make(name="two").save(tmp_path / "home" / "manifolds" / "two")
    broken = make(name="three").save(tmp_path / "assets" / "manifolds" / "three")
    about = json.loads((broken / "manifold.json").read_text())
    about["entries"]["toy/8#update"] = {}
    (broken / "manifold.json").write_text(json.dumps(about))
    infos, skipped = list_manifolds()
    assert [info.name for info in infos] == ["one", "two"]
    assert len(skipped) == 1 and skipped[0].startswith("three")
    with pytest.raises(Corrupt):
        load_manifold("three")
    with pytest.raises(NotFound, match="one"):
        load_manifold("four")
    (broken / "manifold.safetensors").write_bytes(b"no tensors")
    with pytest.raises(Corrupt):
        load_manifold("three")
