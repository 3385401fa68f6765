"""The atlas of blocks: what is written is what is read, examples go round, torn files are named."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from backend.core.errors import Corrupt, NotFound
from backend.featurizers import statistics
from backend.featurizers.browse import BANDS, BlockShape, Data, Layout, build_browse, label_of
from backend.featurizers.browser import BlockBrowser
from backend.featurizers.grassmannian import Grassmannian
from backend.wire.blocks import BlockDetail, BlockList
from backend.wire.frame import pack, unpack


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """Sixty-four pictures' worth of four-position activations; block 0 holds the hue as a ring at position 2."""
    patch = pytest.MonkeyPatch()
    # The map itself is tested elsewhere: UMAP compiles for many seconds.
    patch.setattr(statistics, "block_map", lambda overlap, seed=0: np.zeros((len(overlap), 2)))
    generator = torch.Generator().manual_seed(0)
    n = 400
    hue = 2 * torch.pi * torch.rand(n, generator=generator)
    model = Grassmannian(24, 6, d_block=3, k=1, generator=generator)
    x = 0.05 * torch.randn(n, 4, 24, generator=generator)
    code = torch.stack([hue.cos(), hue.sin(), 0 * hue], 1) * (0.5 + torch.rand(n, 1, generator=generator))
    x[:, 2] += code @ model.frame[0].detach()
    images = np.zeros((n, 40, 40, 3), np.uint8)
    images[..., 0] = (np.arange(n) % 256)[:, None, None]
    model.fit_centring(x)
    model.initialise(model.normalise(x).flatten(0, 1))
    folder = tmp_path_factory.mktemp("featurizers") / "planted"

    def shape(block, code, rows):
        assert len(rows) == 4 * n > len(code)
        ring = code[:, 0].std() > 0.5
        return BlockShape("ring" if ring else "none", 0.4,
                          (lambda z: np.arctan2(z[:, 1], z[:, 0]) / (2 * np.pi) % 1.0) if ring else None)  # fmt: skip

    data = Data(x, images, {"hue": hue.numpy(), "size": torch.rand(n, generator=generator).numpy()}, cyclic=("hue",),
                captions=[f"picture {i}" for i in range(n)])  # fmt: skip
    build_browse(model, data, folder, shape_of=shape, manifolds={0: "hue-ring"},
                 layout=Layout(n_bins=8, n_cloud=50, n_pool=300, thumbnail=24, min_fired=20))  # fmt: skip
    patch.undo()
    return folder, model, data


def test_the_list_says_what_each_block_holds(atlas):
    blocks = BlockBrowser(atlas[0]).blocks()
    first = next(b for b in blocks.blocks if b.index == 0)
    assert blocks.factors == ["hue", "size"] and first.topology == "ring" and first.manifold == "hue-ring"
    assert first.label == "hue ring" and first.factors["hue"] > 0.8 > 0.2 > first.factors["size"]
    assert abs(first.stable_rank - 2) < 0.3 and sum(b.energy for b in blocks.blocks) <= 1.001


def test_examples_are_laid_along_the_ring(atlas):
    folder, model, data = atlas
    detail, body = BlockBrowser(folder).detail(0)
    assert isinstance(detail, BlockDetail) and detail.antipodal == pytest.approx(0.4)
    assert {int(e.t * 8) for e in detail.examples} == set(range(8)), "every bin of t has an example"
    assert {e.band for e in detail.examples} == {"top", "p75", "p50", "p10"}
    top, p75, p50, p10 = (np.mean([e.strength for e in detail.examples if e.band == b]) for b in BANDS)
    assert top > p75 > p50 > p10
    for example in detail.examples:
        picture = Image.open(io.BytesIO(body[example.offset : example.offset + example.length]))
        assert picture.size == (24, 24) == (example.width, example.height)
        heat = np.array(example.heat)
        assert heat.shape == (2, 2) and heat[1, 0] == heat.max() > 0, "the block fires at position 2: second row, left"
        turn = np.exp(1j * (2 * np.pi * example.t - example.factors["hue"]))
        assert abs(turn - 1) < 0.5
        assert example.caption.startswith("picture ")
        number = int(example.caption.split()[1])
        assert example.factors["hue"] == pytest.approx(float(data.factors["hue"][number]), abs=0.01)
    assert len(detail.tuning["hue"]) == 24 and len(detail.spectrum) == 3


def test_what_the_page_of_a_block_shows(atlas):
    folder, model, _ = atlas
    browser = BlockBrowser(folder)
    detail, _ = browser.detail(0)
    assert detail.harmonics["hue"][0] > 0.8 > 0.05 > max(detail.harmonics["hue"][1:]), "the ring turns once"
    assert detail.harmonic_floor == pytest.approx(9.2 / 400, rel=0.01)
    fired = model.select(model.normalise(atlas[2].x).flatten(0, 1)).block.view(400, 4) == 0
    assert sum(detail.strengths) == fired.any(1).sum(), "every picture on which it fires counts once"
    assert detail.bands["top"] > detail.bands["p75"] > detail.bands["p50"] > detail.bands["p10"] > 0
    for example in detail.examples:
        heat, turn = np.array(example.heat), np.array(example.turn)
        assert turn.shape == heat.shape and not turn[heat == 0].any()
        assert heat.max() == pytest.approx(example.strength, abs=0.005), "one scale for map and picture"
    assert detail.bits is not None and detail.bits > 1
    assert detail.overlap == sorted(detail.overlap, reverse=True) and len(detail.overlap) == len(detail.neighbours)


def test_bits_grow_with_the_spread_of_a_block(atlas):
    listed = {b.index: b for b in BlockBrowser(atlas[0]).blocks().blocks}
    assert listed[0].bits == max(b.bits for b in listed.values()), "the planted ring is what most bits go into"


def test_the_list_is_kept_as_it_is_sent(atlas):
    browser = BlockBrowser(atlas[0])
    assert browser.blocks_json is browser.blocks_json
    found = BlockList.model_validate_json(browser.blocks_json)
    assert found == browser.blocks() and all(b.graph_xy for b in found.blocks)
    known = {b.index for b in found.blocks}
    assert all(i in known and j in known and 0 < w <= 1 for i, j, w in found.edges)
    assert 0 in browser and 999 not in browser and browser.usual(0) > 0 and browser.usual(999) is None


def test_unions_come_from_the_card(atlas, tmp_path):
    for path in atlas[0].glob("browse*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    held = {"single": 0.5, "union": 0.8, "union_blocks": [0, 1], "all": 0.9}
    card = {"factors": {"hue": held, "yaw": {**held, "union_blocks": [0]}, "size": {**held, "union_blocks": [0, 999]}}}
    (tmp_path / "card.json").write_text(json.dumps(card))
    browser = BlockBrowser(tmp_path)
    assert [(u.factor, u.blocks, u.r2) for u in browser.blocks().unions] == [("hue", [0, 1], 0.8)]
    assert {u.factor for u in browser.detail(0)[0].unions} == {"hue", "size"}


def test_an_atlas_of_the_first_format_is_still_read(atlas, tmp_path):
    folder = atlas[0]
    about = json.loads((folder / "browse.json").read_text())
    whole = load_file(folder / "browse.safetensors")
    parts = {"factors": whole["factors"]}
    for row, block in enumerate(about["blocks"]):
        for key, of in (("xyz", "start"), ("t", "start"), ("picture", "start"), ("heat", "first")):
            first, last = whole[of][row : row + 2]
            parts[f"{block['index']}.{key}"] = np.ascontiguousarray(whole[key][first:last])
    about["format"] = 1
    for key in ("edges", "harmonic_floor", "usual"):
        del about[key]
    for block, detail in zip(about["blocks"], about["details"]):
        del block["graph_xy"], block["bits"]
        for key in ("overlap", "harmonics", "strengths", "bands", "origin"):
            del detail[key]
    (tmp_path / "browse.json").write_text(json.dumps(about))
    save_file(parts, tmp_path / "browse.safetensors")
    (tmp_path / "browse.webp.bin").write_bytes((folder / "browse.webp.bin").read_bytes())
    old, new = BlockBrowser(tmp_path), BlockBrowser(folder)
    detail, body = old.detail(0)
    assert body == new.detail(0)[1] and detail.bits is None and detail.examples[0].turn == []
    header, cloud = old.cloud(0)
    assert header.columns == ["t", "hue", "size"] and cloud[: header.n * 6] == new.cloud(0)[1][: header.n * 6]
    assert old.axes(0) is None and old.usual(0) is None and old.blocks().edges == []


def test_the_cloud_travels_as_half_floats(atlas):
    header, body = BlockBrowser(atlas[0]).cloud(0, n=40)
    assert header.n == 40 and header.columns == ["t", "strength", "hue", "size"] and len(body) == 40 * 2 * (3 + 4)
    numbers = np.frombuffer(body, "<f2")
    xyz, t, hue = numbers[:120].reshape(40, 3), numbers[120:160], numbers[200:240]
    turn = np.exp(2j * np.pi * t.astype(float) - 1j * hue.astype(float))
    assert np.abs(xyz).max() <= 1 and np.median(np.abs(turn - 1)) < 0.2
    head, blob = unpack(pack(header.model_dump(), [body]))
    assert head["columns"] == header.columns and bytes(blob) == body


def test_unknown_blocks_and_torn_files_are_named(atlas, tmp_path):
    folder = atlas[0]
    with pytest.raises(NotFound):
        BlockBrowser(folder).detail(999)
    with pytest.raises(NotFound):
        BlockBrowser(tmp_path)
    for name in ("browse.json", "browse.safetensors", "browse.webp.bin"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    BlockBrowser(tmp_path)
    (tmp_path / "browse.webp.bin").write_bytes(b"cut")
    with pytest.raises(Corrupt):
        BlockBrowser(tmp_path)
    about = json.loads((tmp_path / "browse.json").read_text())
    del about["factors"]
    (tmp_path / "browse.json").write_text(json.dumps(about))
    with pytest.raises(Corrupt):
        BlockBrowser(tmp_path).blocks()
        BlockBrowser(tmp_path).factors  # noqa: B018


def test_labels_are_short_and_honest():
    assert label_of(17, {"hue": 0.7, "size": 0.1}, "ring") == "hue ring"
    assert label_of(17, {"hue": 0.7}, "ring of directions") == "hue"
    assert label_of(17, {"light_azimuth": 0.3}, "none") == "partly light azimuth"
    assert label_of(17, {"hue": 0.1}, "ring") == "block 17" == label_of(17, {}, "none")
