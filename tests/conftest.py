"""What every test stands on: few threads, a home folder of its own, no model hub, and the meaning of the markers."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

# Before torch is imported anywhere: two busy thread pools on two cores slow each other down tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
_home = tempfile.mkdtemp(prefix="atlas-tests-")
os.environ["ATLAS_HOME"] = _home

import pytest  # noqa: E402

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {}
    # ``-m slow`` asks for them by name, which is as clear as --slow.
    if not config.getoption("--slow") and "slow" not in (config.getoption("-m") or ""):
        skips["slow"] = "slow: run with --slow"
    if not any(Path(path).exists() for path in CHROMIUM):
        skips["e2e"] = "no chromium found: apt install chromium"
    if any("gpu" in item.keywords for item in items):
        import torch

        if not torch.cuda.is_available():
            skips["gpu"] = "no GPU on this machine"
    # Browser tests go last: while Playwright is open an event loop runs in this thread, and no other may be started.
    items.sort(key=lambda item: "e2e" in item.keywords)
    for item in items:
        for marker, reason in skips.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_home, ignore_errors=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ATLAS_HOME for one test."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("ATLAS_HOME", str(folder))
    return folder
