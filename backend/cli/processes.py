"""The two processes that ``manifold-atlas run`` starts: begin, wait until they answer, watch, stop.

Each child writes to its own log file, so that a crash can be reported with its last lines. Not covered: daemons;
a child lives as long as the command that started it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from backend.core.errors import Refused
from backend.core.settings import atlas_home, backend_port


def host() -> str:
    """The address both processes listen on, ``ATLAS_HOST`` or this machine only."""
    return os.environ.get("ATLAS_HOST") or "127.0.0.1"


def port_is_free(port: int) -> bool:
    """True where nobody listens on ``port`` of the address we would use."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host(), port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nobody used a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def require_port(title: str, port: int, variable: str) -> None:
    """Raise ``Refused`` with the variable to change where ``port`` is taken."""
    if not port_is_free(port):
        raise Refused(
            f"The {title} was to listen on port {port}.",
            f"Another program (perhaps another Manifold Atlas) already listens on port {port}.",
            f"Stop that program, or choose another port: {variable}={port + 10} manifold-atlas run",
        )


class Child:
    """One process with a log file and a way to ask whether it is ready.

    ``probe`` returns ``(ready, detail)`` and may raise while nobody listens yet.
    """

    def __init__(self, title: str, command: list[str], *, env: dict[str, str], probe: Callable[[], tuple[bool, str]]):
        self.title, self.command, self.env, self.probe = title, command, env, probe
        self.log: Path = atlas_home() / "logs" / f"{title}.log"
        self.process: subprocess.Popen | None = None
        self.deaths: list[float] = []

    def start(self) -> Child:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            out.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(self.command)}\n".encode())
            out.flush()
            # A session of its own: Ctrl-C reaches the parent only, which then stops the children in order.
            self.process = subprocess.Popen(
                self.command, env={**os.environ, **self.env}, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        return self

    def exit_code(self) -> int | None:
        """``None`` while it runs."""
        return None if self.process is None else self.process.poll()

    def ready(self) -> tuple[bool, str]:
        try:
            return self.probe()
        except Exception:
            return False, ""

    def tail(self, n: int = 12) -> str:
        """The last ``n`` lines of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-n:])

    def stop(self, patience: float = 10.0) -> None:
        """Ask it to end, and end it where it does not within ``patience`` seconds."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wait_ready(children: list[Child], *, timeout: float, say: Callable[[str], None]) -> None:
    """Return when every child is ready; ``say`` gets the state. Raises ``Refused`` on a death or a timeout."""
    began = time.monotonic()
    waiting = list(children)
    while waiting:
        details = []
        for child in list(waiting):
            if (code := child.exit_code()) is not None:
                raise Refused(
                    f"The {child.title} was started.", f"It ended at once with exit code {code}:\n\n{child.tail()}\n",
                    f"The whole log is in {child.log}; `manifold-atlas doctor` checks the machine.",
                )  # fmt: skip
            ready, detail = child.ready()
            if ready:
                waiting.remove(child)
            else:
                details.append(child.title + (f" ({detail})" if detail else ""))
        seconds = time.monotonic() - began
        if waiting and seconds > timeout:
            raise Refused(
                f"The {waiting[0].title} was given {timeout:.0f} seconds to start.", "It runs but does not answer yet.",
                f"Look into {waiting[0].log}; on a slow machine allow more with --timeout {2 * timeout:.0f}.",
            )  # fmt: skip
        if waiting:
            say(f"waiting for the {' and the '.join(details)}, {seconds:.0f} s")
            time.sleep(0.25)


def http_probe(url: str) -> Callable[[], tuple[bool, str]]:
    """Ready when ``url`` answers 200, unless a JSON body says ``status: starting``; its ``detail`` is passed on."""

    def probe() -> tuple[bool, str]:
        import httpx

        answer = httpx.get(url, timeout=5.0, trust_env=False)
        if answer.status_code != 200:
            return False, f"answers {answer.status_code}"
        if answer.headers.get("content-type", "").startswith("application/json"):
            body = answer.json()
            if body.get("status") == "starting":
                return False, body.get("detail", "")
        return True, ""

    return probe


def backend_child(port: int) -> Child:
    """The backend on ``port``, not yet started."""
    return Child(
        "backend", [sys.executable, "-m", "backend.server"], env={"ATLAS_BACKEND_PORT": str(port)},
        probe=http_probe(f"http://127.0.0.1:{port}/v1/health"),
    )  # fmt: skip


def app_child(port: int, backend_port: int) -> Child:
    """The app on ``port``, which asks the backend on ``backend_port``, not yet started."""
    return Child(
        "app", [sys.executable, "-m", "app"],
        env={"ATLAS_APP_PORT": str(port), "ATLAS_BACKEND_PORT": str(backend_port)},
        probe=http_probe(f"http://127.0.0.1:{port}/"),
    )  # fmt: skip


@contextlib.contextmanager
def backend_url(url: str | None, *, say: Callable[[str], None], timeout: float = 300.0) -> Iterator[str]:
    """A backend to talk to: ``url``, else the one that runs on the usual port, else one of our own for a while.

    Raises ``Refused`` where it does not answer, also later, inside the ``with``.
    """
    import httpx

    base = (url or f"http://127.0.0.1:{backend_port()}").rstrip("/")
    child = None
    if not url:
        try:
            http_probe(f"{base}/v1/health")()
        except httpx.TransportError:
            port = free_port()
            base, child = f"http://127.0.0.1:{port}", backend_child(port)
    try:
        if child is not None:
            wait_ready([child.start()], timeout=timeout, say=say)
        yield base
    except httpx.HTTPError as error:
        raise Refused(
            f"The backend at {base} was asked.", f"It gave no answer: {error}.",
            "Start it with `manifold-atlas serve`, or check the address.",
        ) from error  # fmt: skip
    finally:
        if child is not None:
            child.stop()
