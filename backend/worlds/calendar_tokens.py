"""Tokens of the calendar world: a word-level tokenizer that can spell anything, and batches that hold the truth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from backend.worlds.calendar import TASKS
from backend.worlds.calendar_task import Prompt, Story
from backend.worlds.calendar_words import ALPHABET, BOYS, DAYS, FILLERS, GIRLS, MONTHS, TAILS, WORDS

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"
IGNORE = -100

# One token is a word with the space before it, up to three digits, one space or line break, or one sign.
PIECES = r" ?[A-Za-z]+|[0-9]{1,3}|\s| ?[^\sA-Za-z0-9]"


def _fragments() -> Iterable[str]:
    for one in TASKS.values():
        for text in (one.template, *one.paraphrases, *one.unseen, *one.clauses, *one.sentences, *one.themes, *TAILS):
            yield from re.split(r"\{\w+\}", text)
    for words in (GIRLS, BOYS, DAYS, MONTHS, WORDS, *FILLERS.values(), ("she", "She", "he", "He", "Bob", "Alice")):
        for word in words:
            yield word
            yield " " + word
    for one in TASKS.values():
        yield from (" " + theme for theme in one.themes)
    yield from (" " + letter for letter in ALPHABET)
    yield from map(str, range(10, 111))


def vocabulary() -> list[str]:
    """Every piece of more than one character that the templates can make, sorted: the words of the tokenizer."""
    return sorted({piece for text in _fragments() for piece in re.findall(PIECES, text) if len(piece) > 1})


def build_tokenizer(words: Sequence[str] | None = None) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that spells unknown words byte by byte, so any text survives a round trip.

    It is a byte-level BPE with no merges and ``ignore_merges`` (the layout of Llama 3): a piece that is in the
    vocabulary is one token, every other piece falls apart into bytes. ``<bos>`` is put first.
    """
    words = vocabulary() if words is None else words
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelt = [level.pre_tokenize_str(word)[0][0] for word in words]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [PAD, BOS, EOS, *alphabet, *(word for word in spelt if word not in alphabet)]
    core = Tokenizer(models.BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=[], ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PIECES), "isolated"), level])
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([PAD, BOS, EOS])
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, entries.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=EOS, pad_token=PAD, padding_side="right",
        clean_up_tokenization_spaces=False, model_max_length=512,
    )  # fmt: skip


class Batch(NamedTuple):
    """Token ids ``(B, T)``, next-token labels ``(B, T)`` (−100 ignored), and where the known answers stand.

    ``labels[b, t]`` is the token that follows ``ids[b, t]``. At the last token of each question the label is
    ignored and the row ``targets[j] (V,)`` at ``(rows[j], columns[j])`` holds the true distribution instead.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor


class Encoder:
    """Turns stories and bare questions into batches for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.truth: dict[str, torch.Tensor] = {}
        for name, one in TASKS.items():
            self.truth[name] = torch.zeros(one.n_classes, len(tokenizer))
            self.truth[name][:, one.answer_ids(tokenizer)] = one.distributions()

    def stories(self, stories: Sequence[Story]) -> Batch:
        """Whole stories, closed with ``<eos>``."""
        return self._pack([(s.task, s.prompt, s.answer + s.rest) for s in stories])

    def questions(self, asked: Sequence[tuple[str, Prompt]]) -> Batch:
        """Bare questions of (task name, prompt); only the answer is learned."""
        return self._pack([(name, prompt, None) for name, prompt in asked])

    def _pack(self, items: Sequence[tuple[str, Prompt, str | None]]) -> Batch:
        heads = self.tokenizer([prompt.text for _, prompt, _ in items])["input_ids"]
        tails = self.tokenizer([rest or "" for _, _, rest in items], add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        rows = [h + (t + [end] if rest else []) for h, t, (_, _, rest) in zip(heads, tails, items, strict=True)]
        ids = torch.full((len(rows), max(map(len, rows))), self.tokenizer.pad_token_id)
        labels = torch.full_like(ids, IGNORE)
        columns = torch.tensor([len(head) - 1 for head in heads])
        for i, (row, (_, _, rest)) in enumerate(zip(rows, items, strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            if rest:
                labels[i, : len(row) - 1] = ids[i, 1 : len(row)]
                labels[i, columns[i]] = IGNORE
        targets = torch.stack([self.truth[name][prompt.answer_class] for name, prompt, _ in items])
        return Batch(ids, labels, torch.arange(len(rows)), columns, targets)
