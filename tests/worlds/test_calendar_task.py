"""A task of the calendar world: the known answer distribution, draws from it, and pairs that are never asked."""

import math

import pytest
import torch

from backend.worlds.calendar import TASKS
from backend.worlds.calendar_task import SIGMA


@pytest.mark.parametrize("one", TASKS.values(), ids=TASKS)
def test_distribution_is_the_stated_normal(one) -> None:
    p = one.distributions()
    assert torch.allclose(p.sum(-1), torch.ones(one.n_classes), atol=1e-6)
    assert torch.equal(p.argmax(-1), torch.arange(one.n_classes))
    middle = one.n_classes // 2
    assert p[middle, middle + 1] / p[middle, middle] == pytest.approx(math.exp(-0.5 / SIGMA**2), rel=1e-3)
    # Cyclic: the first class leaks to the last one as to the second; otherwise the end keeps more for itself.
    if one.cyclic:
        assert p[0, -1] == pytest.approx(float(p[0, 1]), rel=1e-5)
        assert torch.allclose(p.roll((1, 1), (0, 1)), p, atol=1e-6)
    else:
        assert p[0, -1] < 1e-6 and p[0, 0] > p[middle, middle]


def test_draws_follow_the_distribution() -> None:
    one, generator = TASKS["weekdays"], torch.Generator().manual_seed(5)
    gaps = torch.zeros(7)
    for _ in range(1500):
        story = one.sample(generator)
        gaps[(story.drawn - story.prompt.answer_class) % 7] += 1
    assert 0.5 * (gaps / 1500 - one.distributions()[0]).abs().sum() < 0.05


def test_held_out_pairs_are_never_asked() -> None:
    one, generator = TASKS["months"], torch.Generator().manual_seed(0)
    without = frozenset((entity, 2) for entity in one.entities)
    assert all(one.sample(generator, without=without).prompt.increment != 2 for _ in range(200))
