"""Own text and own picture through the route: blocks of the model's own site, ranked; and what is refused."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image

from backend.server.block_findings import numbers
from backend.wire.blocks import BlockDetail, BlockMatches
from backend.wire.findings import Finding
from backend.wire.frame import unpack


@pytest.fixture(scope="module")
def home(server):
    """A featurizer of the image model's site and one of the language model's, beside the planted one."""
    import numpy as np

    from backend.core.settings import atlas_home
    from backend.featurizers.browse import Data, Layout, build_browse
    from backend.featurizers.grassmannian import Grassmannian

    generator = torch.Generator().manual_seed(5)
    sizes = {"pictures": ("tiny", "tiny/mid.0#update", 16), "words": ("tiny-llama", "tiny-llama/1#resid_post", 5)}
    for name, (model, site, positions) in sizes.items():
        d, n = 32, 40
        featurizer = Grassmannian(d, 6, d_block=2, k=2, generator=generator)
        x = torch.randn(n, positions, d, generator=generator)
        featurizer.fit_centring(x.flatten(0, 1)[:, None])
        featurizer.initialise(featurizer.normalise(x).flatten(0, 1))
        featurizer.info = {"model": model, "site": site}
        folder = atlas_home() / "featurizers" / name
        featurizer.save_pretrained(folder)
        data = Data(x, np.zeros((n, 8, 8, 3), np.uint8), {"size": torch.rand(n, generator=generator).numpy()})
        build_browse(featurizer, data, folder, place_of=lambda overlap: np.zeros((len(overlap), 2)),
                     layout=Layout(n_cloud=20, n_pool=10, thumbnail=8, min_fired=1))  # fmt: skip
    server[0].featurizers._listed = (-1e9, {})
    yield
    import shutil

    for name in sizes:
        shutil.rmtree(atlas_home() / "featurizers" / name)
    server[0].featurizers._listed = (-1e9, {})


def picture(colour: str = "red") -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


async def ask(client, name: str, **body) -> BlockMatches:
    answer = await client.post(f"/v1/featurizers/{name}/search", json=body)
    assert answer.status_code == 200, answer.text
    return BlockMatches.model_validate_json(answer.content)


async def test_a_block_carries_the_findings_that_name_it(client, server):
    from backend.catalogue.store import Catalogue

    listed = (await client.get("/v1/featurizers/planted/blocks")).json()["blocks"]
    index = listed[0]["index"]
    told = {"a/named": ("tiny", f"The union is blocks [{index}, 99]."), "a/silent": ("tiny", ""),
            "a/other": ("tiny-llama", f"It is block {index}.")}  # fmt: skip
    for name, (model, caveat) in told.items():
        Catalogue().save_finding(Finding(id=name, claim="It was measured.", value=1.0, model=model, caveat=caveat))
    header, _ = unpack((await client.get(f"/v1/featurizers/planted/blocks/{index}")).content)
    detail = BlockDetail.model_validate(header)
    assert [f.id for f in detail.measured] == ["a/named"] and detail.findings == ["a/named"]


async def test_own_text_is_read_by_a_language_model(client, home):
    found = await ask(client, "words", text="Two days after Monday is")
    assert found.tokens and len(found.tokens) == found.positions and found.picture is None
    scores = [m.score for m in found.matches]
    assert scores == sorted(scores, reverse=True) and sum(m.share for m in found.matches) == pytest.approx(1, abs=0.01)
    assert len(found.matches[0].heat[0]) == found.positions and max(found.matches[0].heat[0]) == 1
    again = await ask(client, "words", text="Two days after Monday is")
    assert [m.score for m in again.matches] == scores
    other = await ask(client, "words", text="A month before June is")
    assert [m.score for m in other.matches] != scores


async def test_the_score_is_the_summed_norm_at_the_models_site(client, home, server):
    from backend.activations.harvest import harvest

    text = "Two days after Monday is"
    found = await ask(client, "words", text=text)
    adapter = server[0].models.loaded()["tiny-llama"]
    ids = adapter.tokenizer(text, return_tensors="pt")["input_ids"]
    got = next(harvest(adapter, ["tiny-llama/1#resid_post"], [ids], adapter.module))
    weights = server[0].featurizers.weights("words")
    (x,) = got.x.values()
    with torch.no_grad():
        z = weights.encode(weights.normalise(x[0, 1:].float()[:, None]).flatten(0, 1))
    norm = z.norm(dim=-1).sum(0)
    for match in found.matches:
        assert match.score == pytest.approx(float(norm[match.block]), rel=1e-4)


async def test_a_picture_model_reads_pictures_words_and_both(client, home):
    red, again = [await ask(client, "pictures", image=picture()) for _ in range(2)]
    assert red.matches == again.matches and red.positions == 16 and "truer" in red.note
    assert len(red.matches[0].heat) == 4 and red.picture.startswith("data:image/png;base64,")
    blue = await ask(client, "pictures", image=picture("blue"))
    both = await ask(client, "pictures", image=picture(), text="a red cube")
    drawn = await ask(client, "pictures", text="a red cube")
    other = await ask(client, "pictures", text="a red cube", seed=4)
    scores = {tuple(m.score for m in found.matches) for found in (red, blue, both, drawn, other)}
    assert len(scores) == 5 and "drawn from your words" in drawn.note and "prompt is empty" not in both.note


async def test_what_cannot_be_read_is_refused_in_sentences(client, home):
    for name, body, status, told in (
        ("words", {"image": picture()}, 422, "reads text"), ("words", {}, 422, "Neither"),
        ("pictures", {"image": "bm90IGEgcGljdHVyZQ=="}, 422, "base64"), ("nothing", {"text": "a"}, 404, "planted"),
        ("words", {"text": "a", "n": 0}, 422, "n:"), ("planted", {"text": "a red cube"}, 409, "the featurizer reads"),
    ):  # fmt: skip
        answer = await client.post(f"/v1/featurizers/{name}/search", json=body)
        error = answer.json()
        assert answer.status_code == status, (name, body, error)
        assert told in " ".join(error.values()) and error["todo"], error


def test_numbers_of_blocks_in_sentences():
    assert numbers("The union is blocks [19, 8, 3].") == {19, 8, 3} and numbers("Block 4 and block 12.") == {12}
    assert numbers("blocks 3 and 5 of 12 heads") == {3, 5} and numbers("3 seeds, 40 pictures") == set()
