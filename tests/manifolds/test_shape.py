"""Every kind of the zoo is recognised, blobs and clusters are not, and a gate makes no hole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.manifolds import homology, shape
from backend.manifolds.homology import bars, correlation_dimension, null_bars, prepare, widest_gap, without_strays
from backend.manifolds.shape import recognise
from backend.worlds.zoo import shape as zoo_shape

RIGHT = {"segment": "line", "circle": "ring", "disk": "sheet", "sphere": "sphere", "torus": "torus",
         "moebius": "band", "swiss": "sheet", "helix": "line"}  # fmt: skip


@pytest.fixture(autouse=True)
def fewer_points_in_the_null(monkeypatch):
    """Sparser null clouds have longer bars, so this is the harder test, in a third of the time."""
    monkeypatch.setattr(shape, "null_bars", lambda share, n, **kwargs: null_bars(share, 350, **kwargs))


def cloud(kind, n=1400, *, noise=0.05, width=4, seed=0):
    """Points of a zoo kind in ``width`` dimensions, turned at random, radius 1, with noise in all of them."""
    rng = np.random.default_rng(seed)
    t = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))
    p = zoo_shape(kind, t).double().numpy()
    p = p - p.mean(0)
    p /= np.sqrt((p**2).sum(1).mean())
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0][:3]
    return p @ turn + noise / np.sqrt(width) * rng.standard_normal((n, width)), t.numpy()


# Nulls of clouds with three axes take some ten seconds each; their bars are tested below without one.
SLOW = ("sphere", "torus", "moebius")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k in SLOW else ()) for k in RIGHT])
def test_the_kinds_of_the_zoo(kind):
    found = recognise(cloud(kind)[0])
    assert found.kind == RIGHT[kind], found
    if RIGHT[kind] in ("ring", "band", "sphere", "torus"):
        assert min(found.p_values) <= 0.05 and found.confidence > 0


@pytest.mark.parametrize("kind, has_loop, has_void", [("sphere", False, True), ("torus", True, True),
                                                      ("moebius", True, False), ("swiss", False, False)])  # fmt: skip
def test_loops_and_voids_of_surfaces(kind, has_loop, has_void):
    loops, voids = bars(prepare(cloud(kind)[0], rng=np.random.default_rng(0)), maxdim=2)
    longest = [float(b[0]) if len(b) else 0.0 for b in (loops, voids)]
    assert (longest[0] > shape.LOOP, longest[1] > shape.VOID) == (has_loop, has_void), longest


def test_blobs_clusters_and_two_loops_are_none():
    rng = np.random.default_rng(0)
    assert recognise(rng.standard_normal((1200, 4))).kind == "none"
    corners = 2 * np.eye(4)[:3]
    assert recognise(corners[rng.integers(3, size=900)] + 0.15 * rng.standard_normal((900, 4))).gap > 0.5
    ring = cloud("circle", 700, noise=0.02, width=3)[0]
    eight = np.concatenate([ring + [1.02, 0, 0], ring - [1.02, 0, 0]])
    assert recognise(eight).kind == "none"
    assert recognise(ring[:40]).kind == "none"
    assert recognise(np.zeros((100, 3))).kind == "none"
    assert recognise(np.array([5.0, 0, 0]) + 0.3 * rng.standard_normal((400, 3))).kind == "point"


def test_a_gaussian_with_the_spectrum_of_a_ring_is_a_sheet_at_most():
    flat = np.random.default_rng(1).standard_normal((1200, 3)) * [1, 1, 0.1]
    assert recognise(flat).kind == "sheet"


def test_a_hole_that_a_gate_cut_is_not_believed():
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.standard_normal((8000, 3)) * np.sqrt([0.5, 0.5, 0.015]),
                           0.25 * rng.standard_normal((6000, 3))])  # fmt: skip
    gated = rows[np.linalg.norm(rows, axis=1) > 1.4][:1500]
    assert recognise(gated).kind in ("ring", "band")
    assert recognise(gated, rows=rows).kind == "none"


def test_correlation_dimension_of_a_line_and_a_square():
    rng = np.random.default_rng(0)
    line = np.stack([rng.uniform(-1.7, 1.7, 900), np.zeros(900)], 1)
    assert correlation_dimension(line) == pytest.approx(1, abs=0.12)
    assert correlation_dimension(rng.uniform(-1.2, 1.2, (1200, 2))) == pytest.approx(1.85, abs=0.15)


def test_a_roll_has_no_loop_through_the_air():
    roll, _ = cloud("swiss", noise=0.0)
    prepared = prepare(roll, rng=np.random.default_rng(0))
    assert bars(prepared)[0][0] < 0.4
    marks = prepared.points[prepared.landmarks]
    straight = np.linalg.norm(marks[:, None] - marks, axis=2)
    between = prepared.between()
    assert (between > 2 * straight + 1e-9).any() and np.allclose(between[between < 2 * straight],
                                                                 straight[between < 2 * straight])  # fmt: skip


def test_strays_are_left_out_and_thin_regions_are_kept():
    rng = np.random.default_rng(0)
    thin = np.stack([np.sort(rng.uniform(0, 1, 600) ** 3) * 10, np.zeros(600)], 1)
    strays = np.array([[2.0, 3.0], [6.0, -3.0]])
    kept = without_strays(np.concatenate([thin, strays]))
    assert not (np.abs(kept[:, 1]) > 1).any()
    assert kept[:, 0].max() > 9 and len(kept) > 540


def test_gap_between_two_lines():
    line = np.stack([np.linspace(0, 1, 200), np.zeros(200)], 1)
    both = np.concatenate([line, line + [0, 3.0]])
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree
    from scipy.spatial.distance import pdist, squareform

    tree = minimum_spanning_tree(csr_matrix(squareform(pdist(both))))
    assert widest_gap(tree) == pytest.approx(3.0)
    assert widest_gap(minimum_spanning_tree(csr_matrix(squareform(pdist(line))))) < 0.01


def test_nulls_of_equal_spectra_are_drawn_once():
    homology._null.cache_clear()
    first = null_bars(np.array([0.5, 0.49, 0.01]), 300, n_null=3)
    again = null_bars(np.array([0.51, 0.48, 0.01]), 300, n_null=3)
    assert first[0] is again[0] and homology._null.cache_info().misses == 1 and len(first[0]) == 3
