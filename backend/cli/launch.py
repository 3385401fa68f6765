"""``run``, ``serve`` and ``app``: start the two processes and keep them alive.

A child that dies is restarted and reported; after three deaths in five minutes everything is stopped, because a
fourth start would say nothing new.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import webbrowser
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from backend.cli.processes import Child, app_child, backend_child, host, require_port, wait_ready
from backend.core.errors import Refused
from backend.core.settings import app_port, assets_dir, backend_port

console = Console(stderr=True)

MAX_DEATHS, WINDOW_S = 3, 300.0

Port = Annotated[int | None, typer.Option("--port", help="Port of the app; by default ATLAS_APP_PORT or 5006.")]
BackendPort = Annotated[
    int | None, typer.Option("--backend-port", help="Port of the backend; by default ATLAS_BACKEND_PORT or 8000.")
]


def run(
    port: Port = None,
    backend: BackendPort = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser when it is ready.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that both may take to start.")] = 600.0,
) -> None:
    """Start backend and app, wait until both answer, print the address. Ctrl-C stops both.

    Example: `manifold-atlas run`, then open http://localhost:5006

    Example: `ATLAS_APP_PORT=5010 manifold-atlas run --browser`
    """
    app_at, backend_at = port or app_port(), backend or backend_port()
    require_port("app", app_at, "ATLAS_APP_PORT")
    require_port("backend", backend_at, "ATLAS_BACKEND_PORT")
    children = [backend_child(backend_at), app_child(app_at, backend_at)]
    supervise(children, address=f"http://localhost:{app_at}", timeout=timeout, browser=browser)


def supervise(children: list[Child], *, address: str, timeout: float, browser: bool = False) -> None:
    """Start ``children``, announce ``address``, restart what dies, and stop all of them at the end."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell that starts us in the background leaves it ignored.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for child in children:
            child.start()
        with console.status("starting Manifold Atlas") as status:
            wait_ready(children, timeout=timeout, say=_teller(status.update))
        console.print(f"[bold]Manifold Atlas[/bold] is ready: [bold cyan]{address}[/bold cyan]   (Ctrl-C stops it)")
        if browser:
            webbrowser.open(address)
        while True:
            for child in children:
                _revive(child)
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("stopping …")
    finally:
        for child in reversed(children):
            child.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    console.print("stopped.")


def _teller(update: Callable[[str], None]) -> Callable[[str], None]:
    """Show a state in the spinner; in a log, where nothing spins, print a line where what is awaited changes."""
    said = ""

    def say(message: str) -> None:
        nonlocal said
        update(message)
        what = message.rpartition(",")[0]
        if not console.is_terminal and what != said:
            console.print(message, highlight=False)
            said = what

    return say


def _revive(child: Child) -> None:
    if (code := child.exit_code()) is None:
        return
    now = time.monotonic()
    child.deaths = [t for t in child.deaths if now - t < WINDOW_S] + [now]
    console.print(f"[red]The {child.title} ended with exit code {code}.[/red] Its last lines:", highlight=False)
    console.print(child.tail(), markup=False, highlight=False)
    if len(child.deaths) >= MAX_DEATHS:
        raise Refused(
            f"The {child.title} was to keep running.", f"It ended {len(child.deaths)} times in five minutes.",
            f"Read {child.log}, and run `manifold-atlas doctor`.",
        )  # fmt: skip
    console.print(f"Starting the {child.title} again …")
    child.start()


def serve(
    port: Annotated[int | None, typer.Option(help="By default ATLAS_BACKEND_PORT or 8000.")] = None,
) -> None:
    """Start the backend alone, in the foreground: the API for scripts and for an app elsewhere.

    Example: `manifold-atlas serve --port 8000`, then `curl localhost:8000/v1/health`
    """
    at = port or backend_port()
    require_port("backend", at, "ATLAS_BACKEND_PORT")
    console.print(f"Backend on http://{host()}:{at}, assets in {assets_dir()}", highlight=False)
    os.environ["ATLAS_BACKEND_PORT"] = str(at)
    os.execv(sys.executable, [sys.executable, "-m", "backend.server"])


def app(port: Port = None, backend: BackendPort = None) -> None:
    """Start the app alone, in the foreground; it shows a banner until a backend answers.

    Example: `manifold-atlas app --backend-port 8000`
    """
    at = port or app_port()
    require_port("app", at, "ATLAS_APP_PORT")
    os.environ["ATLAS_APP_PORT"] = str(at)
    os.environ["ATLAS_BACKEND_PORT"] = str(backend or backend_port())
    console.print(f"App on http://localhost:{at}", highlight=False)
    os.execv(sys.executable, [sys.executable, "-m", "app"])
