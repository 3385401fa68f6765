"""Routes of jobs: four seconds each, told as events."""

from __future__ import annotations

import asyncio
import time

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from backend.wire import jobs

from .held import Wrong
from .life import Life


def routes(app: FastAPI, life: Life) -> None:
    """Add the routes of this family."""

    def told(job: dict) -> jobs.JobInfo:
        seconds = time.monotonic() - job["began"]
        progress = min(1.0, seconds / 4)
        state = "cancelled" if job["cancelled"] else "done" if progress >= 1 else "running"
        return jobs.JobInfo(
            id=job["id"],
            kind="study",
            name=job["name"],
            state=state,
            progress=progress,
            seconds=seconds,
            message=f"seed 0, {int(progress * 240)} of 240 pictures",
        )

    @app.post("/v1/jobs")
    async def start(request: jobs.JobRequest) -> jobs.JobInfo:
        job = {"id": f"job-{len(life.running)}", "name": request.name, "began": time.monotonic(), "cancelled": False}
        life.running[job["id"]] = job
        return told(job)

    @app.get("/v1/jobs")
    async def every_job() -> list[jobs.JobInfo]:
        return [told(j) for j in life.running.values()]

    @app.get("/v1/jobs/{name}")
    async def one_job(name: str) -> jobs.JobInfo:
        if name not in life.running:
            raise Wrong(404, "NotFound", f"The job {name} was asked for.", "There is no such job.", "Start it again.")
        return told(life.running[name])

    @app.get("/v1/jobs/{name}/events")
    async def events(name: str, request: Request) -> StreamingResponse:
        if name not in life.running:
            raise Wrong(404, "NotFound", f"The job {name} was asked for.", "There is no such job.", "Start it again.")
        first = int(request.headers.get("last-event-id", "-1")) + 1

        async def stream():
            number = first
            while True:
                job = told(life.running[name])
                yield f"id: {number}\ndata: {jobs.JobEvent(id=number, job=job).model_dump_json()}\n\n"
                if job.state != "running":
                    return
                number += 1
                await asyncio.sleep(0.3)

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.delete("/v1/jobs/{name}")
    async def cancel(name: str) -> jobs.JobInfo:
        life.running[name]["cancelled"] = True
        return told(life.running[name])
