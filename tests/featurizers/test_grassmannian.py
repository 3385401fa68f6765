"""The contract of every featurizer; Grassmannian and Vanilla: limit cases, gauge, planted subspaces, disk."""

from __future__ import annotations

import json
import math

import pytest
import torch

from backend.activations.store import ActivationStore
from backend.core.errors import Corrupt, Invalid, NotFound
from backend.featurizers.batch_top import BatchTop
from backend.featurizers.featurizer import VARIANTS as NAMES
from backend.featurizers.featurizer import Featurizer
from backend.featurizers.grassmannian import Grassmannian, orthonormal
from backend.featurizers.group_lasso import GroupLasso
from backend.featurizers.jump_relu import JumpReLU
from backend.featurizers.pursuit import BlockPursuit
from backend.featurizers.trainer import Run, Training, drawn, fit, measure
from backend.featurizers.vanilla import Vanilla

VARIANTS = (Grassmannian, Vanilla, GroupLasso, JumpReLU, BatchTop, BlockPursuit)
VARYING = (GroupLasso, JumpReLU, BatchTop)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def topk_sae(x, encoder, bias, decoder, k):
    """A TopK sparse autoencoder with signed codes, written out row by row."""
    a = (x @ encoder.T + bias).detach()
    out = torch.zeros_like(x)
    for row in range(len(x)):
        for unit in sorted(range(a.shape[1]), key=lambda u: -abs(float(a[row, u])))[:k]:
            out[row] += a[row, unit] * decoder[unit]
    return out


def test_one_dimensional_vanilla_is_a_topk_sae():
    model = Vanilla(12, 30, d_block=1, k=4, generator=gen())
    with torch.no_grad():
        model.bias.normal_(generator=gen(1))
        model.encoder.normal_(generator=gen(2))
    x = torch.randn(16, 12, generator=gen(3))
    expected = topk_sae(x, model.encoder, model.bias, model.decoder[:, 0], 4)
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert (model.encode(x) < 0).any(), "codes are signed"


def test_one_dimensional_grassmannian_is_a_tied_topk_sae():
    model = Grassmannian(12, 30, d_block=1, k=4, generator=gen())
    with torch.no_grad():
        model.log_gain.fill_(math.log(0.7))
    x = torch.randn(16, 12, generator=gen(3))
    atoms = model.frame[:, 0]
    assert torch.allclose(model(x), topk_sae(x, 0.7 * atoms, torch.zeros(30), atoms, 4), atol=1e-5)


@pytest.mark.parametrize("kind", VARIANTS)
def test_contract(kind):
    model = kind(16, 10, d_block=3, k=4, generator=gen())
    x = torch.randn(50, 16, generator=gen(1))
    model.initialise(x)
    z = model.encode(x)
    assert z.shape == (50, 10, 3) and model.frames().shape == (10, 3, 16)
    active = (z.norm(dim=-1) > 0).sum(1)
    if kind in VARYING:
        assert abs(float(active.float().mean()) - 4) < 0.5
    else:
        assert (active == 4).all()
    assert torch.allclose(model.pre_code(x, 7), model.pre_codes(x)[:, 7], atol=1e-5)
    # Decoding the selected blocks alone is decoding all of them.
    assert torch.allclose(model.decode(z), model.decode_selection(model.select(x)), atol=1e-5)
    assert torch.allclose(model.decode(z), model(x), atol=1e-5)
    # Step 0 is unbiased: no multiple of the reconstruction explains x better than the reconstruction itself.
    y = model(x)
    assert float((x * y).sum().detach() / y.square().sum().detach()) == pytest.approx(1.0, abs=1e-3)


def test_selection_takes_the_blocks_of_largest_norm():
    model = Grassmannian(16, 10, d_block=3, k=2, generator=gen())
    x = torch.randn(20, 16, generator=gen(1))
    norm = model.pre_codes(x).norm(dim=-1)
    kept = model.encode(x).norm(dim=-1)
    assert torch.equal((kept > 0), norm >= norm.topk(2, dim=1).values[:, -1:])


def test_turning_a_frame_inside_its_block_changes_nothing():
    model = Grassmannian(16, 10, d_block=3, k=4, generator=gen())
    x = torch.randn(40, 16, generator=gen(1))
    before, z = model(x), model.encode(x)
    turn = torch.linalg.qr(torch.randn(10, 3, 3, generator=gen(2)))[0]
    with torch.no_grad():
        model.frame.copy_(turn @ model.frame)
    assert torch.allclose(model(x), before, atol=1e-5)
    # z_g -> z_g Q'
    assert torch.allclose(model.encode(x), torch.einsum("ngb,gcb->ngc", z, turn), atol=1e-5)


def test_cholesky_qr_keeps_the_span_and_survives_a_singular_block():
    frames = torch.randn(6, 3, 20, generator=gen())
    frames[4, 2] = frames[4, 1]
    out = orthonormal(frames)
    gram = out.double() @ out.double().mT
    assert (gram - torch.eye(3)).abs().max() < 1e-5
    for g in (0, 3):
        # Every old row is its own projection on the new rows.
        assert torch.allclose(frames[g] @ out[g].T @ out[g], frames[g], atol=1e-4)
        assert torch.allclose(out[g, 0], frames[g, 0] / frames[g, 0].norm(), atol=1e-5)
    assert out.is_contiguous(), "fused updates and checkpoints rely on one layout"


def planted(n: int, seed: int, *, d: int = 64, n_factors: int = 16, width: int = 2, on: int = 2):
    """``on`` of ``n_factors`` planes are on in each row, each with a point of a noisy circle in it."""
    generator = gen(99)
    frames = torch.linalg.qr(torch.randn(n_factors, d, width, generator=generator))[0].mT
    generator = gen(seed)
    which = torch.rand(n, n_factors, generator=generator).topk(on, dim=1).indices
    angle = 2 * torch.pi * torch.rand(n, on, generator=generator)
    code = torch.stack([angle.cos(), angle.sin()], -1) * (1 + 0.1 * torch.randn(n, on, 1, generator=generator))
    x = torch.einsum("nsb,nsbd->nd", code, frames[which])
    return x + 0.01 * torch.randn(n, d, generator=generator), frames


def overlap(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean squared cosine of the principal angles from each true subspace to its best block."""
    return torch.einsum("fbd,gcd->fgbc", truth, orthonormal(frames)).square().sum((2, 3)).max(1).values / truth.shape[1]


@pytest.mark.parametrize(("kind", "least"), [(Grassmannian, 8), (Vanilla, 6)])
def test_planted_subspaces_are_recovered(kind, least):
    x, truth = planted(8192, 0, n_factors=10)
    model = kind(64, 32, d_block=2, k=2, generator=gen(3))
    assert overlap(model.frames().detach(), truth).max() < 0.4
    model.fit_centring(x[:, None])
    fit(model, x[:, None], training=Training(steps=400, batch=256, lr=1e-2, warmup=20))
    found = overlap(model.frames().detach(), truth)
    quality = measure(model, model.normalise(planted(2048, 1, n_factors=10)[0]))
    assert quality.r2 > 0.75 and int((found > 0.9).sum()) >= least, (quality, found)
    if kind is Grassmannian:
        assert model.frame_error() < 1e-5
    else:
        assert (model.decoder.flatten(1).norm(dim=1) <= 1 + 1e-5).all()


def test_frames_are_orthonormal_every_twenty_steps_only():
    x = torch.randn(512, 16, generator=gen())
    model = Grassmannian(16, 8, d_block=3, k=2, generator=gen(1))
    run = Run(model, x, training=Training(steps=25, batch=64, lr=1e-2, warmup=1))
    errors = []
    for i in range(25):
        run.step(i)
        errors.append(model.frame_error())
    assert errors[19] < 1e-5 < 1e-3 < errors[18]
    run.finish()
    assert model.frame_error() < 1e-5


@pytest.mark.parametrize("kind", [Grassmannian, Vanilla, JumpReLU, BatchTop, BlockPursuit])
def test_auxiliary_loss_is_the_paper_s(kind):
    """alpha E‖r - z'D‖² with z' the next k blocks among the others and alpha = 1/k (App. D)."""
    x = torch.randn(30, 16, generator=gen(1))
    plain, with_aux = (kind(16, 12, d_block=2, k=3, aux=aux, generator=gen()) for aux in ("none", "next"))
    for model in (plain, with_aux):
        model.initialise(x)
    residual = (x - with_aux(x)).detach()
    # A pursuit's next blocks are those of the residual, the others' those of x.
    a = with_aux.pre_codes(residual if kind is BlockPursuit else x).detach()
    taken = (with_aux.encode(x) != 0).any(-1)
    if kind is JumpReLU:
        taken = a.norm(dim=-1) > with_aux.log_threshold.exp() - 0.25 * with_aux.spread
    order = a.norm(dim=-1).masked_fill(taken, -1).topk(3, dim=1).indices
    z = torch.zeros_like(a).scatter(1, order[..., None].expand(-1, -1, 2), 1) * a * ~taken[..., None]
    expected = (residual - with_aux.decode(z)).square().mean() / 3
    gap = (with_aux.loss(x)[0] - plain.loss(x)[0]).detach()
    assert float(gap) == pytest.approx(float(expected.detach()), rel=1e-3)


def test_auxiliary_loss_of_the_dead_trains_them_alone():
    x = torch.randn(30, 16, generator=gen(1))
    plain, with_aux = (Grassmannian(16, 12, d_block=2, k=3, aux=aux, generator=gen()) for aux in ("none", "dead"))
    with_aux.idle[[2, 5]] = 10_000
    gradients = [torch.autograd.grad(model.loss(x)[0], model.frame)[0] for model in (plain, with_aux)]
    changed = (gradients[0] - gradients[1]).abs().amax((1, 2)) > 1e-7
    assert changed.nonzero()[:, 0].tolist() == [2, 5]


def test_auxiliary_loss_revives_dead_blocks():
    x, _ = planted(8192, 0)

    def share(aux):
        model = Grassmannian(64, 24, d_block=2, k=2, aux=aux, generator=gen(3))
        with torch.no_grad():
            # Half of the blocks lie outside the data and never win.
            model.frame[:12] = orthonormal(model.frame[:12] * torch.tensor([0.0] * 48 + [1.0] * 16))
        wide = x * torch.tensor([1.0] * 48 + [0.03] * 16)
        fit(model, wide, training=Training(steps=320, batch=128, lr=3e-3, warmup=10))
        return measure(model, wide[:4096]).dead

    assert share("dead") < share("none") - 0.2


@pytest.mark.parametrize("kind", VARIANTS)
def test_save_and_load(kind, tmp_path):
    model = kind(16, 10, d_block=3, k=4, generator=gen())
    model.fit_centring(torch.randn(30, 4, 16, generator=gen(1)))
    model.info = {"model": "tabletop-dino", "site": "tabletop-dino/3#resid_post"}
    model.eval()
    model.save_pretrained(tmp_path)
    again = Featurizer.from_pretrained(tmp_path)
    x = torch.randn(5, 4, 16, generator=gen(2))
    assert type(again) is kind and again.info == model.info
    assert torch.equal(again.encode(again.normalise(x).flatten(0, 1)), model.encode(model.normalise(x).flatten(0, 1)))
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["n_blocks"] == 10 and cfg["architecture"] == f"bsf-{kind.variant}"
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, "n_blocks": 11}))
    with pytest.raises(Corrupt):
        Featurizer.from_pretrained(tmp_path)
    with pytest.raises(NotFound):
        Featurizer.from_pretrained(tmp_path / "absent")


def test_centring_takes_a_mean_per_position_and_unit_scale():
    model = Grassmannian(16, 10, d_block=3, k=4)
    x = 3 + 5 * torch.randn(200, 4, 16, generator=gen(1)) + torch.arange(4.0)[:, None]
    model.fit_centring(x)
    y = model.normalise(x)
    assert float(y.square().sum(-1).mean()) == pytest.approx(16, rel=1e-4)
    assert y.mean(0).abs().max() < 1e-4
    assert torch.allclose(model.restore(y), x, atol=1e-3)


def test_every_variant_is_a_module_of_its_name():
    assert {kind.variant for kind in VARIANTS} == set(NAMES)
    assert all(Featurizer.of_variant(kind.variant) is kind for kind in VARIANTS)
    with pytest.raises(NotFound):
        Featurizer.of_variant("relu")


@pytest.mark.parametrize("kind", VARIANTS)
def test_ranking_in_bf16_keeps_codes_and_gradients_in_float32(kind):
    x = torch.randn(200, 16, generator=gen(1))
    model = kind(16, 24, d_block=2, k=4, generator=gen())
    model.initialise(x)
    exact = model.encode(x)
    model.ranking = torch.bfloat16
    close = model.encode(x)
    assert close.dtype == torch.float32
    both = (exact != 0).any(-1) & (close != 0).any(-1)
    assert float(both.sum()) > 0.95 * float((exact != 0).any(-1).sum())
    same = (exact != 0).any(-1).eq((close != 0).any(-1)).all(1)
    assert torch.allclose(exact[same], close[same], atol=1e-5), "the same blocks give the same codes"


def test_impossible_sizes_are_refused():
    with pytest.raises(Invalid):
        Grassmannian(16, 4, d_block=3, k=5)
    with pytest.raises(Invalid):
        GroupLasso(16, 4, d_block=3, k=2, aux="dead")


def test_a_resumed_run_sees_the_same_rows(tmp_path):
    x = torch.arange(100.0)[:, None] * torch.ones(4)
    model = Grassmannian(4, 2, d_block=2, k=1)
    whole = Run(model, x, training=Training(batch=10)).rows
    parts = Run(model, [x[:60], x[60:]], training=Training(batch=10)).rows
    for rows in (whole, parts):
        seen = torch.cat([rows.batch(i, 10)[:, 0] for i in range(10)])
        assert sorted(seen.tolist()) == sorted(x[:, 0].tolist()), "each row once an epoch"
        assert torch.equal(rows.batch(7, 10), rows.batch(7, 10))
        assert not torch.equal(rows.batch(0, 10), rows.batch(10, 10))
    # An activation store is read shard by shard and gives the same rows.
    with ActivationStore.create(tmp_path / "s", site="m/1#update", revision="r", rows_per_shard=60) as store:
        store.write(x)
    stored = Run(model, store, training=Training(batch=10)).rows
    assert stored.sizes == [60, 40] and torch.equal(stored.batch(3, 10), parts.batch(3, 10))
    assert drawn(1, 2).initial_seed() != drawn(2, 1).initial_seed()
