"""Hub upload with a fake hub; SAELens files read back, and read by the rules of SAELens written out here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.core.errors import Corrupt, NotFound, Refused
from backend.featurizers.featurizer import VARIANTS, Featurizer
from backend.featurizers.sharing import export_saelens, import_saelens, push_to_hub

G, D, K = 20, 12, 3


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(variant: str, d_block: int) -> Featurizer:
    model = Featurizer.of_variant(variant)(D, G, d_block=d_block, k=K, generator=gen())
    x = 3 + 2 * torch.randn(400, 1, D, generator=gen(1))
    model.fit_centring(x)
    model.initialise(model.normalise(x)[:, 0])
    with torch.no_grad():
        for p in (getattr(model, name, None) for name in ("bias", "encoder")):
            if p is not None:
                p.add_(0.05 * torch.randn(p.shape, generator=gen(2)))
    model.info = {"model": "tabletop-dino", "site": "tabletop-dino/3#resid_post", "title": "Test"}
    return model.eval()


def raw(n: int = 60) -> torch.Tensor:
    return 3 + 2 * torch.randn(n, D, generator=gen(7))


def as_saelens(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Reconstruction by the definitions of SAELens 6: standard, jumprelu and abstopk."""
    cfg, t = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    h = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    if cfg["architecture"] == "standard":
        z = h.relu()
    elif cfg["architecture"] == "jumprelu":
        z = h.relu() * (h > t["threshold"])
    else:
        index = h.abs().topk(cfg["k"], dim=-1).indices
        z = torch.zeros_like(h).scatter(-1, index, h.gather(-1, index))
    return z @ t["W_dec"] + t["b_dec"]


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "pursuit"])
def test_directions_mean_the_same_to_saelens(variant, tmp_path):
    model, x = made(variant, 1), raw()
    export_saelens(model, tmp_path)
    ours = model.restore(model(model.normalise(x)))
    assert torch.allclose(as_saelens(tmp_path, x), ours, atol=1e-4)
    again = import_saelens(tmp_path)
    assert again.variant == variant and again.info == model.info
    assert torch.allclose(again.encode(again.normalise(x)), model.encode(model.normalise(x)), atol=1e-4)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["metadata"]["sae_lens_version"] >= "6", "older versions are read by other rules"
    expected = {"W_enc", "b_enc", "W_dec", "b_dec"} | ({"threshold"} if cfg["architecture"] == "jumprelu" else set())
    assert set(load_file(tmp_path / "sae_weights.safetensors")) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_come_back_as_they_were(variant, tmp_path):
    model, x = made(variant, 3), raw()
    again = import_saelens(export_saelens(model, tmp_path))
    assert again.config() == model.config()
    assert torch.allclose(again.encode(again.normalise(x)), model.encode(model.normalise(x)), atol=1e-4)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert (cfg["d_sae"], cfg["k"], cfg["architecture"]) == (3 * G, 3 * K, "abstopk")
    assert cfg["metadata"]["block_sparse"]["exact"] is False


def test_what_saelens_cannot_hold_is_refused(tmp_path):
    model = made("vanilla", 2)
    model.fit_centring(torch.randn(50, 4, D, generator=gen(1)))
    with pytest.raises(Refused, match="4 centres"):
        export_saelens(model, tmp_path)
    with pytest.raises(Refused, match="jointly"):
        export_saelens(made("pursuit", 1), tmp_path)


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_an_autoencoder_of_others(tmp_path, apply_b_dec, rescale):
    g = gen(3)
    t = {"W_enc": torch.randn(D, G, generator=g), "b_enc": torch.randn(G, generator=g),
         "W_dec": torch.randn(G, D, generator=g), "b_dec": torch.randn(D, generator=g)}  # fmt: skip
    save_file(t, tmp_path / "sae_weights.safetensors")
    cfg = {"architecture": "abstopk", "d_in": D, "d_sae": G, "k": K, "apply_b_dec_to_input": apply_b_dec,
           "rescale_acts_by_decoder_norm": rescale, "metadata": {"model_name": "m"}}  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    x = raw()
    h = (x - t["b_dec"] * apply_b_dec) @ t["W_enc"] + t["b_enc"]
    norm = t["W_dec"].norm(dim=-1) if rescale else torch.ones(G)
    h = h * norm
    index = h.abs().topk(K, dim=-1).indices
    z = torch.zeros_like(h).scatter(-1, index, h.gather(-1, index))
    model = import_saelens(tmp_path)
    assert torch.allclose(model.encode(model.normalise(x))[..., 0], z, atol=1e-4)
    assert torch.allclose(model.restore(model(model.normalise(x))), z / norm @ t["W_dec"] + t["b_dec"], atol=1e-4)
    assert model.info == {"model": "m"}
    for wrong in ({"architecture": "topk"}, {"normalize_activations": "layer_norm"}):
        (tmp_path / "cfg.json").write_text(json.dumps(cfg | wrong))
        with pytest.raises(Refused):
            import_saelens(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "abstopk"}))
    with pytest.raises(Corrupt):
        import_saelens(tmp_path)
    with pytest.raises(NotFound):
        import_saelens(tmp_path / "absent")


def test_push_to_hub_uploads_what_from_pretrained_reads(tmp_path):
    class Hub:
        def create_repo(self, repo_id, **kwargs):
            self.repo = (repo_id, kwargs["private"], kwargs["exist_ok"])

        def upload_folder(self, *, repo_id, folder_path, **kwargs):
            self.model = Featurizer.from_pretrained(folder_path)
            self.other = import_saelens(Path(folder_path) / "saelens")
            self.files = sorted(p.name for p in Path(folder_path).iterdir())
            self.card = (Path(folder_path) / "README.md").read_text()
            return f"hub/{repo_id}"

    hub, model = Hub(), made("grassmannian", 3)
    assert push_to_hub(model, "me/blocks", api=hub, private=True, saelens=True) == "hub/me/blocks"
    assert hub.repo == ("me/blocks", True, True)
    assert hub.files == ["README.md", "cfg.json", "featurizer.safetensors", "saelens"]
    x = model.normalise(raw())
    assert torch.equal(hub.model.encode(x), model.encode(x))
    assert torch.allclose(hub.other.encode(x), model.encode(x), atol=1e-4)
    assert "tabletop-dino/3#resid_post" in hub.card
