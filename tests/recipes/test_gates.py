"""Gates of cards: which way they point, and that one miss fails the card."""

from __future__ import annotations

import json

from backend.recipes import gates


def test_a_gate_points_the_way_it_says_and_one_miss_fails_the_card(tmp_path):
    good, met = gates.at_least("accuracy", 0.98, 0.98), gates.at_most("error", 5.0, 10)
    assert good == {"name": "accuracy", "value": 0.98, "aim": ">= 0.98", "passed": True}
    assert met["aim"] == "<= 10" and met["passed"]
    missed = gates.at_most("error", 10.1, 10)
    assert not missed["passed"] and not gates.at_least("accuracy", 0.97, 0.98)["passed"]
    assert gates.write(tmp_path, {"name": "a", "gates": [good, met]})["passed"]
    assert not gates.write(tmp_path, {"name": "a", "gates": [good, missed]})["passed"]
    assert json.loads((tmp_path / "card.json").read_text())["passed"] is False
