"""The stand-in backend, spoken to without a socket."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest


@pytest.fixture(scope="session")
def stand_in() -> ModuleType:
    folder = Path(__file__).with_name("fake_backend")
    spec = importlib.util.spec_from_file_location(
        "atlas_fake_backend", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    # Its own files and FastAPI find it by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def transport(stand_in) -> httpx.ASGITransport:
    return httpx.ASGITransport(app=stand_in.make_app(delay=0.005))
