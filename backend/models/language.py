"""The adapter over causal language models of transformers (``LlamaForCausalLM`` and its kin).

Sites are the numbered decoder layers: ``5#resid_post`` the output of layer 5, ``5#resid_pre`` its input, ``5#update``
their difference, ``5#attn_out`` and ``5#mlp_out`` what the two sublayers add.

Not covered: generation and position policies (``backend.steering``), encoder-decoder models.
"""

from __future__ import annotations

from torch import nn

from backend.core.errors import Refused
from backend.models.adapter import Adapter, layers_layout

STACKS: tuple[str, ...] = ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers",
                           "model.language_model.layers")  # fmt: skip


class TextAdapter(Adapter):
    """A causal language model with its tokenizer. Raises ``Refused`` where no stack of layers is found."""

    kind = "text"

    def __init__(self, model: nn.Module, tokenizer=None, *, name: str = "llama", revision: str | None = None) -> None:
        super().__init__(model, name=name, layout=layers_layout(model, stack_of(model, STACKS)), revision=revision)
        self.tokenizer = tokenizer

    @property
    def model(self) -> nn.Module:
        return self.module

    @property
    def n_layers(self) -> int:
        return len(self.layout)

    @property
    def n_heads(self) -> int:
        return self.model.config.num_attention_heads

    @property
    def d_model(self) -> int:
        return self.model.config.hidden_size


def stack_of(model: nn.Module, candidates: tuple[str, ...]) -> str:
    """Path of the stack of numbered layers; raises ``Refused`` naming the places that were looked at."""
    for path in candidates:
        try:
            if isinstance(model.get_submodule(path), nn.ModuleList):
                return path
        except AttributeError:
            continue
    raise Refused(
        f"Sites of a {type(model).__name__} were asked for.",
        f"None of {', '.join(candidates)} is a stack of layers in it.",
        "Use Adapter.from_module(model, sites=[...]) with the paths of its layers.",
    )
