"""The folder on disk: what is saved comes back, and broken files are named."""

import json

import pytest
import torch

from backend.core.errors import Corrupt, NotFound
from backend.manifolds.store import load_manifold, read_manifold, save_manifold
from backend.server.disk_shelves import ManifoldShelf


@pytest.mark.parametrize("how", [{}, {"n_tokens": 4}, {"bins": [0.3, 0.6, 1.0], "n_tokens": 4},
                                 {"sites": ("toy/1#update", "toy/2#update")}])  # fmt: skip
def test_what_is_saved_comes_back(make, tmp_path, how):
    made = make(**how)
    back = read_manifold(save_manifold(made, tmp_path / "m"))
    assert back.info == made.info and back.measured == {"a": 1}
    time = 0.5 if how.get("bins") else None
    for site in made.sites:
        assert torch.equal(back.targets(site, 0.31, time=time), made.targets(site, 0.31, time=time))
        assert torch.equal(back.full_targets(site, 0.31, time=time), made.full_targets(site, 0.31, time=time))
    assert back.curves() == made.curves()
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["manifold.json", "manifold.safetensors"]


def test_the_shelf_lists_shipped_and_own_and_skips_the_broken(make, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    save_manifold(make(name="one"), tmp_path / "assets" / "manifolds" / "one")
    save_manifold(make(name="two"), tmp_path / "home" / "manifolds" / "two")
    broken = save_manifold(make(name="three"), tmp_path / "assets" / "manifolds" / "three")
    about = json.loads((broken / "manifold.json").read_text())
    about["entries"]["toy/8#update"] = {}
    (broken / "manifold.json").write_text(json.dumps(about))
    infos, skipped = ManifoldShelf().infos()
    assert [info.name for info in infos] == ["one", "two"]
    assert len(skipped) == 1 and skipped[0].startswith("three")
    with pytest.raises(Corrupt):
        load_manifold("three")
    with pytest.raises(NotFound, match="one"):
        load_manifold("four")
    (broken / "manifold.safetensors").write_bytes(b"no tensors")
    with pytest.raises(Corrupt):
        load_manifold("three")
