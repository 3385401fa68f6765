"""The supervisor: busy ports, readiness, deaths, restarts, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import httpx
import pytest
from rich.console import Console

from backend.cli import launch, processes
from backend.core.errors import Refused

# Answers "starting" as many times as its second argument says, and "ready" from then on.
SERVER = """
import http.server, json, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global left
        status, left = ("ready" if left <= 0 else "starting"), left - 1
        body = json.dumps({"status": status, "detail": "loading the model"}).encode()
        self.send_response(200); self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
left = int(sys.argv[2])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""


def child(code: str, *arguments: object, probe=lambda: (True, ""), title: str = "toy") -> processes.Child:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return processes.Child(title, command, env={}, probe=probe)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_busy_port_names_the_port_and_the_variable():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not processes.port_is_free(port)
        with pytest.raises(Refused) as refused:
            processes.require_port("app", port, "ATLAS_APP_PORT")
    assert str(port) in str(refused.value) and "ATLAS_APP_PORT=" in refused.value.todo
    assert processes.port_is_free(processes.free_port())


def test_it_waits_until_the_server_says_ready(home):
    port = processes.free_port()
    one = child(SERVER, port, 3, probe=processes.http_probe(f"http://127.0.0.1:{port}/")).start()
    said = []
    try:
        processes.wait_ready([one], timeout=60, say=said.append)
        assert one.ready() == (True, "")
        assert any("loading the model" in line for line in said)
    finally:
        one.stop()
    assert not alive(one.process.pid)


def test_a_child_that_dies_at_once_is_reported_with_its_last_words(home):
    one = child("print('the model is missing'); raise SystemExit(3)", probe=lambda: (False, "")).start()
    with pytest.raises(Refused, match="exit code 3") as refused:
        processes.wait_ready([one], timeout=20, say=lambda line: None)
    assert "the model is missing" in refused.value.true and str(one.log) in refused.value.todo


def test_a_child_that_never_answers_is_given_up(home):
    one = child("import time; time.sleep(60)", probe=lambda: (False, "")).start()
    try:
        with pytest.raises(Refused, match="does not answer"):
            processes.wait_ready([one], timeout=0.5, say=lambda line: None)
    finally:
        one.stop()


def test_a_child_that_ignores_the_request_to_end_is_ended(home):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    one = child(deaf + "print('deaf', flush=True); time.sleep(60)").start()
    while one.tail(1) != "deaf":
        time.sleep(0.02)
    one.stop(patience=0.3)
    assert one.exit_code() == -signal.SIGKILL


def test_a_dead_child_is_restarted_and_after_three_deaths_everything_stops(home):
    good, bad = child("import time; time.sleep(60)", title="good"), child("import time; time.sleep(0.2)", title="bad")
    with pytest.raises(Refused, match="3 times"):
        launch.supervise([good, bad], address="http://nowhere", timeout=10)
    assert len(bad.deaths) == 3
    assert not alive(good.process.pid)


def test_a_log_gets_a_line_where_the_state_changes(capsys, monkeypatch):
    monkeypatch.setattr(launch, "console", Console(file=sys.stderr))
    say = launch._teller(lambda message: None)
    for message in ("waiting for the app, 1 s", "waiting for the app, 2 s", "waiting for the backend, 3 s"):
        say(message)
    assert capsys.readouterr().err.splitlines() == ["waiting for the app, 1 s", "waiting for the backend, 3 s"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupting_stops_both(home, number):
    def ready():
        # Asked only when the supervisor is at work, so the signal cannot come before its handler stands.
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        return True, ""

    children = [child("import time; time.sleep(60)", title="one"), child("import time; time.sleep(60)", probe=ready)]
    launch.supervise(children, address="http://nowhere", timeout=10)
    assert [alive(c.process.pid) for c in children] == [False, False]


def test_a_backend_that_already_runs_is_used(home, monkeypatch):
    port = processes.free_port()
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port), "0"])
    monkeypatch.setenv("ATLAS_BACKEND_PORT", str(port))
    try:
        probe = processes.http_probe(f"http://127.0.0.1:{port}/v1/health")
        for _ in range(600):
            try:
                if probe()[0]:
                    break
            except Exception:
                time.sleep(0.1)
        with processes.backend_url(None, say=print) as url:
            assert url == f"http://127.0.0.1:{port}"
        with processes.backend_url("http://elsewhere:1/", say=print) as url:
            assert url == "http://elsewhere:1"
        nobody = "http://127.0.0.1:1"
        with pytest.raises(Refused, match="gave no answer"), processes.backend_url(nobody, say=print) as url:
            httpx.get(url)
    finally:
        server.terminate()
        server.wait()
