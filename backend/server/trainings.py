"""Featurizers being trained: runs on disk, their jobs, and what a new one would take.

A training is a child process (``backend.engine.jobs``), so drags go on beside it; the device thread carries out the
short pieces that an estimate times, one by one. What was queued or running when the server stopped is started again;
what a person cancelled is not. Not covered: several machines.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from backend.core.errors import AtlasError
from backend.engine.jobs import ENDED, Jobs, JobState
from backend.engine.scheduler import Scheduler
from backend.engine.work import Priority
from backend.recipes.featurizer_folder import RunFolder, make_name
from backend.wire.training import FeaturizerRequest, TrainingEstimate, TrainingRun

log = logging.getLogger(__name__)

KIND = "featurizer"
FRESH_S = 120.0
"""Seconds for which what was timed is used again: a machine that was busy may be free by then."""


def command_of(name: str) -> list[str]:
    """The child process of a training."""
    return [sys.executable, "-m", "backend.server.training_process", name]


class Trainings:
    """``finished(name)`` is called, from a thread of its own, when a new featurizer lies on disk."""

    command: Callable[[str], list[str]] = staticmethod(command_of)

    def __init__(self, jobs: Jobs, scheduler: Scheduler, *, finished: Callable[[str], None]) -> None:
        self.jobs, self.scheduler, self._finished = jobs, scheduler, finished
        self._known: dict[Any, Any] = {}
        self._known_at = time.monotonic()
        self._job: dict[str, str] = {}
        self._lock, self._timing = threading.RLock(), threading.Lock()
        self._closed = False

    # ---- what it would take ----------------------------------------------------------------------------------

    def estimate(self, request: FeaturizerRequest, adapter: Any, *, timed: bool = True) -> TrainingEstimate:
        """What a training would take; the timed pieces wait behind every drag. One estimate at a time."""
        from backend.recipes.featurizer_cost import estimate

        def on_device(piece: Callable[[], Any]) -> Any:
            return self.scheduler.call(piece, stage="estimate", priority=Priority.JOB, user="estimate").result()

        with self._timing:
            if time.monotonic() - self._known_at > FRESH_S:
                self._known, self._known_at = {}, time.monotonic()
            return estimate(request, adapter, on_device=on_device, known=self._known, timed=timed)

    # ---- starting, following, ending -------------------------------------------------------------------------

    def start(self, request: FeaturizerRequest, estimate: TrainingEstimate | None = None) -> JobState:
        """Queue a training, or go on with one that was cancelled or failed; one that runs is only named again."""
        request = request.model_copy(update={"name": make_name(request)})
        with self._lock:
            running = self._running(request.name)
            run = RunFolder.of(request)
            if running is not None:
                return running
            if estimate is not None:
                run.keep_estimate(estimate)
            return self._launch(run)

    def resume(self) -> list[str]:
        """Start again what was under way when the server stopped; returns the names."""
        begun = []
        for run in RunFolder.every():
            with contextlib.suppress(AtlasError):  # a torn folder costs that one run
                if run.state in ("queued", "running") and run.request:
                    self._launch(run)
                    begun.append(run.name)
        if begun:
            log.info("Trainings go on: %s", ", ".join(begun))
        return begun

    def cancel(self, job: JobState) -> None:
        """A person ended this job: it is not started again."""
        if job.kind == KIND and job.state not in ENDED:
            with contextlib.suppress(AtlasError):
                RunFolder.named(job.name).write(state="cancelled", message="cancelled", seconds_left=None)

    def every(self) -> list[TrainingRun]:
        """All trainings that can be read, the newest first, without their curves."""
        found = []
        for run in RunFolder.every():
            with contextlib.suppress(AtlasError):
                found.append(self._info(run, curve=False))
        return found

    def get(self, name: str) -> TrainingRun:
        """One training with its curve; raises ``NotFound`` or ``Corrupt``."""
        return self._info(RunFolder.named(name), curve=True)

    def remove(self, name: str) -> None:
        """Forget a training that is over; its featurizer stays."""
        RunFolder.named(name).remove()

    def close(self) -> None:
        """The server stops: jobs end, and what they did goes on with the next server."""
        self._closed = True

    # ---- inside ----------------------------------------------------------------------------------------------

    def _launch(self, run: RunFolder) -> JobState:
        run.write(state="queued", stage="waiting", message="waiting for its turn", error=None, seconds_left=None)
        job = self.jobs.start(KIND, run.name, self.command(run.name))
        self._job[run.name] = job.id
        stop: list[Callable[[], None]] = []
        stop.append(self.jobs.listen(job.id, lambda: self._heard(job.id, run, stop)))
        return job

    def _heard(self, job_id: str, run: RunFolder, stop: list[Callable[[], None]]) -> None:
        now = self.jobs.get(job_id)
        if now.state not in ENDED:
            return
        for end in stop:
            end()
        if now.state == "done":
            self._finished(run.name)
        elif self._closed or not run.folder.exists():
            return
        elif now.state == "failed" and run.state != "failed":
            # The process died without a word: out of memory, or ended from outside.
            run.write(state="failed", message="its process ended", error=now.error, seconds_left=None)
        elif now.state == "cancelled":
            run.write(state="cancelled", message="cancelled", seconds_left=None)

    def _running(self, name: str) -> JobState | None:
        with contextlib.suppress(AtlasError):
            job = self.jobs.get(self._job.get(name, ""))
            return None if job.state in ENDED else job
        return None

    def _info(self, run: RunFolder, *, curve: bool) -> TrainingRun:
        told = run.info(curve=curve)
        job = self._running(run.name)
        return told.model_copy(update={"job": job.id}) if job is not None else told
