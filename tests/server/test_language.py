"""Language through the API: live distributions, paths, completions as OpenAI's clients know them."""

from __future__ import annotations

import asyncio
import json

import pytest

from backend.server.answers import SUPERSEDED_BY
from backend.wire.text import ManifoldCurves, PathResponse, TextFrame

PROMPT = "Two days after Monday is"
ASK = {"model": "tiny-llama", "prompt": PROMPT, "manifold": "days", "t": 0.4}


async def test_a_text_canvas(client):
    answer = await client.put("/v1/text/one", json={**ASK, "seq": 1})
    frame = TextFrame.model_validate_json(answer.content)
    assert [a.arm for a in frame.arms] == ["off", "manifold", "chord"] and frame.seq == 1 and len(frame.labels) == 7
    assert "queue" in frame.timing_ms and frame.arms[0].classes != frame.arms[1].classes


async def test_latest_wins(client):
    answers = await asyncio.gather(*(
        client.put("/v1/text/storm", json={**ASK, "seq": seq, "t": seq / 40}) for seq in range(40)
    ))  # fmt: skip
    shown = [i for i, a in enumerate(answers) if a.status_code == 200]
    assert shown[-1] == 39 and len(shown) < 40
    assert all(int(a.headers[SUPERSEDED_BY]) > i for i, a in enumerate(answers) if a.status_code == 204)


async def test_paths_and_curves(client):
    body = {k: v for k, v in ASK.items() if k != "t"} | {"t_from": 0.0, "t": 0.5, "points": 5}
    path = PathResponse.model_validate_json((await client.post("/v1/text/path", json=body)).content)
    assert [len(a.classes) for a in path.arms] == [5, 5, 5]
    curves = ManifoldCurves.model_validate_json((await client.get("/v1/manifolds/days/curves")).content)
    assert curves.name == "days" and len(curves.activation_curve) > 50
    names = [m["name"] for m in (await client.get("/v1/manifolds")).json()]
    assert names == ["days", "light"]
    missing = await client.get("/v1/manifolds/nothing/curves")
    assert missing.status_code == 404 and "days, light" in missing.json()["true"]


async def test_completions_whole_and_streamed_say_the_same(client):
    body = {"model": "tiny-llama", "prompt": PROMPT, "max_tokens": 6, "logprobs": 2, "unknown_field": 1}
    whole = (await client.post("/v1/completions", json=body)).json()
    choice = whole["choices"][0]
    assert whole["object"] == "text_completion" and choice["finish_reason"] in ("length", "stop")
    assert whole["usage"]["completion_tokens"] == len(choice["logprobs"]["tokens"]) <= 6
    assert len(choice["logprobs"]["top_logprobs"][0]) == 2
    streamed = await client.post("/v1/completions", json={**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(e) for e in events[:-1]]
    assert "".join(c["choices"][0]["text"] for c in chunks) == choice["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert chunks[0]["choices"][0]["finish_reason"] is None or len(chunks) == 1


async def test_steered_completions_differ_and_refusals_come_as_a_status(client):
    body = {"model": "tiny-llama", "prompt": PROMPT, "max_tokens": 4, "logprobs": 0}
    plain = (await client.post("/v1/completions", json=body)).json()["choices"][0]
    steer = {"manifold": "days", "t": 0.6, "strength": 4.0, "positions": "all"}
    steered = (await client.post("/v1/completions", json={**body, "steering": steer})).json()["choices"][0]
    assert plain["logprobs"]["token_logprobs"] != steered["logprobs"]["token_logprobs"]
    for change in ({"steering": {**steer, "manifold": "light"}}, {"model": "tiny"}, {"prompt": "a" * 4001},
                   {"stop": ["a"] * 5}, {"max_tokens": 0}):  # fmt: skip
        for stream in (False, True):
            answer = await client.post("/v1/completions", json={**body, **change, "stream": stream})
            assert answer.status_code == 422 and answer.json()["todo"]


async def test_several_texts_and_a_drag_share_the_device(client):
    texts = [client.post("/v1/completions", json={"model": "tiny-llama", "prompt": PROMPT, "max_tokens": 5})
             for _ in range(3)]  # fmt: skip
    drags = [client.put("/v1/text/beside", json={**ASK, "seq": i}) for i in range(3)]
    answers = await asyncio.gather(*texts, *drags)
    assert all(a.status_code in (200, 204) for a in answers)
    assert len({a.json()["choices"][0]["text"] for a in answers[:3]}) == 1


async def test_models_in_openais_form(client):
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list" and [m["id"] for m in listed["data"]] == ["tiny-llama", "tiny"]


@pytest.mark.parametrize("change", [{"manifold": "nothing"}, {"manifold": "light"}, {"prompt": "day " * 120}])
async def test_errors_of_a_text_canvas(client, change):
    answer = await client.put("/v1/text/errors", json={**ASK, **change, "seq": 10**6})
    assert answer.status_code in (404, 422) and answer.json()["true"]
