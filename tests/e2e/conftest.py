"""A backend, the app and a browser, each a process of its own, on ports that nobody else uses.

The backend is the real one where the shipped picture model is there, else the stand-in of ``tests/app``;
``ATLAS_E2E_BACKEND=real`` or ``fake`` decides otherwise.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(
    (p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome") if Path(p).exists()), ""
)
ARGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
]  # fmt: skip
PATIENCE_MS = int(os.environ.get("ATLAS_E2E_PATIENCE", "60")) * 1000
"""How long one expectation may take: two busy cores are slow, and waiting costs nothing where they are not."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def which_backend() -> str:
    asked = os.environ.get("ATLAS_E2E_BACKEND", "")
    return asked or ("real" if (ROOT / "assets" / "models" / "tabletop-sdxl" / "model_index.json").exists() else "fake")


@dataclass
class Process:
    """A process that can be stopped and started again on the same port."""

    command: list[str]
    url: str
    env: dict[str, str]
    log: Path
    running: subprocess.Popen | None = field(default=None)

    def start(self, *, seconds: float = 240.0) -> Process:
        with self.log.open("ab") as out:
            self.running = subprocess.Popen(
                self.command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **self.env}, stdout=out, stderr=out
            )
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.running.poll() is not None:
                break
            try:
                answer = httpx.get(self.url, timeout=20.0, trust_env=False)
                if answer.status_code == 200 and b'"starting"' not in answer.content[:200]:
                    return self
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        self.stop()
        raise RuntimeError(f"{self.command} did not answer:\n{self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        if self.running is not None and self.running.poll() is None:
            self.running.terminate()
            try:
                self.running.wait(15)
            except subprocess.TimeoutExpired:
                self.running.kill()
                self.running.wait()


@pytest.fixture(scope="session")
def backend(tmp_path_factory) -> Iterator[Process]:
    port = free_port()
    command = (
        [sys.executable, "-m", "backend.server"]
        if which_backend() == "real"
        else [sys.executable, str(ROOT / "tests" / "app" / "fake_backend"), str(port)]
    )
    made = Process(
        command,
        f"http://127.0.0.1:{port}/v1/health",
        {"ATLAS_BACKEND_PORT": str(port)},
        tmp_path_factory.mktemp("logs") / "backend.log",
    )
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="session")
def app(backend, tmp_path_factory) -> Iterator[str]:
    """The app's address."""
    port = free_port()
    env = {"ATLAS_APP_PORT": str(port), "ATLAS_BACKEND_PORT": backend.env["ATLAS_BACKEND_PORT"]}
    made = Process(
        [sys.executable, "-m", "app"], f"http://127.0.0.1:{port}/", env, tmp_path_factory.mktemp("logs") / "app.log"
    )
    try:
        made.start()
        yield f"http://localhost:{port}"
    finally:
        made.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield made
        made.close()


@dataclass
class Tab:
    """One open page with everything that went wrong on it."""

    page: Page
    base: str
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.base}/{path}", wait_until="domcontentloaded", timeout=PATIENCE_MS)
        self.page.wait_for_selector(
            ".bar .state[data-state=ready], .bar .state[data-state=degraded]", timeout=PATIENCE_MS
        )
        return self.page


@pytest.fixture
def tab(browser, app) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    made = Tab(page, app)
    own = (app, app.replace("http", "ws", 1), "data:", "blob:")
    page.on("console", lambda m: made.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: made.errors.append(str(e)))
    page.on("request", lambda r: None if r.url.startswith(own) else made.outside.append(r.url))
    yield made
    context.close()
