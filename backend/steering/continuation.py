"""Continuations of a prompt, token by token, plain or steered.

A continuation keeps a cache of its own, from its first token on, and shares it with nobody; between two of its tokens
nothing is left installed, so other requests may use the model meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from transformers import DynamicCache

from backend.steering.arms import interventions_for
from backend.steering.intervention import Intervention
from backend.steering.text import Row, TextSteerer, everywhere
from backend.steering.text_canvas import landed
from backend.wire.text import TextSteer


class Piece(NamedTuple):
    """One token of a continuation: its id, the text it adds, its log-probability, the likeliest tokens, and the end."""

    token: int
    text: str
    logprob: float
    top: list[tuple[str, float]]
    """(token text, log-probability), likeliest first."""
    finish: str | None = None
    """``stop`` or ``length`` on the last piece."""


def asked_interventions(steerer: TextSteerer, steer: TextSteer, prompt: str) -> list[Intervention]:
    """The interventions of a request's steering; without a start, the chord's is where the prompt landed."""
    manifold = steerer.need(steer.manifold)
    t_from = steer.t_from
    if t_from is None and steer.arm in ("chord", "chord_subspace"):
        t_from = float(landed(steerer, steerer.distribution(prompt)))
    return interventions_for(manifold, steer.arm, steer.t, t_from=t_from, strength=steer.strength)


@torch.no_grad()
def complete(
    steerer: TextSteerer,
    prompt: str,
    max_tokens: int = 24,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    steering: TextSteer | Row | None = None,
    positions: Literal["last", "all"] | None = None,
    stop: Sequence[str] = (),
    n_top: int = 0,
) -> Iterator[Piece]:
    """Continue a prompt, one piece at a time; the same seed gives the same text.

    ``positions``: steer the prompt's last token only, or that and every new token (a ``TextSteer`` says so itself).
    Nothing is left installed between two pieces, so other requests may use the model meanwhile.
    """
    ids = steerer.encode(prompt)
    if isinstance(steering, TextSteer):
        positions = steering.positions if positions is None else positions
        row: Row = asked_interventions(steerer, steering, prompt)
    else:
        row = list(steering or ())
    generator = torch.Generator().manual_seed(seed)
    device, end = steerer.model.device, steerer.tokenizer.eos_token_id
    limit = getattr(steerer.model.config, "max_position_embeddings", 2048) - len(ids)
    max_tokens = min(max_tokens, limit)
    cache = DynamicCache(config=steerer.model.config)
    fed, new, sent = torch.tensor([ids], device=device), [], 0
    mask = torch.zeros(len(ids))
    mask[-1] = 1.0
    now = [replace(each, mask=mask) for each in row]
    for step in range(max_tokens):
        hidden = steerer.forward([now], input_ids=fed, past_key_values=cache, use_cache=True)
        logits = steerer.model.lm_head(hidden[0, -1]).float().cpu()
        token = int(logits.argmax()) if temperature <= 0 else int(
            torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        )  # fmt: skip
        logs = logits.log_softmax(-1)
        new.append(token)
        text = steerer.tokenizer.decode([i for i in new if i != end], skip_special_tokens=True)
        cut = min((text.find(s) for s in stop if s and s in text), default=-1)
        last = step == max_tokens - 1
        finish = "stop" if token == end or cut >= 0 else ("length" if last else None)
        text = text[:cut] if cut >= 0 else text
        ready = len(text) if finish else len(text) - _pending(text, stop)
        piece, sent = text[sent:ready], max(sent, ready)
        top = [(steerer.word(int(i)), float(logs[i])) for i in logs.topk(n_top).indices] if n_top else []
        yield Piece(token, piece, float(logs[token]), top, finish)
        if finish:
            return
        fed = torch.tensor([[token]], device=device)
        now = [everywhere(each) for each in row] if positions == "all" else []


def _pending(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end must wait: half a byte-spelt character, or what may begin a stop string."""
    held = len(text) - len(text.rstrip("\ufffd"))
    for s in stop:
        held = max([held, *(n for n in range(1, len(s)) if text.endswith(s[:n]))])
    return held
