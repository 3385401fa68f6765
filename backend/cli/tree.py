"""The annotated tree of the README: every file once, its purpose taken from its own first docstring line."""

from __future__ import annotations

import ast
import json
import subprocess
import textwrap
from pathlib import Path

from backend.core.errors import Invalid

BEGIN, END = "<!-- tree: `manifold-atlas doctor --tree --write` -->", "<!-- end of tree -->"

ROOMS = {
    "backend": "everything that needs a model; imports go one way",
    "backend/wire": "what crosses the network: pydantic models and one binary container",
    "backend/core": "settings, errors, device policy, intervals",
    "backend/worlds": "procedural data with known ground truth",
    "backend/models": "adapters over transformers and diffusers, registry, samplers",
    "backend/activations": "sites, intervention points, harvesting, centring, attention heads",
    "backend/featurizers": "block featurizers and their baselines",
    "backend/manifolds": "curves, rings, fitting, topology, behaviour manifolds",
    "backend/steering": "interventions as values; image and text steps",
    "backend/studies": "one folder a study; each returns findings",
    "backend/catalogue": "cards and findings on disk",
    "backend/engine": "serving that knows no model: scheduler, mailbox, cache, jobs",
    "backend/server": "FastAPI routes",
    "backend/recipes": "how each shipped model was made",
    "backend/cli": "the command line",
    "app": "the Panel front end; imports backend.wire and nothing else of the backend",
    "app/client": "typed calls to the backend",
    "app/views": "data in, picture out; no network",
    "app/pages": "where client and views meet",
    "app/components": "ESM pieces: canvas, pad, head grid",
    "assets": "what ships: small trained models, featurizers, manifolds, the catalogue",
    "assets/models": "models, each with its card and measured quality",
    "assets/featurizers": "trained block featurizers",
    "assets/manifolds": "fitted manifolds that can be steered",
    "assets/catalogue": "findings and dataset cards",
    "tests": "mirrors the rooms; e2e in a real browser",
}
"""Purposes of folders that have no docstring of their own."""

FILES = {
    "pyproject.toml": "packaging, pinned versions, pytest and ruff settings",
    "Makefile": "make run, make test",
    "Dockerfile": "targets cpu and cuda",
    "LICENSE": "Apache-2.0",
    "README.md": "this page",
    ".ci/run": "what the build machine runs",
    ".gitignore": "what stays out of the repository",
    ".dockerignore": "what stays out of the image",
}


def listed(root: Path) -> list[str]:
    """Every source file, and every entry of ``assets`` as one folder ending in ``/``, sorted."""
    try:
        command = ["git", "-C", str(root), "ls-files", "--cached"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        names = [n for n in run.stdout.splitlines() if (root / n).exists()]
    except (OSError, subprocess.CalledProcessError):
        hidden = {".venv", ".git", "__pycache__", "build"}
        paths = [p.relative_to(root) for p in root.rglob("*") if p.is_file()]
        names = [str(p) for p in paths if not hidden & set(p.parts) and not any("egg-info" in q for q in p.parts)]
    found = set()
    for name in names:
        parts = Path(name).parts
        if parts[0] == "assets" and len(parts) > 2:
            # A model is one thing: its weights are named on its card.
            found.add("/".join(parts[:3]) + ("/" if len(parts) > 3 else ""))
        elif parts[-1] != "__init__.py":
            found.add(name)
    return sorted(found)


def purpose(root: Path, name: str) -> str:
    """What a file is for, in one line; empty where it does not say."""
    path = root / name
    if name in FILES:
        return FILES[name]
    if name.endswith("/"):
        for card in ("card.json", "manifold.json", "cfg.json"):
            if (path / card).exists():
                raw = json.loads((path / card).read_text(encoding="utf-8"))
                return str(raw.get("title") or raw.get("summary") or raw.get("name") or "")
        return {"findings": "one JSON file a finding", "cards": "one JSON file a dataset"}.get(path.name, "")
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".py":
        doc = ast.get_docstring(ast.parse(text)) or ""
        return _short(doc.split("\n\n")[0].replace("\n", " "))
    first = text.lstrip().splitlines()[0] if text.strip() else ""
    for mark in ("//", "/*", "#", "<!--"):
        if first.startswith(mark):
            return _short(first.removeprefix(mark).removesuffix("*/").removesuffix("-->").strip())
    return ""


def _short(text: str) -> str:
    """The first sentence without its full stop, at most 96 characters."""
    return textwrap.shorten(text.split(". ")[0].rstrip(".").replace("``", ""), 96, placeholder=" …")


def _folder_purpose(root: Path, folder: str) -> str:
    init = root / folder / "__init__.py"
    doc = (ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or "") if init.exists() else ""
    return ROOMS.get(folder) or doc.split("\n")[0].rstrip(".")


def tree(root: Path) -> str:
    """The annotated tree as text: folders with their purpose, then their files."""
    lines, open_folders = [], []
    names = listed(root)
    # Folders of the project first, files beside them last.
    for name in sorted(names, key=lambda n: ("/" not in n.rstrip("/"), n)):
        parts = name.rstrip("/").split("/")
        folders = parts[:-1]
        for depth in range(len(folders)):
            if open_folders[: depth + 1] != folders[: depth + 1]:
                path = "/".join(folders[: depth + 1])
                lines.append(_line(depth, folders[depth] + "/", _folder_purpose(root, path)))
        open_folders = folders
        lines.append(_line(len(folders), parts[-1] + ("/" if name.endswith("/") else ""), purpose(root, name)))
    return "\n".join(lines)


def _line(depth: int, name: str, text: str) -> str:
    return f"{'  ' * depth + name:<42s} {text}".rstrip()


def write(root: Path) -> Path:
    """Put the tree between its two marks in ``README.md``; raises ``Invalid`` where they are missing."""
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        todo = f"Add {BEGIN} and {END}."
        raise Invalid("The tree was to be written into README.md.", "Its two marks are missing.", todo)
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    readme.write_text(f"{head}{BEGIN}\n```\n{tree(root)}\n```\n{END}{tail}", encoding="utf-8")
    return readme


def paths_in(text: str) -> list[str]:
    """The files that a README's tree section names, as full paths (entries of ``assets`` end in ``/``)."""
    section = text.partition(BEGIN)[2].partition(END)[0].strip().strip("`").strip("\n")
    folders: list[str] = []
    found = []
    lines = section.splitlines()
    for i, line in enumerate(lines):
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders = folders[:depth]
        after = lines[i + 1] if i + 1 < len(lines) else ""
        deeper = len(after) - len(after.lstrip()) > 2 * depth
        if name.endswith("/") and deeper:
            folders.append(name.rstrip("/"))
        else:
            found.append("/".join([*folders, name]))
    return found
