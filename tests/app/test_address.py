"""The address restores the view, is short, and survives nonsense."""

from __future__ import annotations

import param
import pytest

from app.pages.address import read, write


class State(param.Parameterized):
    prompt = param.String(default="a red cube")
    seed = param.Integer(default=7, bounds=(0, 100))
    t = param.Number(default=None, allow_None=True)


def test_defaults_are_not_written():
    assert write(State()) == ""


@pytest.mark.parametrize(
    "values", [{"prompt": "a & b = c?\n#1", "seed": 4, "t": 0.3125}, {"t": 0.0}, {"prompt": "ünï"}]
)
def test_what_is_written_is_read_back(values):
    before, after = State(**values), State()
    read(after, write(before))
    assert (after.prompt, after.seed, after.t) == (before.prompt, before.seed, before.t)


def test_nonsense_is_left_at_its_default():
    state = State()
    read(state, "?seed=many&t=here&unknown=1&name=x&seed=1000")
    assert (state.seed, state.t, state.prompt) == (7, None, "a red cube")
