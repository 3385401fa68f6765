"""Dictionaries that are the same, turned, random, or split on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.featurizers.grassmannian import Grassmannian, orthonormal
from backend.studies.base import StudyContext
from backend.studies.stability import CLAIMS, NEIGHBOURS, Seen, findings
from backend.studies.stability.matching import carriers, living, match, random_frames


def frames(n: int, b: int, d: int, *, seed: int) -> torch.Tensor:
    return orthonormal(torch.randn(n, b, d, generator=torch.Generator().manual_seed(seed)))


def test_a_permuted_dictionary_with_turned_bases_is_the_same_dictionary():
    one = frames(20, 3, 40, seed=0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    turn = torch.linalg.qr(torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(2))).Q
    found = match(one, turn @ one[order])
    assert np.allclose(found.overlap, 1, atol=1e-5)
    assert (order[torch.as_tensor(found.second)] == torch.as_tensor(found.first)).all()
    assert found.largest.max() < 0.01


def test_random_dictionaries_overlap_a_little_more_than_two_random_blocks_do():
    one = frames(60, 3, 40, seed=0)
    found = match(one, random_frames(one, seed=1)).overlap.mean()
    assert 3 / 40 < found < 0.4


def test_the_angle_of_a_tilted_block_is_the_planted_one():
    one = torch.eye(6)[None, :2]
    tilted = torch.stack([torch.eye(6)[0], np.cos(0.5) * torch.eye(6)[1] + np.sin(0.5) * torch.eye(6)[4]])[None]
    assert match(one, tilted.float()).largest[0] == pytest.approx(0.5, abs=1e-4)


def test_a_line_inside_a_plane_overlaps_wholly():
    assert match(torch.eye(5)[None, :2], torch.eye(5)[None, :1]).overlap[0] == pytest.approx(1.0)


def split(frame: torch.Tensor, k: int) -> Grassmannian:
    featurizer = Grassmannian(frame.shape[2], len(frame), d_block=frame.shape[1], k=k)
    with torch.no_grad():
        featurizer.frame.copy_(frame)
    return featurizer


def test_a_plane_cut_into_two_lines_is_carried_by_two_blocks():
    rows = torch.zeros(400, 8)
    angle = torch.linspace(0, 2 * torch.pi, 400)
    rows[:, 0], rows[:, 1] = angle.cos(), angle.sin()
    whole, cut = split(torch.eye(8).view(4, 2, 8), 1), split(torch.eye(8).view(8, 1, 8), 2)
    picked, again = whole.select(rows), cut.select(rows)
    assert carriers(whole, whole, picked, picked) == pytest.approx([1.0], abs=1e-6)
    assert carriers(whole, cut, picked, again) == pytest.approx([2.0], abs=1e-3)
    assert living(whole, picked).shape == (1, 2, 8)


def test_findings_carry_the_random_dictionary_beside_every_overlap():
    some = np.linspace(0.2, 0.9, 20)
    seen = Seen(overlap=[some], angle=[90 * some], random=[some / 3], gaussian=[some / 2], atoms=[some],
                random_atoms=[some / 4], settings={label: some for label in NEIGHBOURS}, r2={"base": 0.9},
                carriers=1 + some, carriers_seed=1 + some, carriers_half=1 + some)  # fmt: skip
    ctx = StudyContext("stability", "small", 0, lambda share, what: None, torch.Generator())
    found = {f.id.split("/")[1]: f for f in findings(ctx, [0, 1, 2], {"one": seen})}
    assert set(found) == set(CLAIMS)
    for name in ("overlap-across-seeds", "overlap-across-settings"):
        assert found[name].controls["a random dictionary, matched alike"] < found[name].value
    assert found["carriers-double-g"].seeds == [0, 1, 2]
