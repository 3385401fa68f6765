"""Description length against closed forms, and its pitfalls: gauge, floor, varying k."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from backend.core.errors import Invalid
from backend.featurizers.description import (
    CodeMoments,
    dictionary_bits,
    log2_choose,
    rate_bits,
    selection_bits,
)
from backend.featurizers.grassmannian import Grassmannian
from backend.featurizers.group_lasso import GroupLasso
from backend.featurizers.vanilla import Vanilla

SPREAD = torch.tensor([2.0, 0.5])


def planted(n=20_000, *, noise=0.1, seed=0):
    """Rows of an orthonormal dictionary of 4 blocks of 2 in 10 dimensions, one block active a row."""
    generator = torch.Generator().manual_seed(seed)
    block = torch.randint(4, (n,), generator=generator)
    code = torch.randn(n, 2, generator=generator) * SPREAD
    x = noise * torch.randn(n, 10, generator=generator)
    for j in range(2):
        x[torch.arange(n), 2 * block + j] += code[:, j]
    featurizer = Grassmannian(10, 4, d_block=2, k=1)
    with torch.no_grad():
        featurizer.frame.copy_(torch.eye(10)[:8].view(4, 2, 10))
        featurizer.log_gain.zero_()
    return featurizer, x


def test_numbers_of_the_digest():
    assert log2_choose(32768, 16) == pytest.approx(196, abs=0.5)
    assert log2_choose(98304, 48) == pytest.approx(593, abs=1)
    assert log2_choose(256, 8) == pytest.approx(48.5, abs=0.1)
    assert dictionary_bits(32768, 3, 768, 25_000_000) == pytest.approx(37, abs=0.5)
    assert dictionary_bits(256, 3, 768, 58_800) == pytest.approx(79, abs=0.5)
    assert dictionary_bits(256, 1, 768, 58_800) == pytest.approx(26.5, abs=0.1)


def test_rates():
    floor = np.full(768, 0.2)
    assert rate_bits(floor, 0.2) == pytest.approx(384) and rate_bits(floor, 0.2, "clipped") == 0
    assert rate_bits(np.array([4.0, 0.1]), 1.0, "clipped") == pytest.approx(1.0)
    assert rate_bits(np.array([[3.0], [15.0]]), 1.0).tolist() == pytest.approx([1.0, 2.0])
    with pytest.raises(Invalid, match="distortion"):
        rate_bits(floor, 0.0)


def test_a_varying_k_pays_for_itself():
    assert selection_bits(np.array([0, 0, 10]), 100) == pytest.approx(math.log2(4950))
    both = selection_bits(np.array([0, 5, 5]), 100)
    assert both == pytest.approx((math.log2(100) + math.log2(4950)) / 2 + 1)
    # The mean's own cost is not the mean cost: log2 C is concave in K.
    far = np.zeros(41)
    far[[0, 40]] = 5
    assert selection_bits(far, 100) < float(log2_choose(100, 20))


def test_planted_gaussian_codes_cost_their_closed_form():
    featurizer, x = planted(noise=0.02)
    moments = CodeMoments.of(featurizer, x)
    assert moments.mean_active == 1 and moments.dead == 0 and moments.r2 > 0.99
    for space in ("code", "contribution"):
        assert np.allclose(moments.spectrum(space), SPREAD.numpy() ** 2, rtol=0.06)
    bits = moments.bits(n_train=1000, var_ref=0.5, share=0.2)
    delta = 0.1
    assert bits.delta == pytest.approx(delta) and bits.selection == pytest.approx(2.0)
    assert bits.code == pytest.approx(float(0.5 * torch.log2(1 + SPREAD**2 / delta).sum()), rel=0.02)
    # Eight dimensions lose the noise to the block in a quarter of the rows, two never.
    noise = np.array([0.02**2 * 0.75] * 8 + [0.02**2] * 2)
    assert bits.residual == pytest.approx(float(0.5 * np.log2(1 + noise / delta).sum()), rel=0.05)
    assert bits.dictionary == pytest.approx(0.5 * 4 * 2 * 8 / 1000 * math.log2(1000))
    assert bits.total == pytest.approx(bits.selection + bits.code + bits.residual + bits.dictionary)
    clipped = moments.bits(n_train=1000, var_ref=0.5, share=0.2, rate="clipped")
    assert clipped.residual == 0 and clipped.code < bits.code


def test_the_scale_of_a_frame_changes_code_bits_but_not_contribution_bits():
    truth, x = planted()
    scaled = Vanilla(10, 4, d_block=2, k=1)
    with torch.no_grad():
        scaled.decoder.copy_(truth.frame / 2**0.5)
        scaled.encoder.copy_(truth.frame.flatten(0, 1) * 2**0.5)
    kwargs = dict(n_train=1000, var_ref=1.0)
    one, other = CodeMoments.of(truth, x), CodeMoments.of(scaled, x)
    assert other.bits(**kwargs).code == pytest.approx(one.bits(**kwargs).code, rel=1e-5)
    assert np.allclose(other.spectrum("code"), 2 * one.spectrum("code"), rtol=1e-5)
    assert other.bits(**kwargs, space="code").code > one.bits(**kwargs, space="code").code + 0.3
    # Turning a block inside its subspace changes nothing at all.
    turn = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))[0]
    turned, _ = planted()
    with torch.no_grad():
        turned.frame.copy_(turn @ turned.frame)
    for space in ("code", "contribution"):
        assert CodeMoments.of(turned, x).bits(**kwargs, space=space).total == pytest.approx(
            one.bits(**kwargs, space=space).total, rel=1e-5)  # fmt: skip


def test_a_mean_counts_only_when_it_is_not_taken_out():
    featurizer, x = planted()
    moved = x.clone()
    moved[:, :8:2] = moved[:, :8:2].abs()
    moments = CodeMoments.of(featurizer, moved)
    raw, centred = moments.spectrum(centred=False)[:, 0], moments.spectrum()[:, 0]
    # |Gaussian| keeps 1 - 2/π of its second moment as variance.
    assert np.allclose(centred / raw, 1 - 2 / math.pi, atol=0.03)


def test_ranks_of_planted_spectra():
    featurizer, x = planted(noise=0.0)
    found = CodeMoments.of(featurizer, x).ranks()
    assert found["block"].tolist() == [0, 1, 2, 3]
    # Spectrum 4, 1/4.
    assert np.allclose(found["stable_rank"], 1.0625, atol=0.01)
    assert np.allclose(found["stable_rank_squared"], 1 + 1 / 256, atol=0.002)
    assert np.allclose(found["participation_ratio"], 4.25**2 / (16 + 1 / 16), rtol=0.02)
    assert np.allclose(found["utilisation"], found["effective_rank"] / 2)


def test_thresholded_featurizers_vary_in_k():
    featurizer = GroupLasso(10, 4, d_block=2, k=1, generator=torch.Generator().manual_seed(0))
    x = planted(500)[1]
    featurizer.initialise(x)
    moments = CodeMoments.of(featurizer, x)
    assert (moments.histogram > 0).sum() > 1 and moments.histogram.sum() == 500
    assert moments.bits(n_train=1, var_ref=1.0).selection != pytest.approx(float(log2_choose(4, moments.mean_active)))
    with pytest.raises(Invalid, match="rows"):
        CodeMoments.of(featurizer, x[:1])
