"""The sharded store: what goes in comes out, by row, by shard, in batches; a broken shard names itself."""

import json

import pytest
import torch

from backend.activations.store import ActivationStore
from backend.core.errors import Corrupt, Invalid, NotFound


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(25, 3, 4, generator=generator), torch.arange(25)


@pytest.fixture
def store(tmp_path, data):
    x, number = data
    where = {"site": "m/5#resid_post", "revision": "r1", "data": "d1"}
    with ActivationStore.create(tmp_path / "s", **where, rows_per_shard=10) as s:
        for start in range(0, 25, 7):
            s.write(x[start : start + 7], {"number": number[start : start + 7], "pair": x[start : start + 7, 0, :2]})
    return ActivationStore(s.folder)


def test_rows_and_labels_come_back_in_the_order_asked_for(store, data):
    x, _ = data
    assert (store.n_rows, store.n_shards, store.shape) == (25, 3, (3, 4))
    index = [24, 0, 11, 11, 9, 10, -1]
    got = store.read(index)
    assert torch.equal(got.x, x[index])
    assert got.labels["number"].tolist() == [24, 0, 11, 11, 9, 10, 24]
    assert torch.equal(got.labels["pair"], x[index, 0, :2])
    assert (got.site, got.revision, got.data) == ("m/5#resid_post", "r1", "d1")
    assert torch.equal(store.read().x, x)
    assert torch.equal(store.read(slice(3, 20, 5)).x, x[3:20:5])
    with pytest.raises(Invalid, match="25"):
        store.read([25])


def test_shards_stream_and_hold_one_shard_each(store, data):
    parts = [shard.x for shard in store.shards()]
    assert [len(p) for p in parts] == [10, 10, 5]
    assert torch.equal(torch.cat(parts), data[0])


def test_batches_see_every_token_once_shuffled_by_the_generator_alone(store, data):
    tokens = data[0].flatten(0, 1)
    plain = list(store.batches(16))
    assert torch.equal(torch.cat(plain), tokens) and {len(b) for b in plain[:-1]} == {16}
    seeded = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    one, two, other = (torch.cat(list(store.batches(16, generator=generator))) for generator in seeded)
    assert torch.equal(one, two) and not torch.equal(one, other) and not torch.equal(one, tokens)
    assert torch.equal(one.sort(0).values, tokens.sort(0).values)


@pytest.mark.parametrize("harm", ["flip", "cut", "missing"])
def test_a_broken_shard_names_itself_and_the_others_stay_readable(store, data, harm):
    path = store.folder / "shard-00001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 255
    path.unlink() if harm == "missing" else path.write_bytes(raw if harm == "flip" else raw[:-8])
    store = ActivationStore(store.folder)
    with pytest.raises(Corrupt, match=r"shard-00001\.safetensors"):
        store.shard(1)
    with pytest.raises(Corrupt, match=r"shard-00001\.safetensors"):
        list(store.shards())
    skipped = []
    assert torch.equal(torch.cat([s.x for s in store.shards(skipped=skipped)]), torch.cat([data[0][:10], data[0][20:]]))
    assert len(skipped) == 1 and "shard-00001" in str(skipped[0])
    assert torch.equal(store.read([0, 24]).x, data[0][[0, 24]])


def test_a_folder_that_is_no_store_and_a_broken_meta(tmp_path, store):
    with pytest.raises(NotFound):
        ActivationStore(tmp_path / "nothing")
    (store.folder / "meta.json").write_text("{")
    with pytest.raises(Corrupt, match=r"meta\.json"):
        ActivationStore(store.folder)


def test_what_does_not_belong_is_not_written(store, data):
    x, number = data
    with pytest.raises(Invalid):
        store.write(x[:, :2], {"number": number, "pair": x[:, 0, :2]})
    with pytest.raises(Invalid):
        store.write(x, {"number": number})
    with pytest.raises(Invalid, match="finite"):
        store.write(x * torch.inf, {"number": number, "pair": x[:, 0, :2]})
    with pytest.raises(Invalid):
        ActivationStore.create(store.folder, site="m/5", revision="r")
    assert store.n_rows == 25


def test_a_store_can_be_continued(store, data):
    x, number = data
    with store:
        store.write(x, {"number": number, "pair": x[:, 0, :2]})
    assert torch.equal(ActivationStore(store.folder).read().x, torch.cat([x, x]))


def test_half_precision_is_kept_and_no_pickle_is_on_disk(tmp_path, data):
    with ActivationStore.create(tmp_path / "h", site="m/5", revision="r", dtype="bfloat16") as store:
        store.write(data[0])
    assert store.read([3]).x.dtype == torch.bfloat16
    assert {p.suffix for p in store.folder.iterdir()} == {".json", ".safetensors"}
    assert json.loads((store.folder / "meta.json").read_text())["shards"][0]["rows"] == 25


def test_centring_is_fitted_by_streaming_and_travels_with_what_is_read(store, data):
    fitted = store.fit_centring()
    x = store.read().centring.apply(data[0])
    assert torch.allclose(x.mean((0, 1)), torch.zeros(4), atol=1e-5)
    assert abs(float(x.square().sum(-1).mean()) - 4) < 1e-4
    assert fitted.scale == store.centring.scale
