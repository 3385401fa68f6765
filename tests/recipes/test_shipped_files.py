"""What is shipped says nothing of the machine that it was made on."""

from __future__ import annotations

import json
import re

from backend.core.settings import assets_dir
from backend.models.random_weights import tiny_sdxl
from backend.recipes.tabletop_sdxl_lcm import without_origin


def texts(value):
    """All strings in parsed JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)


def test_no_json_among_the_assets_holds_an_absolute_path():
    files = sorted(assets_dir().rglob("*.json"))
    assert files
    found = [(path.name, text) for path in files for text in texts(json.loads(path.read_text()))
             if re.match(r"/[a-z]+/|[A-Z]:\\", text)]  # fmt: skip
    assert not found


def test_a_copied_unet_forgets_where_it_was_read_from(tmp_path):
    unet = tiny_sdxl().unet
    unet.save_pretrained(tmp_path / "teacher")
    teacher = type(unet).from_pretrained(tmp_path / "teacher")
    without_origin(teacher).save_pretrained(tmp_path / "student")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    before = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert config == {key: value for key, value in before.items() if key != "_name_or_path"}
    student = type(unet).from_pretrained(tmp_path / "student")
    assert all((a == b).all() for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
