"""Cards: what an entry of the collection says of itself, read from the ``card.json`` and ``README.md`` beside it.

Recipes write what they measured in the shape that suits them; here it becomes one ``Card``: single values are facts,
gates are lines of ``{name, value, aim, passed}``. A folder without a card is an entry in the making and is passed over.
"""

from __future__ import annotations

import json
from pathlib import Path

from backend.wire.findings import Card

_TAKEN = {"name", "kind", "title", "summary", "licence", "license", "gates", "quality", "markdown", "facts"}


def read_card(path: Path, *, kind: str) -> Card | None:
    """The card of one entry (a folder or a JSON file), ``None`` where it has none; ``ValueError`` on a broken one."""
    if path.is_dir():
        source = next((path / n for n in ("card.json", "manifold.json", "cfg.json") if (path / n).exists()), None)
        if source is None:
            return None
        readme = path / "README.md"
    else:
        source, readme = path, path.with_suffix(".md")
    raw = json.loads(source.read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise ValueError("the card is not a JSON object")
    markdown = readme.read_text(encoding="utf-8") if readme.exists() else ""
    name = str(raw.get("name") or (path.name if path.is_dir() else path.stem))
    said = raw.get("summary") or raw.get("description")
    return Card(
        name=name,
        kind=kind,
        title=str(raw.get("title") or name),
        summary=str(said or _first_paragraph(markdown) or raw.get("task") or ""),
        facts=raw.get("facts") or {k: v for k, v in raw.items() if k not in _TAKEN and _is_single(v)},
        gates=[line for line in raw.get("gates", []) if isinstance(line, dict)],
        licence=_licence(raw),
        markdown=str(raw.get("markdown") or markdown),
    )


def _is_single(value: object) -> bool:
    return value is None or (isinstance(value, (str, int, float)) and not isinstance(value, bool))


def _licence(raw: dict) -> str:
    given = str(raw.get("licence") or raw.get("license") or "Apache-2.0")
    return "Apache-2.0" if given.lower() in ("apache-2.0", "same as the project") else given


def _first_paragraph(markdown: str) -> str:
    for part in markdown.split("\n\n"):
        text = " ".join(part.split())
        if text and not text.startswith(("#", "|", "`", "---")):
            return text
    return ""
