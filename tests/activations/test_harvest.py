"""Harvesting: the activations are the model's own, labelled, digested, and a site that never runs is an error."""

import pytest
import torch

from backend.activations.harvest import data_digest, harvest, harvest_into
from backend.core.errors import Refused
from backend.models.language import TextAdapter
from backend.models.random_weights import tiny_llama

BATCHES = list(torch.arange(40).reshape(4, 2, 5))


@pytest.fixture
def llama() -> TextAdapter:
    return TextAdapter(tiny_llama(), name="tiny")


def run(adapter):
    return lambda ids: adapter.model(ids)


def test_sites_say_what_the_library_records(llama):
    sites = ["0#resid_pre", "1#resid_post", "1#update", "1#resid_pre"]
    for got in harvest(llama, sites, BATCHES[:1], run(llama)):
        with torch.no_grad():
            hidden = llama.model(got.batch, output_hidden_states=True).hidden_states
        assert torch.equal(got.x["tiny/0#resid_pre"], hidden[0])
        assert torch.equal(got.x["tiny/1#resid_post"], hidden[2])
        assert torch.equal(got.x["tiny/1#update"], hidden[2] - hidden[1])
        assert torch.equal(got.x["tiny/1#resid_pre"], hidden[1])
        assert not got.x["tiny/1#update"].requires_grad


def test_sublayers_add_up_to_the_update(llama):
    sites = ["1#attn_out", "1#mlp_out", "1#update"]
    got = next(harvest(llama, sites, BATCHES, run(llama)))
    parts = got.x["tiny/1#attn_out"] + got.x["tiny/1#mlp_out"]
    assert torch.allclose(parts, got.x["tiny/1#update"], atol=1e-6)


def test_one_store_per_site_with_labels_and_provenance(llama, tmp_path):
    seen = []
    stores = harvest_into(
        tmp_path, llama, ["0", "2#mlp_out"], BATCHES, run(llama), rows_per_shard=3,
        labels=lambda ids: {"first": ids[:, 0]}, select=lambda x: x[:, -1:], progress=seen.append,
    )  # fmt: skip
    store = stores["tiny/2#mlp_out"]
    assert store.n_rows == 8 and store.n_shards == 3 and store.shape == (1, 32) and seen == [2, 4, 6, 8]
    assert store.read().labels["first"].tolist() == [i * 5 for i in range(8)]
    assert store.read([0]).revision == llama.revision
    assert store.read([0]).data == data_digest(BATCHES) != data_digest(BATCHES[:3])
    with torch.no_grad():
        expected = llama.model(BATCHES[3], output_hidden_states=True).hidden_states[1][:, -1:]
    assert torch.allclose(stores["tiny/0#resid_post"].read([6, 7]).x, expected, atol=1e-6)


def test_several_calls_a_batch_are_counted(llama, tmp_path):
    def twice(ids):
        llama.model(ids)
        llama.model(ids.flip(1))

    store = harvest_into(tmp_path, llama, ["0"], BATCHES[:2], twice, labels=lambda ids: {"first": ids[:, 0]})
    got = store["tiny/0#resid_post"].read()
    assert got.labels["call"].tolist() == [0, 0, 1, 1] * 2
    assert got.labels["first"].tolist() == [0, 5, 0, 5, 10, 15, 10, 15]


def test_a_site_that_is_never_reached_is_an_error(llama):
    with pytest.raises(Refused, match="never reached"):
        next(harvest(llama, ["2"], BATCHES, lambda ids: llama.model.model.layers[0]))
    with pytest.raises(Refused, match="tiny/2#resid_post"):
        next(harvest(llama, ["9"], BATCHES, run(llama)))
