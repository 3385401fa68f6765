"""Imports go one way. This test parses them and fails on a door that should not be there.

    wire → core → worlds, models → activations → featurizers → manifolds → steering → recipes → studies → server → cli

Beside that line stand ``catalogue`` (core, wire), ``engine`` (core) and ``app`` (wire, and nothing else of the
backend). Imports inside functions count, and so does ``importlib.import_module("a.name.in.quotes")``. The checker
is tested on a synthetic tree with planted doors: a checker that finds nothing proves nothing.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

_LINE = ("wire", "core", "worlds", "models", "activations", "featurizers", "manifolds", "steering", "recipes")

ALLOWED: dict[str, set[str]] = {
    "wire": set(),
    "core": {"wire"},
    "worlds": {"wire", "core"},
    "models": {"wire", "core"},
    "activations": {"wire", "core", "worlds", "models"},
    "featurizers": {"wire", "core", "worlds", "models", "activations"},
    "manifolds": {"wire", "core", "worlds", "models", "activations", "featurizers"},
    "steering": {"wire", "core", "worlds", "models", "activations", "featurizers", "manifolds"},
    "catalogue": {"wire", "core"},
    "engine": {"core"},
    "recipes": {*_LINE[:-1], "catalogue"},
    "studies": {*_LINE, "catalogue"},
    "server": {*_LINE, "catalogue", "studies", "engine"},
    "cli": {*_LINE, "catalogue", "studies", "engine", "server"},
}
"""Which other rooms of the backend each room may import."""

_MODEL_LIBRARIES = {"torch", "transformers", "diffusers", "safetensors", "accelerate", "umap", "sklearn", "ripser"}
# urllib.parse only takes addresses apart; it asks nobody.
_NETWORK = {"httpx", "requests", "aiohttp", "websockets", "urllib.request", "urllib3", "http", "socket", "tornado"}
_SCREEN = {"panel", "panel_material_ui", "bokeh", "holoviews", "datashader", "param"}
_SERVING = {"fastapi", "starlette", "uvicorn", "sse_starlette"}


def _module_name(path: Path, root: Path) -> tuple[str, ...]:
    parts = path.relative_to(root).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path, root: Path) -> list[tuple[int, str]]:
    """``(line, dotted name)`` of everything that one file imports; ``from a import b`` counts as ``a.b``."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    package = path.relative_to(root).parent.parts
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *(node.module.split(".") if node.module else ())))
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.append((node.lineno, node.args[0].value))
    return found


def _in(name: str, prefixes: set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _backend_door(me: tuple[str, ...], name: str, studies: set[str]) -> str | None:
    room, target = me[1] if len(me) > 1 else "", name.split(".")
    if target[0] == "app":
        return "the backend never imports the app"
    if _in(name, _SCREEN):
        return "the backend draws nothing"
    if _in(name, _SERVING) and room not in ("server", "cli"):
        return "only the server speaks HTTP"
    if room == "wire" and target[0] not in {"backend", "pydantic"} and target[0] not in sys.stdlib_module_names:
        return "the wire is pydantic and the standard library"
    if room == "engine" and _in(name, {"transformers", "diffusers"}):
        return "the engine knows no model"
    if target[0] != "backend" or len(target) < 2 or target[1] not in ALLOWED:
        return None
    if room in ALLOWED and target[1] != room and target[1] not in ALLOWED[room]:
        return f"{room} may import {', '.join(sorted(ALLOWED[room])) or 'no other room'}"
    # Studies: base.py and its kin are shared, a folder belongs to one study.
    if room == "studies" and target[1] == "studies" and len(target) > 2 and len(me) > 2:
        mine, theirs = me[2], target[2]
        if mine != theirs and theirs in studies:
            return "studies never import each other"
    return None


def _app_door(me: tuple[str, ...], name: str, studies: set[str]) -> str | None:
    room, target = me[1] if len(me) > 1 else "", name.split(".")
    if target[0] == "backend" and target[1:2] != ["wire"]:
        return "the app imports backend.wire and nothing else of the backend"
    if _in(name, _MODEL_LIBRARIES):
        return "the app starts without a model library"
    if room == "views" and (_in(name, _NETWORK) or _in(name, {"app.client", "app.pages"})):
        return "views never touch the network"
    if room == "client" and (_in(name, _SCREEN) or _in(name, {"app.views", "app.pages", "app.components"})):
        return "the client draws nothing"
    if room == "components" and _in(name, {"app.client", "app.pages"} | _NETWORK):
        return "components are given data; pages do the asking"
    return None


def wrong_doors(root: Path) -> list[str]:
    """One line for each import under ``root`` that the order of permission does not allow."""
    studies = {p.parent.name for p in (root / "backend" / "studies").glob("*/__init__.py")}
    found = []
    for top, rule in (("backend", _backend_door), ("app", _app_door)):
        for path in sorted((root / top).rglob("*.py")):
            me = _module_name(path, root)
            for line, name in imports(path, root):
                reason = rule(me, name, studies)
                if reason:
                    found.append(f"{path.relative_to(root)}:{line} imports {name}: {reason}")
    return found


def test_no_wrong_door():
    assert not (doors := wrong_doors(ROOT)), "\n" + "\n".join(doors)


def test_every_room_is_known():
    rooms = {p.name for p in (ROOT / "backend").iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert rooms <= set(ALLOWED), f"rooms without a rule: {sorted(rooms - set(ALLOWED))}"


def _plant(root: Path, name: str, source: str) -> None:
    path = root / name
    for folder in [path.parent, *path.parent.parents]:
        if folder == root:
            break
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
    path.write_text(source)


PLANTED = {
    "core imports a model": ("backend/core/a.py", "from backend.models import registry"),
    "worlds and models are siblings": ("backend/worlds/a.py", "import backend.models.registry"),
    "inside a function": ("backend/activations/a.py", "def f():\n    from backend.steering import text\n"),
    "relative": ("backend/manifolds/a.py", "from ..steering import text"),
    "relative, plain": ("backend/core/a.py", "from .. import server"),
    "in quotes": ("backend/featurizers/a.py", "import importlib\nimportlib.import_module('backend.studies.base')"),
    "engine imports the wire": ("backend/engine/a.py", "from backend.wire.frame import pack"),
    "engine knows a model": ("backend/engine/a.py", "import diffusers"),
    "catalogue imports a study": ("backend/catalogue/a.py", "from backend.studies import base"),
    "recipe imports a study": ("backend/recipes/a.py", "from backend.studies import base"),
    "study imports a study": ("backend/studies/one/a.py", "from backend.studies.two import b"),
    "study imports the server": ("backend/studies/one/a.py", "from backend.server import app"),
    "wire imports numpy": ("backend/wire/a.py", "import numpy as np"),
    "http below the server": ("backend/steering/a.py", "from fastapi import FastAPI"),
    "backend imports the app": ("backend/server/a.py", "from app.client import api"),
    "backend draws": ("backend/studies/one/a.py", "import holoviews"),
    "app imports core": ("app/pages/a.py", "from backend.core import settings"),
    "app imports torch": ("app/views/a.py", "import torch"),
    "view on the network": ("app/views/a.py", "import httpx"),
    "view on the network by the standard library": ("app/views/a.py", "from urllib.request import urlopen"),
    "view imports client": ("app/views/a.py", "from app.client.api import Client"),
    "view imports client, relative": ("app/views/a.py", "from ..client import api"),
    "client imports panel": ("app/client/a.py", "import panel as pn"),
    "component imports client": ("app/components/a.py", "from app import client"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_door_is_found(tmp_path, case):
    name, source = PLANTED[case]
    for folder in ("backend/studies/one", "backend/studies/two", "app/views"):
        _plant(tmp_path, f"{folder}/good.py", "import json\n")
    _plant(tmp_path, name, source)
    doors = wrong_doors(tmp_path)
    assert len(doors) == 1 and doors[0].startswith(name + ":"), doors


def test_allowed_doors_are_left_alone(tmp_path):
    _plant(tmp_path, "backend/studies/two/b.py", "import torch\n")
    _plant(tmp_path, "backend/studies/base.py", "from backend.catalogue import store\nfrom backend.wire import base\n")
    _plant(tmp_path, "backend/studies/one/a.py", "from backend.studies.base import study\nfrom . import b\n")
    _plant(tmp_path, "backend/studies/one/b.py", "from backend.recipes import calendar_llama\nimport torch\n")
    _plant(tmp_path, "backend/server/a.py", "import fastapi\nfrom backend.engine import mailbox\n")
    _plant(tmp_path, "app/pages/a.py", "import panel\nfrom app.client import api\nfrom backend.wire import frame\n")
    _plant(tmp_path, "app/views/a.py", "from urllib.parse import quote\nimport holoviews\n")
    _plant(tmp_path, "app/client/a.py", "import httpx\nfrom backend.wire import canvas\n")
    assert wrong_doors(tmp_path) == []
