"""The README's tree names each file exactly once, with a purpose; its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from backend.cli import tree
from backend.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
AGAIN = "run `manifold-atlas doctor --tree --write`"


def test_the_tree_lists_each_file_exactly_once():
    named, there = tree.paths_in(README), tree.listed(ROOT)
    assert len(named) == len(set(named)), f"named twice: {sorted({n for n in named if named.count(n) > 1})}"
    assert set(named) == set(there), f"{AGAIN}; missing {set(there) - set(named)}, gone {set(named) - set(there)}"


def test_each_source_file_says_what_it_is_for():
    silent = [n for n in tree.listed(ROOT) if n.endswith((".py", ".js", ".css")) and not tree.purpose(ROOT, n)]
    assert not silent, f"no docstring or first comment: {silent}"


def test_reading_a_tree_undoes_writing_it(tmp_path):
    for name, text in {
        "backend/__init__.py": '"""The backend."""', "backend/core/errors.py": '"""Errors. More."""',
        "app/pages/home.py": '"""Home\npage."""', "assets/models/m/card.json": '{"title": "M"}',
        "assets/models/m/w.safetensors": "", "pyproject.toml": "", "README.md": f"a\n{tree.BEGIN}\n{tree.END}\nz",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    tree.write(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert tree.paths_in(text) == [
        "app/pages/home.py", "assets/models/m/", "backend/core/errors.py", "README.md", "pyproject.toml"
    ]  # fmt: skip
    assert "Home page" in text and re.search(r"errors\.py +Errors$", text, re.M) and text.startswith("a\n")
    assert text.endswith("z") and tree.write(tmp_path) and (tmp_path / "README.md").read_text() == text


def test_every_command_in_the_readme_exists():
    commands = set(typer.main.get_command(cli).commands)
    used = set(re.findall(r"manifold-atlas ([a-z]+)", README.partition(tree.BEGIN)[0]))
    assert used <= commands, used - commands
    assert commands <= used, f"the README does not show {commands - used}"


def test_every_setting_is_in_the_readme():
    used = set()
    for path in [*(ROOT / "backend").rglob("*.py"), *(ROOT / "app").rglob("*.py")]:
        used |= set(re.findall(r"[\"'](ATLAS_[A-Z_]+)[\"']", path.read_text(encoding="utf-8")))
    assert used and not (missing := {name for name in used if name not in README}), missing
