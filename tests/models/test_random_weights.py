"""Random-weight builds: word-level tokens, reproducible weights, the shipped layout."""

import pytest
import torch
from transformers import CLIPTokenizer

from backend.core.errors import Invalid
from backend.models.random_weights import CAPTION_WORDS, build_clip_tokenizer, tiny_llama


def test_every_word_is_one_token_even_inside_each_other(tmp_path):
    words = ["table", "stable", "able", "tab", "a", "lest", "tablet", "bleat", *CAPTION_WORDS]
    tokenizer = CLIPTokenizer.from_pretrained(build_clip_tokenizer(words, tmp_path, max_length=12))
    assert all(tokenizer.tokenize(word) == [word + "</w>"] for word in words)
    assert len({tokenizer(word).input_ids[1] for word in words}) == len(set(words))
    assert tokenizer.tokenize("A STABLE Table,") == ["a</w>", "stable</w>", "table</w>", ",</w>"]
    ids = tokenizer("a red cube", padding="max_length", truncation=True).input_ids
    assert len(ids) == 12 and ids[0] == tokenizer.bos_token_id and ids[4:] == [tokenizer.eos_token_id] * 8
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a red cube"


def test_unknown_words_fall_to_pieces_that_say_the_word(tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(build_clip_tokenizer(["red"], tmp_path))
    pieces = tokenizer.tokenize("zebra")
    assert len(pieces) > 1 and "".join(pieces) == "zebra</w>"
    assert tokenizer.unk_token_id not in tokenizer("zebra ü 7").input_ids[1:-1]
    with pytest.raises(Invalid):
        build_clip_tokenizer(["two words"], tmp_path)


def test_equal_seeds_give_equal_weights_and_leave_the_global_state_alone():
    state = torch.random.get_rng_state()
    one, same, other = tiny_llama(seed=1), tiny_llama(seed=1), tiny_llama(seed=2)
    assert torch.equal(state, torch.random.get_rng_state())
    x = torch.arange(4)[None]
    assert torch.equal(one(x).logits, same(x).logits) and not torch.equal(one(x).logits, other(x).logits)
