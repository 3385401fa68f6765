"""Centring: E‖x‖² = d afterwards, exactly invertible, and consistent with the codes an intervention sets."""

import pytest
import torch

from backend.activations.centring import Centring
from backend.core.errors import Corrupt, Invalid


def planted(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1e4 + 3 * torch.randn(50, 6, 8, generator=generator) + torch.arange(6.0)[:, None] * 10


@pytest.mark.parametrize("per_token", [False, True])
def test_the_mean_norm_is_the_width_even_far_from_the_origin(per_token):
    x = planted()
    centring = Centring.fit(x, per_token=per_token)
    y = centring.apply(x.double())
    assert centring.mean.shape == ((6, 8) if per_token else (1, 8))
    assert abs(float(y.square().sum(-1).mean()) - 8) < 1e-3
    assert torch.allclose(y.mean(0 if per_token else (0, 1)), torch.zeros(1, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(centring.undo(y), x.double(), atol=1e-6)
    # The positions move by 10 each: only a mean per token removes that from the scale.
    assert (centring.scale < 3.2) == per_token


def test_a_stream_gives_what_the_whole_gives():
    x = planted()
    whole, stream = Centring.fit(x), Centring.fit(iter(x.split([1, 19, 30])))
    assert torch.allclose(whole.mean, stream.mean) and abs(whole.scale - stream.scale) < 1e-6


def test_the_identity_and_what_cannot_be_centred():
    x = planted()
    assert torch.equal(Centring(torch.zeros(1, 8), 1.0).apply(x), x)
    with pytest.raises(Invalid):
        Centring.fit([])
    with pytest.raises(Invalid, match="vary"):
        Centring.fit(torch.ones(4, 8))


def test_codes_of_the_centred_space_as_the_model_sees_them():
    x = planted()
    centring = Centring.fit(x)
    frame = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(1)))[0]
    z = centring.apply(x[0]) @ frame
    assert torch.allclose(centring.codes_in_model(z, frame), x[0] @ frame, rtol=1e-5)


def test_saved_and_read_back(tmp_path):
    centring = Centring.fit(planted())
    centring.save(tmp_path / "c.safetensors")
    again = Centring.load(tmp_path / "c.safetensors")
    assert torch.equal(again.mean, centring.mean) and again.scale == centring.scale
    (tmp_path / "c.safetensors").write_bytes(b"no")
    with pytest.raises(Corrupt, match="c.safetensors"):
        Centring.load(tmp_path / "c.safetensors")
