"""The calendar world: the published templates, right answers, and stories that agree with them."""

import pytest
import torch

from backend.core.errors import NotFound
from backend.worlds.calendar import TASKS, sample, sample_story, task


@pytest.mark.parametrize(
    ("name", "n_prompts", "n_classes", "first"),
    [
        ("weekdays", 49, 7, "Q: What day is one days after Monday?\nA:"),
        ("months", 84, 12, "Q: What month is one months after January?\nA:"),
        (
            "letters", 48, 24,
            "Consider letters in the alphabet. Starting at letter A, we increment by two. The result is letter",
        ),
        ("ages", 909, 91, "Alice is 1 years old. Bob is 9 years older than Alice. Q: How old is Bob?\nA: Bob is "),
    ],
)  # fmt: skip
def test_published_prompts(name: str, n_prompts: int, n_classes: int, first: str) -> None:
    one = task(name)
    prompts = one.prompts()
    assert len(prompts) == n_prompts and one.n_classes == n_classes and prompts[0].text == first
    assert {prompt.answer_class for prompt in prompts} == set(range(n_classes))


def test_answers_are_right() -> None:
    days = TASKS["weekdays"]
    assert days.classes[days.answer_class("Saturday", 4)] == "Wednesday"
    months = TASKS["months"]
    assert months.classes[months.answer_class("October", 7)] == "May"
    letters = TASKS["letters"]
    assert letters.classes[letters.answer_class("Y", 1)] == "Z" and letters.answer_class("Y", 2) is None
    for prompt in TASKS["ages"].prompts():
        assert int(TASKS["ages"].classes[prompt.answer_class]) == int(prompt.entity) + prompt.increment


def test_stories_are_seeded_and_agree_with_their_answer() -> None:
    assert sample_story(torch.Generator().manual_seed(9)) == sample_story(torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        story = sample(generator)
        one = TASKS[story.task]
        assert story.text == story.prompt.text + story.answer + story.rest and "{" not in story.text
        named = [word for word in one.classes if f" {word}" in story.rest.replace(",", " ").replace(".", " ")]
        if story.task in ("weekdays", "months"):
            assert set(named) <= {one.classes[story.drawn]}


def test_a_task_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFound, match="weekdays"):
        task("years")
