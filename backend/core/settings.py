"""Where things lie and how the two processes find each other. Read from the environment, once per call."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def assets_dir() -> Path:
    """The read-only collection that ships with the project (``ATLAS_ASSETS`` overrides)."""
    return Path(os.environ.get("ATLAS_ASSETS") or Path(__file__).resolve().parents[2] / "assets")


def atlas_home() -> Path:
    """Where everything that a user makes is kept (``ATLAS_HOME`` overrides). Created on demand."""
    home = Path(os.environ.get("ATLAS_HOME") or platformdirs.user_data_dir("manifold-atlas"))
    home.mkdir(parents=True, exist_ok=True)
    return home


def realdata_dir() -> Path | None:
    """Real weights and data beside the project, for checks only; ``None`` where they are absent."""
    folder = Path(os.environ.get("ATLAS_REALDATA") or Path(__file__).resolve().parents[3] / "shared" / "realdata")
    return folder if folder.is_dir() else None


def backend_port() -> int:
    return int(os.environ.get("ATLAS_BACKEND_PORT", "8000"))


def app_port() -> int:
    return int(os.environ.get("ATLAS_APP_PORT", "5006"))
