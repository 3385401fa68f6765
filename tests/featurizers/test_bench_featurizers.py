"""The featurizer bench: one small competitor in a process of its own, ratios, absent peers, what cannot be asked."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from backend.cli import bench_featurizers as bench
from backend.cli.main import cli
from backend.core.errors import Invalid, NotFound

SMALL = bench.Setting(tokens=2000, d=16, n_blocks=24, d_block=2, k=2, batch=100, held=300, threads=1)


def row(name: str, speed: float, r2: float = 0.5) -> dict:
    return {"name": name, "version": "1", "settings": "", "tokens_per_s": speed, "tokens_per_cpu_s": 2 * speed,
            "peak_mib": 100.0, "r2": r2}  # fmt: skip


def test_ours_trains_and_is_measured():
    one = bench.work("grassmannian", SMALL)
    assert 0.2 < one["r2"] < 1 and one["tokens_per_s"] > 0 and one["peak_mib"] > 0
    # Rows are those of a factor model of the right scale, the same for everybody.
    x = bench.planted(SMALL, 500, seed=3)
    assert abs(float(x.square().sum(1).mean()) / 16 - 1) < 0.15
    assert bool((x == bench.planted(SMALL, 500, seed=3)).all()) and bool((x != bench.planted(SMALL, 500, seed=4)).any())


def test_a_peer_that_is_not_there_is_reported_as_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "dictionary_learning", None)
    assert "dictionary_learning" in bench.work("dictionary-learning", SMALL)["absent"]
    assert bench.run_one("overcomplete", SMALL, python="/bin/false")["failed"].startswith("exit 1")


def test_ratios_are_to_the_fastest_peer():
    found = bench.ratios([row("grassmannian", 30, 0.8), row("vanilla", 90), row("overcomplete", 10, 0.7),
                          row("eai-sparsify", 15), {"name": "sae-lens", "absent": "x"}])  # fmt: skip
    assert found["featurizers/speed-over-fastest-peer"] == 2
    assert found["featurizers/cpu-speed-over-fastest-peer"] == 2
    assert found["featurizers/r2-minus-best-peer"] == pytest.approx(0.1)
    assert bench.ratios([row("grassmannian", 30)]) == {}


def test_the_command_prints_one_json_line_last(monkeypatch):
    monkeypatch.setattr(bench, "run_one", lambda name, setting, python: row(name, 10.0 + len(name)))
    asked = ["bench", "featurizers", "--tokens", "500", "--setting", "16,24,2,2,100", "--json",
             "--only", "grassmannian,overcomplete"]  # fmt: skip
    answer = CliRunner().invoke(cli, asked)
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout.strip().splitlines()[-1])
    assert found["bench"] == "featurizers" and [r["name"] for r in found["rows"]] == ["grassmannian", "overcomplete"]
    assert found["setting"]["tokens"] == 500 and "featurizers/speed-over-fastest-peer" in found["ratios"]


def test_impossible_settings_are_refused():
    for text in ("16,24,2,2", "16,24,2,x,100", "16,24,2,25,100", "0,24,2,2,100"):
        with pytest.raises(Invalid):
            bench.parse(text, tokens=100)
    with pytest.raises(NotFound):
        bench.run(SMALL, only=["pytorch"])
