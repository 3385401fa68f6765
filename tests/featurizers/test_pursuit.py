"""Block pursuit: limit cases, recovery in coherent dictionaries, the Gram path, gradients, training."""

from __future__ import annotations

import pytest
import torch

from backend.core.errors import Invalid
from backend.featurizers import pursuit as module
from backend.featurizers.featurizer import Featurizer
from backend.featurizers.grassmannian import Grassmannian, orthonormal
from backend.featurizers.pursuit import BlockPursuit, pursue
from backend.featurizers.trainer import Training, fit, measure


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coherent(n_blocks: int, b: int, d: int, *, shared: float, seed: int = 0) -> torch.Tensor:
    """Orthonormal frames that all lean towards one common subspace: ``shared`` 0 is random, 1 is all the same."""
    own = torch.randn(n_blocks, b, d, generator=gen(seed)) / d**0.5
    common = torch.randn(1, b, d, generator=gen(seed + 1)) / d**0.5
    return orthonormal((1 - shared) * own + shared * common)


def planted(frames: torch.Tensor, n: int, k: int, *, noise: float = 0.02, seed: int = 5):
    """Rows of k blocks each with codes of norm about one, and which blocks these are (n, k)."""
    block = torch.rand(n, len(frames), generator=gen(seed)).topk(k, dim=1).indices
    code = torch.randn(n, k, frames.shape[1], generator=gen(seed + 1))
    code = code / code.norm(dim=-1, keepdim=True) * (0.7 + 0.6 * torch.rand(n, k, 1, generator=gen(seed + 2)))
    x = torch.einsum("nkb,nkbd->nd", code, frames[block])
    return x + noise * torch.randn(x.shape, generator=gen(seed + 3)) / x.shape[1] ** 0.5, block, code


def hit_rate(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((truth[:, :, None] == found[:, None, :]).any(-1).float().mean())


def test_the_true_support_is_found_where_one_pass_fails():
    frames = coherent(96, 3, 64, shared=0.45)
    x, truth, code = planted(frames, 300, 4)
    one_pass = Grassmannian(64, 96, d_block=3, k=4)
    with torch.no_grad():
        one_pass.frame.copy_(frames)
    stronger = BlockPursuit.of(one_pass)
    lone, pursued = one_pass.select(x).block, stronger.select(x)
    assert hit_rate(pursued.block, truth) > 0.95 > 0.75 > hit_rate(lone, truth)
    # The joint fit recovers the codes too, not only which blocks.
    dense = torch.zeros(300, 96, 3).scatter(1, truth[..., None].expand(-1, -1, 3), code)
    error = (stronger.encode(x) - dense).square().sum((1, 2)).median()
    assert float(error.detach()) < 0.02
    assert measure(stronger, x).r2 > 0.99 > measure(one_pass, x).r2 + 0.2


def test_orthogonal_blocks_need_no_pursuit():
    frames = torch.linalg.qr(torch.randn(24, 24, generator=gen()))[0].view(8, 3, 24)
    one_pass = Grassmannian(24, 8, d_block=3, k=3)
    with torch.no_grad():
        one_pass.frame.copy_(frames)
    x = torch.randn(50, 24, generator=gen(1))
    assert torch.allclose(BlockPursuit.of(one_pass).encode(x), one_pass.encode(x), atol=1e-3)


def test_one_round_chooses_as_one_pass_does_and_fits():
    frames = coherent(20, 2, 16, shared=0.3)
    x = torch.randn(40, 16, generator=gen(1))
    got = pursue(x, frames, 3, rounds=1)
    norm = torch.einsum("nd,gbd->ngb", x, frames).norm(dim=-1)
    assert torch.equal(got.block.sort(1).values, norm.topk(3, dim=1).indices.sort(1).values)
    chosen = frames[got.block].flatten(1, 2)
    fit_ = torch.linalg.lstsq(chosen.mT, x[..., None]).solution[..., 0]
    assert torch.allclose(got.code, fit_, atol=2e-2)


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_the_gram_matrix_changes_nothing(rounds):
    frames = coherent(20, 2, 32, shared=0.3)
    x = torch.randn(40, 32, generator=gen(1))
    gram = frames.flatten(0, 1) @ frames.flatten(0, 1).T
    plain, quick = (pursue(x, frames, 4, rounds=rounds, gram=g, leftover=True) for g in (None, gram))
    assert torch.equal(plain.block, quick.block)
    assert torch.allclose(plain.code, quick.code, atol=1e-3) and torch.allclose(plain.left, quick.left, atol=1e-3)
    assert (plain.left.gather(1, plain.block) == -1).all()
    # What is left over lies outside the span of what was chosen: no chosen block could take more of it.
    assert (plain.left < torch.einsum("nd,gbd->ngb", x, frames).square().sum((1, 2))[:, None]).all()


def test_every_block_is_chosen_once_even_if_two_are_the_same():
    frames = coherent(10, 2, 16, shared=0.2)
    frames[4] = frames[3]
    model = BlockPursuit(16, 10, d_block=2, k=5)
    with torch.no_grad():
        model.frame.copy_(frames)
    picked = model.select(torch.randn(30, 16, generator=gen(1)))
    assert all(len(set(row)) == 5 for row in picked.block.tolist())
    assert torch.isfinite(picked.code).all()


def test_gradient_goes_through_the_fit_and_the_decoder(monkeypatch):
    model = BlockPursuit(12, 9, d_block=2, k=3, generator=gen())
    x, target = torch.randn(20, 12, generator=gen(1)), torch.randn(20, 12, generator=gen(2))
    block = model.select(x).block
    loss, _ = model.loss(x, target=target)
    got = torch.autograd.grad(loss, model.frame)[0]
    chosen = model.frame[block].flatten(1, 2)
    code = torch.linalg.solve(chosen @ chosen.mT + module.RIDGE * torch.eye(6), (chosen @ x[..., None])[..., 0])
    expected = torch.autograd.grad((target - (code[:, None] @ chosen)[:, 0]).square().mean(), model.frame)[0]
    assert torch.allclose(got, expected, atol=1e-3 * float(expected.abs().max()))


def test_training_learns_planted_frames():
    frames = coherent(12, 2, 32, shared=0.3)
    x, _, _ = planted(frames, 4096, 2)
    model = BlockPursuit(32, 16, d_block=2, k=2, aux="dead", generator=gen(3))
    fit(model, x, training=Training(steps=150, batch=256, lr=1e-2, warmup=10))
    assert measure(model, x[:1024]).r2 > 0.8
    assert model.frame_error() < 1e-5


def test_saving_keeps_the_rounds(tmp_path):
    model = BlockPursuit(12, 9, d_block=2, k=4, rounds=2, generator=gen()).eval()
    again = Featurizer.from_pretrained(model.save_pretrained(tmp_path))
    x = torch.randn(20, 12, generator=gen(1))
    assert again.rounds == 2 and torch.equal(again.encode(x), model.encode(x))
    with pytest.raises(Invalid):
        BlockPursuit(12, 9, d_block=2, k=4, rounds=5)
