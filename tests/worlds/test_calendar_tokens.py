"""Tokens of the calendar world: every answer is one, any text survives, and batches put the truth at the answer."""

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig

from backend.core.errors import Invalid
from backend.worlds.calendar import TASKS, sample, sample_story
from backend.worlds.calendar_tokens import IGNORE, Encoder, build_tokenizer


@pytest.fixture(scope="module")
def tok():
    return build_tokenizer()


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
