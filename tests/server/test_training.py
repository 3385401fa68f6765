"""Training through the routes: estimate, start, follow, cancel, go on after a stop; a real model and a stub child."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from backend.recipes.featurizer_folder import RunFolder
from backend.server.trainings import Trainings
from backend.wire.training import FeaturizerRequest

from .conftest import client_of, serving, text_adapter

SITE = "tiny-llama/1#resid_post"
WORDS = ("Monday", "Tuesday", "two", "days", "after", "is", "the", "red", "bird", "and", "river", "old")
PROMPTS = [" ".join(WORDS[(i * j + j) % len(WORDS)] for j in range(3 + i % 5)) for i in range(1, 40)]

STUB = """
import json, sys, time
from backend.recipes.featurizer_folder import RunFolder
run = RunFolder.named(sys.argv[1])
with run.held(lambda told: None):
    start = run.status.get("step", 0)
    for step in range(start, run.request.steps):
        run.write(state="running", stage="train", step=step + 1, r2=0.5, progress=step / run.request.steps)
        print(json.dumps({"progress": step / run.request.steps, "message": f"step {step + 1}"}), flush=True)
        if run.request.seed == 13 and step == 2:
            sys.exit(9)
        time.sleep(0.05)
    run.out.mkdir(parents=True)
    (run.out / "cfg.json").write_text(json.dumps({"architecture": "bsf-vanilla", "n_blocks": 4, "d_block": 2, "k": 2}))
    run.write(state="done", stage="done", progress=1.0)
"""
"""A child that is there at once: it counts its steps on disk as a training does."""


def body(**changes) -> dict:
    given = {"n_blocks": 4, "d_block": 2, "k": 2, "steps": 30, "batch": 64, "name": "own", **changes}
    data = given.pop("data", {"kind": "prompts", "prompts": PROMPTS})
    return FeaturizerRequest(model="tiny-llama", site=SITE, data=data, **given).model_dump()


@pytest.fixture
def stub(monkeypatch, tmp_path):
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", ":".join(p for p in sys.path if p))
    monkeypatch.setattr(Trainings, "command", staticmethod(lambda name: [sys.executable, str(path), name]))


@pytest.fixture
def alone(home, tmp_path, monkeypatch):
    """Settings of a server that has one tiny language model and nothing shipped."""
    (tmp_path / "assets").mkdir()
    monkeypatch.setenv("ATLAS_ASSETS", str(tmp_path / "assets"))
    return {"load": lambda name: text_adapter(), "available": lambda: ["tiny-llama"], "warm": False}


async def until(ask, seconds: float = 240.0):
    for _ in range(int(seconds / 0.05)):
        found = await ask()
        if found:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come about")


def when(client, name: str, true):
    async def ask():
        run = (await client.get(f"/v1/trainings/{name}")).json()
        return run if true(run) else None

    return ask


async def test_an_estimate_says_rows_bytes_and_seconds_without_leaving_a_trace(alone, home):
    with serving(**alone) as (state, app):
        async with client_of(app) as client:
            found = (await client.post("/v1/featurizers/estimate", json=body())).json()
            assert found["refusal"] is None and found["samples"] == len(PROMPTS) and found["d_in"] == 32
            assert found["activation_bytes"] == 4 * 32 * found["rows"] and found["memory_bytes"] > 2**28
            assert 0 < found["seconds_low"] < found["seconds"] < found["seconds_high"] < 3600
            assert (await client.get("/v1/trainings")).json() == []
            assert not list((home / "training" / "featurizers").glob("*"))
            # A drag that comes meanwhile waits for one short piece, not for the estimate.
            drag = state.scheduler.call(lambda: 1)
            assert drag.result(30) == 1


async def test_refusals_are_three_sentences(alone, monkeypatch):
    with serving(**alone) as (state, app):
        async with client_of(app) as client:
            for wrong, status, word in (
                (body(data={"kind": "folder", "folder": "/nowhere"}), 409, "reads text"),
                (body() | {"site": "tiny-llama/77#resid_post"}, 409, "no such site"),
                (body() | {"model": "gpt"}, 404, "tiny-llama"), (body() | {"variant": "x"}, 422, "variant"),
                (body(data={"kind": "prompts", "prompts": ["a b"]}), 422, "held out"), (body(name="../x"), 422, "name"),
                (body(d_block=33), 409, "32"),
            ):  # fmt: skip
                for path in ("/v1/featurizers", "/v1/featurizers/estimate"):
                    answer = await client.post(path, json=wrong)
                    assert answer.status_code == status and word in answer.text, (path, answer.text)
                    assert set(answer.json()) == {"error", "asked", "true", "todo"}
            from backend.recipes import featurizer_cost

            monkeypatch.setattr(featurizer_cost, "_free_memory", lambda: 2**20)
            found = (await client.post("/v1/featurizers/estimate", json=body())).json()
            assert found["seconds"] is None and "of memory" in found["refusal"]["true"]
            answer = await client.post("/v1/featurizers", json=body())
            assert answer.status_code == 409 and answer.json()["true"] == found["refusal"]["true"]
            assert (await client.get("/v1/trainings/none")).status_code == 404


async def test_cancel_go_on_stop_of_the_server_and_the_end(alone, stub, home):
    many = body(steps=100)
    with serving(**alone) as (state, app):
        async with client_of(app) as client:
            job = (await client.post("/v1/featurizers", json=many)).json()
            assert job["kind"] == "featurizer" and job["name"] == "own"
            assert (await client.post("/v1/featurizers", json=many)).json()["id"] == job["id"], "one process a run"
            run = await until(when(client, "own", lambda r: r["step"] > 3))
            assert run["job"] == job["id"] and run["estimate"]["seconds"] > 0
            assert (await client.delete("/v1/trainings/own")).status_code == 409
            await client.delete(f"/v1/jobs/{job['id']}")
            run = await until(when(client, "own", lambda r: r["state"] == "cancelled" and not r["job"]))
            assert run["step"] >= 4
            assert state.trainings.resume() == [], "what a person ended stays ended"
            await client.post("/v1/featurizers", json=many)
            await until(when(client, "own", lambda r: r["step"] > run["step"] + 3))
    stopped = RunFolder.named("own").status
    assert stopped["state"] in ("running", "queued")
    with serving(**alone) as (state, app):
        async with client_of(app) as client:
            jobs = (await client.get("/v1/jobs")).json()
            assert [j["name"] for j in jobs] == ["own"], "it goes on by itself"
            run = await until(when(client, "own", lambda r: r["state"] == "done"))
            assert run["step"] == 100 > stopped["step"]
            await until(lambda: _listed(client, "own"), 1.5)
            assert (await client.post("/v1/featurizers", json=body(name="own", steps=7))).status_code == 409
            assert (await client.delete("/v1/trainings/own")).status_code == 204
            assert (home / "featurizers" / "own").exists() and (await client.get("/v1/trainings")).json() == []


async def _listed(client, name: str) -> bool:
    return name in [f["name"] for f in (await client.get("/v1/featurizers")).json()]


async def test_a_process_that_dies_without_a_word_has_failed(alone, stub):
    with serving(**alone) as (state, app):
        async with client_of(app) as client:
            await client.post("/v1/featurizers", json=body(seed=13))
            run = await until(when(client, "own", lambda r: r["state"] == "failed" and not r["job"]))
            assert "code 9" in run["error"]["true"] and state.trainings.resume() == []


async def test_a_torn_run_costs_itself_alone(alone, home, stub):
    with serving(**alone) as (state, app):
        async with client_of(app) as client:
            await client.post("/v1/featurizers", json=body(steps=2))
            await until(when(client, "own", lambda r: r["state"] == "done"))
            torn = home / "training" / "featurizers" / "torn"
            torn.mkdir()
            (torn / "request.json").write_text("{ no")
            assert [r["name"] for r in (await client.get("/v1/trainings")).json()] == ["own"]
            assert (await client.get("/v1/trainings/torn")).status_code == 500
            assert state.trainings.resume() == []


async def test_a_real_training_ends_in_the_list_of_featurizers(alone, home):
    adapter = text_adapter()
    folder = home / "models" / "tiny-llama"
    adapter.model.save_pretrained(folder)
    adapter.tokenizer.save_pretrained(folder)
    with serving(**alone) as (state, app):
        async with client_of(app) as client:
            found = (await client.post("/v1/featurizers/estimate", json=body())).json()
            job = (await client.post("/v1/featurizers", json=body())).json()
            async with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
                events = [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]
            states = [e["job"]["state"] for e in events]
            assert states[-1] == "done", events[-1]
            # Which stages are seen between two looks depends on the machine; that each was gone through, on the run.
            assert any(e["job"]["message"] for e in events)
            assert await _listed(client, "own"), "without a restart, at once"
            run = (await client.get("/v1/trainings/own")).json()
            assert run["state"] == "done" and run["curve"]["step"][-1] == 30 and run["r2"] > 0
            assert found["memory_bytes"] / 3 < run["memory_bytes"] < 2 * found["memory_bytes"]
            assert 0 < found["seconds_low"] <= found["seconds_high"] and run["seconds"] > 0
            blocks = (await client.get("/v1/featurizers/own/blocks")).json()["blocks"]
            assert blocks and (await client.get(f"/v1/featurizers/own/blocks/{blocks[0]['index']}")).status_code == 200
