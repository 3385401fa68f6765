"""Jobs: long work in a process of its own, with progress, cancel and an event log that can be replayed.

A study may hold the processor for minutes. On the device thread it would have to be cut into steps; in a thread it
would hold the interpreter's lock between steps of a drag. So it runs as a child process, ``nice``d and with a bounded
number of threads, and speaks in lines of JSON on its standard output:

    {"progress": 0.31, "message": "..."}                        progress, 0 to 1
    {"error": {"error": "Refused", "asked": "...", ...}}        why it failed, in the three sentences of an AtlasError

Other lines are the child's own talk; the last of them (and of stderr) explain a crash. Events have ids that rise by
one from 1 within a job, so that ``events(id, after=n)`` is exactly what a reader who saw n has missed. Jobs are
carried out one after the other (``max_running``); they do not survive a restart of the server, the findings that
their child stored do.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backend.core.errors import NotFound, Refused

ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class JobState:
    """What a job is at one moment; immutable, so an event can hold it."""

    id: str
    kind: str
    name: str
    state: str = "queued"
    progress: float = 0.0
    message: str = ""
    seconds: float = 0.0
    error: dict | None = None


@dataclass
class _Job:
    now: JobState
    command: list[str]
    env: dict[str, str]
    events: list[tuple[int, JobState]] = field(default_factory=list)
    started: float = 0.0
    process: subprocess.Popen | None = None
    cancelled: bool = False
    listeners: list[Callable[[], None]] = field(default_factory=list)


class Jobs:
    """Starts jobs, follows them, ends them; thread-safe.

    ``max_events`` bounds the log of one job (progress lines closer than ``every`` seconds are merged first),
    ``max_kept`` the ended jobs that are remembered, ``max_queued`` those that wait.
    """

    def __init__(
        self, *, max_running: int = 1, max_queued: int = 16, max_kept: int = 100, max_events: int = 5000,
        every: float = 0.1, nice: int = 10,
    ) -> None:  # fmt: skip
        self.max_running, self.max_queued, self.max_kept = max_running, max_queued, max_kept
        self.max_events, self.every, self.nice = max_events, every, nice
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.RLock()

    def start(self, kind: str, name: str, command: Sequence[str], *, env: dict[str, str] | None = None) -> JobState:
        """Queue ``command``; raises ``Refused`` where too many jobs wait."""
        with self._lock:
            queued = [j for j in self._jobs.values() if j.now.state == "queued"]
            if len(queued) >= self.max_queued:
                raise Refused(f"The job {name} was to be started.", f"{len(queued)} jobs are waiting already.",
                              "Cancel one of them, or wait until one has ended.")  # fmt: skip
            job = _Job(JobState(uuid.uuid4().hex[:12], kind, name), list(command), dict(env or {}))
            self._jobs[job.now.id] = job
            self._forget()
            self._tell(job, message="waiting for its turn")
            self._launch()
            return job.now

    def get(self, job_id: str) -> JobState:
        """The state of one job; raises ``NotFound``."""
        return self._job(job_id).now

    def all(self) -> list[JobState]:
        """Every job that is remembered, the newest first."""
        with self._lock:
            return [job.now for job in reversed(self._jobs.values())]

    def events(self, job_id: str, *, after: int = 0) -> list[tuple[int, JobState]]:
        """The events with an id above ``after``, in order; raises ``NotFound``."""
        job = self._job(job_id)
        with self._lock:
            return [event for event in job.events if event[0] > after]

    def listen(self, job_id: str, heard: Callable[[], None]) -> Callable[[], None]:
        """Call ``heard()`` (from any thread) at each new event; returns the function that ends it."""
        job = self._job(job_id)
        with self._lock:
            job.listeners.append(heard)

        def stop() -> None:
            with self._lock, contextlib.suppress(ValueError):
                job.listeners.remove(heard)

        return stop

    def cancel(self, job_id: str) -> JobState:
        """End a job: a queued one at once, a running one by ending its process group; an ended one stays as it is."""
        job = self._job(job_id)
        with self._lock:
            if job.now.state == "queued":
                job.cancelled = True
                self._tell(job, state="cancelled", message="cancelled before it began")
            elif job.now.state == "running":
                job.cancelled = True
                self._signal(job, signal.SIGTERM)
                hard = threading.Timer(5.0, self._signal, (job, signal.SIGKILL))
                hard.daemon = True
                hard.start()
            return job.now

    def close(self) -> None:
        """End every job, for a server that shuts down."""
        for state in self.all():
            if state.state not in ENDED:
                self.cancel(state.id)

    # ---- inside ----------------------------------------------------------------------------------------------

    def _job(self, job_id: str) -> _Job:
        with self._lock:
            if job_id not in self._jobs:
                raise NotFound(f"The job {job_id} was asked for.", f"{len(self._jobs)} other jobs are known.",
                               "List them with GET /v1/jobs; jobs are forgotten when the server restarts.")  # fmt: skip
            return self._jobs[job_id]

    def _forget(self) -> None:
        ended = [job_id for job_id, job in self._jobs.items() if job.now.state in ENDED]
        for job_id in ended[: max(0, len(ended) - self.max_kept)]:
            del self._jobs[job_id]

    def _tell(self, job: _Job, **changes) -> None:
        with self._lock:
            if job.started:
                changes.setdefault("seconds", time.monotonic() - job.started)
            job.now = dataclasses.replace(job.now, **changes)
            number = job.events[-1][0] + 1 if job.events else 1
            job.events.append((number, job.now))
            del job.events[: max(0, len(job.events) - self.max_events)]
            listeners = list(job.listeners)
        for heard in listeners:
            with contextlib.suppress(Exception):  # a reader that has gone must not stop the job
                heard()

    def _launch(self) -> None:
        running = sum(job.now.state == "running" for job in self._jobs.values())
        for job in list(self._jobs.values()):
            if running >= self.max_running:
                return
            if job.now.state == "queued":
                running += 1
                job.started = time.monotonic()
                self._tell(job, state="running", message="started")
                threading.Thread(target=self._follow, args=(job,), name=f"job-{job.now.id}", daemon=True).start()

    def _follow(self, job: _Job) -> None:
        error: dict | None = None
        tail: collections.deque[str] = collections.deque(maxlen=12)
        code = None
        prefix = ["nice", "-n", str(self.nice)] if self.nice and shutil.which("nice") else []
        threads = str(max(1, (os.cpu_count() or 2) // 2))
        env = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": threads, **job.env}
        try:
            process = subprocess.Popen(
                [*prefix, *job.command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=env, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
            with self._lock:
                job.process = process
                if job.cancelled:  # cancelled between its start and here
                    self._signal(job, signal.SIGTERM)
            last = 0.0
            for line in process.stdout:
                said = _json(line)
                if said is None:
                    if line.strip():
                        tail.append(line.strip()[:500])
                elif isinstance(said.get("error"), dict):
                    error = said["error"]
                elif "progress" in said and time.monotonic() - last >= self.every and not job.cancelled:
                    last = time.monotonic()
                    with contextlib.suppress(TypeError, ValueError):
                        share = min(1.0, max(0.0, float(said["progress"])))
                        self._tell(job, progress=share, message=str(said.get("message", ""))[:300])
            code = process.wait()
        except OSError as failed:
            error = {"error": "Refused", "asked": f"The job {job.now.name} was to be started.",
                     "true": f"Its process could not be started: {failed}.", "todo": "See the log."}  # fmt: skip
        if job.cancelled:
            self._tell(job, state="cancelled", message="cancelled")
        elif code == 0 and error is None:
            self._tell(job, state="done", progress=1.0, message="done")
        else:
            error = error or {"error": "AtlasError", "asked": f"The job {job.now.name} was to be carried out.",
                              "true": f"Its process ended with code {code}: {' | '.join(list(tail)[-3:])}"[:1200],
                              "todo": "Run the same study from the command line to see all of its output."}  # fmt: skip
            self._tell(job, state="failed", message="failed", error=error)
        with self._lock:
            job.process = None
            self._launch()

    @staticmethod
    def _signal(job: _Job, number: int) -> None:
        process = job.process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)


def _json(line: str) -> dict | None:
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and ({"progress", "error"} & said.keys()) else None
