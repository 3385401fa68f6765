"""A gate of a card: what a model had to reach on held-out data before its weights were kept, and what it reached.

Not covered: intervals and controls; those stand in the findings of the study ``cards``.
"""

from __future__ import annotations

import json
from pathlib import Path


def at_least(name: str, value: float, aim: float) -> dict:
    """The line ``{name, value, aim, passed}`` for a value that must be ``aim`` or more."""
    return {"name": name, "value": value, "aim": f">= {aim:g}", "passed": value >= aim}


def at_most(name: str, value: float, aim: float) -> dict:
    """The line ``{name, value, aim, passed}`` for a value that must be ``aim`` or less."""
    return {"name": name, "value": value, "aim": f"<= {aim:g}", "passed": value <= aim}


def write(folder: Path, card: dict) -> dict:
    """Write ``card.json`` into ``folder`` with ``passed`` drawn from ``card["gates"]``; returns the card."""
    card = card | {"passed": all(line["passed"] for line in card["gates"])}
    (Path(folder) / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return card
