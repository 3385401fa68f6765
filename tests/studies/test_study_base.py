"""Studies: registry, judgement, what is stored, what the command prints."""

from __future__ import annotations

import json

import pytest

from backend.catalogue.store import Catalogue
from backend.cli.main import cli
from backend.core.errors import Invalid, NotFound
from backend.core.stats import Interval
from backend.studies import base
from backend.wire.findings import StudyResult


@pytest.fixture
def toy(monkeypatch):
    """A registered study with one finding measured and one absent."""
    monkeypatch.setattr(base, "_REGISTERED", dict(base._REGISTERED))

    @base.study("toy")
    def run(ctx):
        """A toy."""
        ctx.progress(0.5, "half way")
        draw = float(base.torch.rand((), generator=ctx.generator))
        print("noise on standard output")
        return [
            ctx.finding("value", "It is a number.", Interval(draw, 0.0, 1.0, 7), aim=">= 0", controls={"zero": 0.0}),
            ctx.absent("missing", "It would be a number.", "there is no model"),
        ]

    return run


@pytest.mark.parametrize(
    "value, aim, verdict",
    [
        (1.0, ">= 1", "holds"),
        (0.9, ">= 1", "falls short"),
        (0.03, "<= 0.03 of attention", "holds"),
        (2.0, "< 2", "falls short"),
        (None, ">= 1", "unjudged"),
        (1.0, "", "unjudged"),
        (1.0, "as good as possible", "unjudged"),
        (1.0, ">= much", "unjudged"),
    ],
)
def test_judgement(value, aim, verdict):
    assert base.judge(value, aim) == verdict


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.1, 0.3, "holds"), (-0.1, 0.5, "null"), (0.0, 0.5, "null")])
def test_a_difference_whose_interval_holds_the_limit_is_null(low, high, verdict):
    assert base.judge(0.2, "> 0", low=low, high=high) == verdict
    assert base.judge(0.2, ">= 0", low=low, high=high) == "holds", "a level asks no difference"


def test_a_run_is_stored_repeatable_and_says_how_to_repeat_it(home, toy):
    seen = []
    first = base.run_study("toy", seed=3, progress=lambda f, m: seen.append((f, m)))
    again, other = base.run_study("toy", seed=3), base.run_study("toy", seed=4)
    assert first.findings == again.findings and first.findings != other.findings
    assert seen == [(0.5, "half way"), (1.0, "done")]
    (stored,) = Catalogue(home).findings()
    assert stored == other.findings[0]
    assert stored.command == "manifold-atlas study toy --scale small --seed 4"
    assert (stored.low, stored.high, stored.n, stored.status) == (0.0, 1.0, 7, "holds")


def test_what_was_not_measured_is_reported_and_not_stored(home, toy):
    notes = []
    result = base.run_study("toy", notes=notes)
    assert result.findings[1].value is None and result.findings[1].status == "unjudged"
    assert notes == ["toy/missing was not measured: there is no model"]
    assert [f.id for f in Catalogue(home).findings()] == ["toy/value"]


def test_unknown_names_and_scales_are_refused(toy):
    with pytest.raises(NotFound, match="toy"):
        base.load("no-such-study")
    with pytest.raises(Invalid, match="small and paper"):
        base.run_study("toy", "huge")


def test_a_finding_under_another_studys_name_is_refused(home, monkeypatch):
    monkeypatch.setattr(base, "_REGISTERED", {})

    @base.study("thief")
    def run(ctx):
        return [ctx.finding("x", "Mine.", 1.0).model_copy(update={"id": "toy/x"})]

    with pytest.raises(Invalid, match="toy/x"):
        base.run_study("thief")


def test_every_study_in_its_folder_registers_under_its_name():
    for name, purpose in base.available().items():
        assert callable(base.load(name)), name
        assert purpose, f"the study {name} has no docstring"


def test_the_last_line_of_the_command_is_the_result(home, toy):
    from typer.testing import CliRunner

    run = CliRunner().invoke(cli, ["study", "toy", "--seed", "3", "--json"])
    assert run.exit_code == 0, run.output
    lines = run.stdout.strip().splitlines()
    result = StudyResult.model_validate_json(lines[-1])
    assert set(json.loads(lines[-1])) == {"study", "scale", "seed", "seconds", "findings"}
    assert [f.id for f in result.findings] == ["toy/value", "toy/missing"]
    assert "control: zero" in run.stdout and "there is no model" in run.stdout
    assert "noise on standard output" not in run.stdout
