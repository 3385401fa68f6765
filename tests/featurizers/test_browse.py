"""The atlas of blocks: what is written is what is read, examples go round, torn files are named."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from backend.core.errors import Corrupt, NotFound
from backend.featurizers import statistics
from backend.featurizers.browse import BANDS, BlockBrowser, BlockShape, Data, Layout, build_browse, label_of
from backend.featurizers.grassmannian import Grassmannian
from backend.wire.blocks import BlockDetail
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


def test_the_cloud_travels_as_half_floats(atlas):
    header, body = BlockBrowser(atlas[0]).cloud(0, n=40)
    assert header.n == 40 and header.columns == ["t", "hue", "size"] and len(body) == 40 * 2 * (3 + 3)
    numbers = np.frombuffer(body, "<f2")
    xyz, t, hue = numbers[:120].reshape(40, 3), numbers[120:160], numbers[160:200]
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
