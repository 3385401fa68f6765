"""Routes of training: an estimate by a formula, and runs that take three seconds."""

from __future__ import annotations

import time

from fastapi import FastAPI

from backend.wire import base, jobs, training

from .held import Wrong, models
from .life import Life


def routes(app: FastAPI, life: Life) -> None:
    """Add the routes of this family."""
    runs: dict[str, dict] = {}

    def cost(request: training.FeaturizerRequest) -> training.TrainingEstimate:
        model = next((m for m in models() if m.name == request.model), None)
        if model is None or request.site not in model.sites:
            raise Wrong(409, "Refused", f"A featurizer of {request.site} was asked for.",
                        f"{request.model} has no such site.", "Choose one of its sites.")  # fmt: skip
        if request.data.kind == "folder" and not request.data.folder.startswith("/pictures"):
            raise Wrong(404, "NotFound", f"The pictures in '{request.data.folder}' were asked for.",
                        "There is no such folder on the backend's disk.", "Give the path of one there.")  # fmt: skip
        n = len(request.data.prompts) or request.data.n
        parameters, rows = request.n_blocks * request.d_block * 64, 40 * n
        found = training.TrainingEstimate(
            name=request.name or f"{request.model}-{request.n_blocks}x{request.d_block}", parameters=parameters,
            d_in=64, samples=n, unit="texts" if model.kind == "text" else "pictures", rows=rows,
            seen=request.steps * request.batch / rows, activation_bytes=256 * rows, disk_bytes=256 * rows + 2**24,
            disk_free_bytes=2**36, memory_bytes=2**29 + 20 * parameters, memory_free_bytes=2**32,
        )  # fmt: skip
        if found.memory_bytes > found.memory_free_bytes:
            found.refusal = base.ErrorBody(error="Refused", asked=f"{request.n_blocks} blocks were asked for.",
                                           true="They do not fit into memory.", todo="Take fewer.")  # fmt: skip
            return found
        found.stages = {"reading": 4, "harvest": rows / 4000, "train": request.steps / 50, "atlas": 8}
        found.seconds = sum(found.stages.values())
        found.seconds_low, found.seconds_high = 0.5 * found.seconds, 2.5 * found.seconds
        found.measured = "From 3 forward passes and 3 steps on this machine, just now."
        return found

    def told(run: dict, *, curve: bool = True) -> training.TrainingRun:
        job = life.running[run["job"]]
        share = min(1.0, (time.monotonic() - job["began"]) / 4)
        state = "cancelled" if job["cancelled"] else "done" if share >= 1 else "running"
        request, steps = run["request"], round(share * run["request"].steps)
        places = [round(i * steps / 40) for i in range(1, 41)] if curve and steps > 40 else []
        return training.TrainingRun(
            name=request.name, request=request, state=state, stage="done" if state == "done" else "train",
            progress=share, message=f"step {steps} of {request.steps}", step=steps, r2=0.8 * share, active=request.k,
            dead=0.05, rows_per_s=50_000.0, seconds=4 * share, seconds_left=4 * (1 - share), memory_bytes=2**29,
            disk_bytes=2**22, job=run["job"] if state == "running" else "", estimate=cost(request),
            curve=training.Curve(step=places, r2=[0.8 * s / request.steps for s in places], mse=[0.1] * len(places)),
        )  # fmt: skip

    @app.post("/v1/featurizers/estimate")
    async def estimate(request: training.FeaturizerRequest) -> training.TrainingEstimate:
        return cost(request)

    @app.post("/v1/featurizers")
    async def start(request: training.FeaturizerRequest) -> jobs.JobInfo:
        found = cost(request)
        if found.refusal is not None:
            raise Wrong(409, "Refused", found.refusal.asked, found.refusal.true, found.refusal.todo)
        request = request.model_copy(update={"name": found.name})
        job = {"id": f"job-{len(life.running)}", "name": found.name, "began": time.monotonic(), "cancelled": False}
        life.running[job["id"]] = job
        runs[found.name] = {"request": request, "job": job["id"]}
        return jobs.JobInfo(id=job["id"], kind="featurizer", name=found.name, state="running")

    @app.get("/v1/trainings")
    async def trainings() -> list[training.TrainingRun]:
        return [told(run, curve=False) for run in reversed(runs.values())]

    @app.get("/v1/trainings/{name}")
    async def one(name: str) -> training.TrainingRun:
        if name not in runs:
            raise Wrong(404, "NotFound", f"The training {name} was asked for.", "There is none.", "List them.")
        return told(runs[name])

    @app.delete("/v1/trainings/{name}", status_code=204)
    async def forget(name: str) -> None:
        runs.pop(name, None)
