"""Unions of blocks: made with labels or without, and used like one block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.core.errors import Invalid
from backend.featurizers.grassmannian import Grassmannian
from backend.featurizers.union import BlockUnion, communities, neighbourhoods


@pytest.fixture
def featurizer() -> Grassmannian:
    return Grassmannian(12, 6, d_block=2, k=3, generator=torch.Generator().manual_seed(0))


def test_a_union_of_all_blocks_decodes_to_the_reconstruction(featurizer):
    x = torch.randn(20, 12, generator=torch.Generator().manual_seed(1))
    union = BlockUnion(featurizer, range(6))
    code, fires = union.code(x)
    assert fires.all() and code.shape == (20, union.d_code) == (20, 12)
    assert torch.allclose(union.decode(code), featurizer(x), atol=1e-5)


def test_a_union_of_one_block_is_that_block(featurizer):
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(2))
    code, fires = BlockUnion(featurizer, [4]).code(x)
    z = featurizer.encode(x)[:, 4]
    assert torch.equal(code, z) and torch.equal(fires, z.square().sum(1) > 0) and not fires.all()


def test_the_subspace_is_orthonormal_and_holds_every_frame(featurizer):
    basis = BlockUnion(featurizer, [0, 3, 5]).subspace()
    assert torch.allclose(basis.T @ basis, torch.eye(6), atol=1e-5)
    frames = featurizer.frames()[[0, 3, 5]].flatten(0, 1)
    assert torch.allclose(frames @ basis @ basis.T, frames, atol=1e-5)


def test_blocks_that_share_a_subspace_do_not_widen_it(featurizer):
    with torch.no_grad():
        featurizer.frame[1] = featurizer.frame[0].flip(0)
    assert BlockUnion(featurizer, [0, 1]).subspace().shape == (12, 2)


@pytest.mark.parametrize("blocks", [[], [0, 0], [6], [-1]])
def test_blocks_that_are_not_there_are_refused(featurizer, blocks):
    with pytest.raises(Invalid):
        BlockUnion(featurizer, blocks)


def cliques(sizes: list[int], *, within: float = 0.5, between: float = 0.01) -> np.ndarray:
    label = np.repeat(np.arange(len(sizes)), sizes)
    overlap = np.where(label[:, None] == label[None], within, between)
    np.fill_diagonal(overlap, 0.0)
    return overlap


def test_communities_are_the_planted_cliques():
    assert communities(cliques([5, 3, 4])) == [[0, 1, 2, 3, 4], [8, 9, 10, 11], [5, 6, 7]]


def test_a_block_that_fires_with_no_other_is_in_no_union():
    overlap = cliques([3, 1], between=0.0)
    assert communities(overlap) == [[0, 1, 2]]
    assert [sorted(near) for near in neighbourhoods(overlap, n=3)] == [[0, 1, 2]]
