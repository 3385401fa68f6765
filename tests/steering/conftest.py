"""A tiny random Llama with a ring of weekdays, for everything that steers language."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from backend.manifolds.concept import concept_manifold
from backend.models.language import TextAdapter
from backend.steering.text import TextSteerer
from backend.worlds.calendar import TASKS
from backend.worlds.calendar_tokens import build_tokenizer

SITE = "tiny/1#resid_post"
TASK = TASKS["weekdays"]
TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def steerer():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=96, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    adapter = TextAdapter(model, TOKENIZER, name="tiny")
    prompts = TASK.prompts()
    plain = TextSteerer(adapter, labels=TASK.classes, sites=[SITE])
    texts = [prompt.text for prompt in prompts]
    labels = torch.tensor([prompt.answer_class for prompt in prompts])
    manifold = concept_manifold(
        plain.residuals(texts, sites=[SITE])[SITE], plain.distribution(texts), labels=labels, classes=TASK.classes,
        kind="ring", site=SITE, name="tiny-days", coordinates=torch.arange(7).double() / 7,
    )  # fmt: skip
    return TextSteerer(adapter, manifold)
