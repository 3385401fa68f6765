"""The calendar world: the published templates, the known answer distribution, the tokenizer and the batches."""

import math

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig

from backend.core.errors import Invalid, NotFound
from backend.worlds.calendar import IGNORE, SIGMA, TASKS, Encoder, build_tokenizer, sample, sample_story, task


@pytest.fixture(scope="module")
def tok():
    return build_tokenizer()


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


def test_held_out_pairs_are_never_asked() -> None:
    one, generator = TASKS["months"], torch.Generator().manual_seed(0)
    without = frozenset((entity, 2) for entity in one.entities)
    assert all(one.sample(generator, without=without).prompt.increment != 2 for _ in range(200))


@pytest.mark.parametrize("one", TASKS.values(), ids=TASKS)
def test_each_answer_is_one_token_after_its_prompt(one, tok) -> None:
    ids = one.answer_ids(tok)
    assert len(set(ids.tolist())) == one.n_classes
    for prompt in one.prompts()[:: max(1, len(one.prompts()) // 40)]:
        head = tok(prompt.text)["input_ids"]
        whole = tok(prompt.text + one.prefix + one.classes[prompt.answer_class])["input_ids"]
        assert whole == [*head, int(ids[prompt.answer_class])]


def test_a_tokenizer_that_splits_answers_is_refused() -> None:
    with pytest.raises(Invalid, match="Monday"):
        TASKS["weekdays"].answer_ids(build_tokenizer(["time"]))
    with pytest.raises(NotFound):
        task("years")


def test_any_text_survives_the_tokenizer(tok, tmp_path) -> None:
    generator = torch.Generator().manual_seed(2)
    texts = ["Hello wörld 日\n\n 12345  x", "", "  leading and trailing  "]
    texts += [sample_story(generator) for _ in range(50)]
    tok.save_pretrained(tmp_path)
    LlamaConfig(vocab_size=len(tok)).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        ids = tok(text)["input_ids"]
        assert ids[0] == tok.bos_token_id and ids == again(text)["input_ids"]
        assert again.decode(ids, skip_special_tokens=True) == text


def test_stories_need_few_bytes(tok) -> None:
    story = TASKS["weekdays"].prompts()[0].text
    assert tok.tokenize(story)[-6:] == ["Ġafter", "ĠMonday", "?", "Ċ", "A", ":"]


def test_batches_put_the_truth_at_the_answer(tok) -> None:
    encoder, generator = Encoder(tok), torch.Generator().manual_seed(4)
    stories = [sample(generator) for _ in range(12)]
    batch = encoder.stories(stories)
    assert torch.allclose(batch.targets.sum(-1), torch.ones(12), atol=1e-5)
    for i, story in enumerate(stories):
        one, column = TASKS[story.task], int(batch.columns[i])
        assert batch.labels[i, column] == IGNORE
        assert batch.ids[i, column + 1] == one.answer_ids(tok)[story.drawn]
        assert tok.decode(batch.ids[i, : column + 1], skip_special_tokens=True) == story.prompt.text
        told = (batch.labels[i] >= 0).nonzero().flatten()
        assert torch.equal(batch.labels[i, told], batch.ids[i, told + 1])
        assert batch.labels[i, told[-1]] == tok.eos_token_id
        assert batch.targets[i].argmax() == one.answer_ids(tok)[story.prompt.answer_class]
    asked = encoder.questions([(s.task, s.prompt) for s in stories])
    assert (asked.labels == IGNORE).all() and torch.equal(asked.targets, batch.targets)
