"""Jobs: real child processes, tiny ones."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from backend.core.errors import NotFound, Refused
from backend.engine.jobs import ENDED, Jobs


def python(code):
    return [sys.executable, "-c", code]


def ended(jobs, job_id, timeout=10.0):
    heard = threading.Event()
    stop = jobs.listen(job_id, heard.set)
    deadline = time.monotonic() + timeout
    while jobs.get(job_id).state not in ENDED and time.monotonic() < deadline:
        heard.wait(0.5)
        heard.clear()
    stop()
    return jobs.get(job_id)


STEPS = """
import json
for i in range(5):
    print("talk of its own")
    print(json.dumps({"progress": i / 5, "message": f"part {i}"}))
"""


def test_progress_done_and_replay():
    jobs = Jobs(every=0.0)
    job = jobs.start("study", "tiny", python(STEPS))
    state = ended(jobs, job.id)
    assert (state.state, state.progress) == ("done", 1.0) and state.seconds > 0
    events = jobs.events(job.id)
    assert [number for number, _ in events] == list(range(1, len(events) + 1))
    assert [s.state for _, s in events] == ["queued", "running"] + ["running"] * 5 + ["done"]
    assert [s.progress for _, s in events] == sorted(s.progress for _, s in events)
    assert jobs.events(job.id, after=6) == events[6:]


def test_progress_lines_are_merged():
    jobs = Jobs(every=60.0)
    job = jobs.start("study", "tiny", python(STEPS))
    ended(jobs, job.id)
    assert len(jobs.events(job.id)) == 4


def test_failure_tells_why():
    jobs = Jobs()
    crash = jobs.start("study", "crash", python("raise SystemExit('no such thing as a free lunch')"))
    told = jobs.start("study", "told", python(
        "print('{\"error\": {\"error\": \"Refused\", \"asked\": \"A.\", \"true\": \"B.\", \"todo\": \"C.\"}}')"))
    missing = jobs.start("study", "missing", ["/no/such/program"])
    state = ended(jobs, crash.id)
    assert state.state == "failed" and "free lunch" in state.error["true"] and "code 1" in state.error["true"]
    assert ended(jobs, told.id).error == {"error": "Refused", "asked": "A.", "true": "B.", "todo": "C."}
    assert ended(jobs, missing.id).state == "failed"


def test_cancel_a_running_one_and_a_queued_one():
    jobs = Jobs(max_running=1)
    running = jobs.start("study", "long", python("import time; time.sleep(60)"))
    queued = jobs.start("study", "next", python("pass"))
    assert jobs.get(queued.id).state == "queued"
    assert jobs.cancel(queued.id).state == "cancelled"
    began = time.monotonic()
    jobs.cancel(running.id)
    assert ended(jobs, running.id).state == "cancelled" and time.monotonic() - began < 4.0
    assert jobs.cancel(running.id).state == "cancelled"  # again changes nothing
    after = jobs.start("study", "after", python("pass"))
    assert ended(jobs, after.id).state == "done"


def test_one_after_the_other():
    jobs = Jobs(max_running=1)
    ids = [jobs.start("study", str(i), python("import time; time.sleep(0.05)")).id for i in range(3)]
    assert sum(j.state == "running" for j in jobs.all()) == 1
    assert [ended(jobs, i).state for i in ids] == ["done"] * 3
    assert [j.name for j in jobs.all()] == ["2", "1", "0"]


def test_bounds():
    jobs = Jobs(max_queued=1)
    first = jobs.start("study", "long", python("import time; time.sleep(60)"))
    second = jobs.start("study", "next", python("pass"))
    with pytest.raises(Refused, match="1 jobs are waiting"):
        jobs.start("study", "third", python("pass"))
    with pytest.raises(NotFound):
        jobs.get("nothing")
    jobs.close()
    assert ended(jobs, first.id).state == ended(jobs, second.id).state == "cancelled"
