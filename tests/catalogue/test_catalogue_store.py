"""The catalogue: what is written can be read, what is broken is named and costs one entry."""

from __future__ import annotations

import json

import pytest

from backend.catalogue.store import Catalogue, file_stem
from backend.core.errors import Invalid, NotFound
from backend.wire.findings import Finding


def finding(name: str = "toy/one", value: float | None = 0.5) -> Finding:
    return Finding(id=name, claim="It is so.", value=value, low=0.4, high=0.6, n=10, controls={"random": 0.1})


def test_a_finding_survives_the_disk(tmp_path):
    store = Catalogue(tmp_path)
    path = store.save_finding(finding(), root=tmp_path)
    assert path.name == "toy--one.json"
    assert store.findings() == [finding()] and store.finding("toy/one") == finding()
    assert not list(tmp_path.rglob("*.new"))


def test_the_users_own_wins(tmp_path):
    ships, own = tmp_path / "ships", tmp_path / "own"
    store = Catalogue(ships, own)
    store.save_finding(finding(value=0.5), root=ships)
    store.save_finding(finding("toy/two"), root=ships)
    store.save_finding(finding(value=0.7), root=own)
    assert {f.id: f.value for f in store.findings()} == {"toy/one": 0.7, "toy/two": 0.5}


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"id": "toy/bad"}', '{"id": "toy/bad", "claim": 3}'])
def test_a_corrupt_finding_is_named_and_skipped(tmp_path, broken):
    store = Catalogue(tmp_path)
    store.save_finding(finding(), root=tmp_path)
    (tmp_path / "catalogue" / "findings" / "toy--bad.json").write_text(broken)
    message = store.message()
    assert [f.id for f in message.findings] == ["toy/one"]
    assert len(message.skipped) == 1 and "toy--bad.json" in message.skipped[0]
    # Reading again does not report it twice.
    assert len(store.message().skipped) == 1


def test_a_finding_in_the_wrong_file_is_skipped(tmp_path):
    store = Catalogue(tmp_path)
    path = store.save_finding(finding(), root=tmp_path)
    path.rename(path.with_name("toy--other.json"))
    assert store.findings() == [] and "toy/one" in store.skipped[0]


def test_unknown_findings_name_their_neighbours(tmp_path):
    store = Catalogue(tmp_path)
    store.save_finding(finding(), root=tmp_path)
    with pytest.raises(NotFound, match="toy/one"):
        store.finding("toy/none")


@pytest.mark.parametrize("name", ["plain", "A/b", "a/b/c", "../x/y", "a b/c", "a/", "/b", "a/b--c"])
def test_ids_of_another_form_are_refused(name):
    with pytest.raises(Invalid):
        file_stem(name)


def test_an_empty_collection_is_empty(tmp_path):
    assert Catalogue(tmp_path).message().model_dump() == {"cards": [], "findings": [], "skipped": []}


def entry(root, kind, name, card):
    folder = root / kind / name
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(card if isinstance(card, str) else json.dumps(card))
    return folder


def test_cards_of_every_kind_and_shape(tmp_path):
    folder = entry(
        tmp_path, "models", "reader",
        {"name": "reader", "kind": "reader", "license": "apache-2.0", "parameters": 12, "sites": ["a"],
         "gates": [{"name": "accuracy", "value": 0.99, "aim": ">= 0.98", "passed": True}], "quality": {"n": 5}},
    )  # fmt: skip
    (folder / "README.md").write_text("# Reader\n\nReads pictures,\nquickly.\n\n| a | b |\n")
    entry(tmp_path, "models", "llama", {"title": "Llama"})
    entry(tmp_path, "featurizers", "blocks", {"title": "Blocks", "gates": [{"name": "r2", "value": 0.8}]})
    (tmp_path / "models" / "unfinished").mkdir()
    (tmp_path / "catalogue" / "cards").mkdir(parents=True)
    (tmp_path / "catalogue" / "cards" / "curves.json").write_text('{"title": "Curves", "facts": {"size": 64}}')
    cards = {c.name: c for c in Catalogue(tmp_path).cards()}
    assert {n: c.kind for n, c in cards.items()} == {
        "reader": "model", "llama": "model", "blocks": "featurizer", "curves": "dataset"
    }  # fmt: skip
    reader = cards["reader"]
    assert reader.summary == "Reads pictures, quickly." and reader.licence == "Apache-2.0"
    assert reader.facts == {"parameters": 12}
    assert reader.gates == [{"name": "accuracy", "value": 0.99, "aim": ">= 0.98", "passed": True}]
    assert cards["llama"].gates == []
    assert cards["blocks"].gates == [{"name": "r2", "value": 0.8}]


def test_a_corrupt_card_is_named_and_skipped(tmp_path):
    entry(tmp_path, "models", "good", {"name": "good"})
    entry(tmp_path, "models", "bad", "{")
    entry(tmp_path, "models", "worse", "[1]")
    store = Catalogue(tmp_path)
    assert [c.name for c in store.cards()] == ["good"]
    assert len(store.skipped) == 2 and "models/bad" in store.skipped[0]


def test_what_ships_can_be_read():
    from backend.core.settings import assets_dir

    assert Catalogue(assets_dir()).message().skipped == []
