"""Steering language: next-token distributions over a concept's classes, paths along its manifold, and continuations.

    p_c = Σ softmax over the FULL vocabulary of class c's single-token spellings,   p_other = 1 − Σ p_c

("Manifold Steering", arXiv 2605.05115, sec. 2.2 and 3.4). An intervention acts at the prompt's last token. Nothing
before that token can see it, so a sweep runs the prompt's other tokens once, unsteered, and only the last token for
each of its rows; a continuation keeps a cache of its own, from its first token on, and shares it with nobody. With no
interventions everything here is the plain model.

Not covered: several manifolds in one request, and encoder models.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from transformers import DynamicCache

from backend.activations.point_set import install
from backend.core.errors import Invalid, NotFound
from backend.manifolds.behaviour import Coherence, coherence, with_other
from backend.manifolds.manifold import mean_coordinate
from backend.manifolds.steerable import SteerableManifold
from backend.steering.arms import interventions_for, path_interventions
from backend.steering.intervention import Intervention
from backend.wire.text import (
    ArmDistribution,
    ArmPath,
    PathRequest,
    PathResponse,
    TextCanvasRequest,
    TextFrame,
    TextSteer,
)

Row = Sequence[Intervention]
N_TOP = 8
N_ROWS = 256
"""Rows in one forward; more are split."""


class Piece(NamedTuple):
    """One token of a continuation: its id, the text it adds, its log-probability, the likeliest tokens, and the end."""

    token: int
    text: str
    logprob: float
    top: list[tuple[str, float]]
    """(token text, log-probability), likeliest first."""
    finish: str | None = None
    """``stop`` or ``length`` on the last piece."""


def spellings(tokenizer, label: str) -> list[int]:
    """Ids of a class's single-token spellings: with and without a space before it, words in lower case too."""
    words = [label, label.lower()] if len(label) > 1 else [label]
    found = []
    for text in (prefix + word for word in dict.fromkeys(words) for prefix in (" ", "")):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] not in found:
            found.append(ids[0])
    return found


class TextSteerer:
    """A language model and one manifold of it; ``manifold`` may be ``None`` for plain continuations.

    ``labels`` are the classes (the manifold's ticks unless told). Raises Invalid where a class has no single-token
    spelling, and Refused where a site of the manifold has no intervention point.
    """

    def __init__(
        self, adapter, manifold: SteerableManifold | None = None, *, labels: Sequence[str] | None = None,
        sites: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        self.adapter, self.manifold = adapter, manifold
        self.model, self.tokenizer = adapter.model, adapter.tokenizer
        sites = list(sites) if sites is not None else (list(manifold.sites) if manifold is not None else [])
        self.points = install(adapter, sites) if sites else None
        self.labels = list(labels) if labels is not None else (manifold.labels if manifold is not None else [])
        ids = [spellings(self.tokenizer, label) for label in self.labels]
        missing = [label for label, found in zip(self.labels, ids, strict=True) if not found]
        if missing:
            raise Invalid(
                f"Class probabilities of {', '.join(self.labels[:4])}, … were asked for.",
                f"This tokenizer has no single token for {', '.join(map(repr, missing[:6]))}.",
                "Use a manifold whose classes are single tokens of this model.",
            )
        self._token_ids = torch.tensor([i for found in ids for i in found], dtype=torch.long)
        self._token_class = torch.tensor([c for c, found in enumerate(ids) for _ in found], dtype=torch.long)

    # ------------------------------------------------------------------------------------------------ forwards

    def classes(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits ``(..., V)`` to distributions over the classes and "other", ``(..., W + 1)``, float32 on the CPU."""
        p = logits.float().softmax(-1)[..., self._token_ids.to(logits.device)].cpu()
        out = torch.zeros(*p.shape[:-1], len(self.labels))
        return with_other(out.index_add_(-1, self._token_class, p))

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt; Invalid where it is empty or longer than the model reads."""
        ids = self.tokenizer(prompt)["input_ids"]
        limit = getattr(self.model.config, "max_position_embeddings", 2048)
        if not ids or len(ids) >= limit:
            raise Invalid(
                f"A prompt of {len(ids)} tokens was given.", f"The model reads from 1 to {limit - 1}.",
                "Shorten the prompt." if ids else "Write a prompt.",
            )  # fmt: skip
        return ids

    @torch.no_grad()
    def logits(self, prompts: Sequence[str], rows: Sequence[Row] | None = None) -> torch.Tensor:
        """Next-token logits ``(R, V)`` of each prompt, in one padded batch; row r has the interventions ``rows[r]``."""
        ids = [self.encode(prompt) for prompt in prompts]
        width = max(map(len, ids))
        pad = self.tokenizer.pad_token_id or 0
        batch = torch.tensor([row + [pad] * (width - len(row)) for row in ids], device=self.model.device)
        seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=self.model.device)
        last = torch.tensor([len(row) - 1 for row in ids], device=self.model.device)
        rows = [()] * len(ids) if rows is None else rows
        masked = []
        for row, row_ids in zip(rows, ids, strict=True):
            mask = torch.zeros(width)
            mask[len(row_ids) - 1] = 1.0
            masked.append([replace(each, mask=mask) for each in row])
        hidden = self._forward(masked, input_ids=batch, attention_mask=seen, use_cache=False)
        return self.model.lm_head(hidden[torch.arange(len(ids), device=hidden.device), last]).float()

    def _forward(self, rows: Sequence[Row], **inputs) -> torch.Tensor:
        """Last hidden state ``(R, T, d)`` under the rows' interventions."""
        if any(len(row) for row in rows):
            if self.points is None:
                raise NotFound(
                    "A steered forward was asked for.", "This steerer has no manifold and no sites.",
                    "Make it with a manifold.",
                )  # fmt: skip
            with self.points.apply([list(row) for row in rows]):
                return self.model.model(**inputs).last_hidden_state
        return self.model.model(**inputs).last_hidden_state

    def distribution(
        self, prompts: str | Sequence[str], interventions: Sequence[Row] | Row | None = None
    ) -> torch.Tensor:
        """Class distributions: one prompt ``(W + 1,)`` or several ``(R, W + 1)``, with interventions for each row."""
        if isinstance(prompts, str):
            return self.classes(self.logits([prompts], None if interventions is None else [interventions]))[0]
        return self.classes(self.logits(prompts, interventions))

    @torch.no_grad()
    def sweep_logits(self, prompt: str, rows: Sequence[Row]) -> torch.Tensor:
        """Next-token logits ``(R, V)`` of one prompt under many interventions at its last token."""
        ids = self.encode(prompt)
        device = self.model.device
        prefix = DynamicCache(config=self.model.config)
        if len(ids) > 1:
            before = torch.tensor([ids[:-1]], device=device)
            self._forward([()], input_ids=before, past_key_values=prefix, use_cache=True)
        out = []
        for start in range(0, len(rows), N_ROWS):
            part = [[_everywhere(each) for each in row] for row in rows[start : start + N_ROWS]]
            cache = copy.deepcopy(prefix)
            if len(ids) > 1:
                cache.batch_repeat_interleave(len(part))
            last = torch.full((len(part), 1), ids[-1], device=device)
            hidden = self._forward(part, input_ids=last, past_key_values=cache, use_cache=True)
            out.append(self.model.lm_head(hidden[:, -1]).float())
        return torch.cat(out)

    def sweep(self, prompt: str, rows: Sequence[Row]) -> torch.Tensor:
        """Class distributions ``(R, W + 1)`` of one prompt under many interventions."""
        return self.classes(self.sweep_logits(prompt, rows))

    @torch.no_grad()
    def residuals(self, prompts: Sequence[str], *, sites: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Unsteered activations at the last token of each prompt, ``(R, d)`` for each site (the manifold's)."""
        sites = list(self.manifold.sites) if sites is None else [str(site) for site in sites]
        with install(self.adapter, sites).reading(sites) as seen:
            for prompt in prompts:
                ids = torch.tensor([self.encode(prompt)], device=self.model.device)
                self._forward([()], input_ids=ids, use_cache=False)
        return {site: torch.cat([x[:, -1].float().cpu() for x in found]) for site, found in seen.items()}

    # ------------------------------------------------------------------------------------------------- the arms

    def _need(self, name: str | None = None) -> SteerableManifold:
        if self.manifold is None or (name is not None and name != self.manifold.name):
            has = "no manifold" if self.manifold is None else self.manifold.name
            raise NotFound(
                f"The manifold {name or ''} was asked for.", f"This steerer holds {has}.", "Make one for that manifold."
            )
        return self.manifold

    def landed(self, p: torch.Tensor) -> torch.Tensor:
        """Manifold coordinate ``(...,)`` of distributions ``p (..., W + 1)``: mean coordinate of the classes."""
        manifold = self._need()
        return mean_coordinate(p[..., :-1], manifold.label_t, kind=manifold.kind)

    def judge(self, p: torch.Tensor) -> tuple[torch.Tensor, Coherence, torch.Tensor]:
        """Energy ``(...,)``, coherence and the drawing's ``(..., 3)`` of distributions ``p (..., W + 1)``."""
        behaviour = self._need().behaviour
        if behaviour is None:
            return torch.zeros(p.shape[:-1]), coherence(p[..., None, :]), torch.zeros(*p.shape[:-1], 3)
        return behaviour.distance(p), coherence(p[..., None, :]), behaviour.xyz(p)

    def written(self, x: torch.Tensor, row: Row) -> torch.Tensor:
        """Drawing coordinates ``(3,)`` of the first site's activation ``x (d,)`` after a row's interventions."""
        manifold = self._need()
        site, entry = next(iter(manifold.sites.items()))
        for each in row:
            if str(each.site) != site:
                continue
            frame = each.frame.float()
            z = x @ frame
            new = z
            if each.lo is not None or each.hi is not None:
                new = torch.clamp(z, each.lo[0].float() if each.lo is not None else None,
                                  each.hi[0].float() if each.hi is not None else None)  # fmt: skip
            if each.shift is not None:
                new = new + each.shift[0].float()
            x = x + each.gate * (new - z) @ frame.T
        return manifold.xyz((x @ entry.frame)[None])

    def frame(self, request: TextCanvasRequest) -> TextFrame:
        """The next-token distribution of the request's prompt for each of its arms."""
        began = time.perf_counter()
        manifold = self._need(request.manifold)
        x = self.residuals([request.prompt])
        at = {site: value @ manifold.entry(site).frame for site, value in x.items()}
        plain = self.sweep_logits(request.prompt, [()])
        t_from = request.t_from
        if t_from is None:
            t_from = float(self.landed(self.classes(plain)[0]))
        looked = time.perf_counter()
        rows = [
            interventions_for(manifold, arm, request.t, t_from=t_from, strength=request.strength, at=at)
            for arm in request.arms
        ]
        logits = self.sweep_logits(request.prompt, rows)
        p = self.classes(logits)
        energy, coherent, xyz = self.judge(p)
        landed = self.landed(p)
        first = x[next(iter(manifold.sites))][0]
        arms = [
            ArmDistribution(
                arm=arm, classes=_floats(p[i, :-1]), other=float(p[i, -1]), top=self.top(logits[i]),
                landed=float(landed[i]), energy=float(energy[i]), coherence=float(coherent.mean[i]),
                activation_xyz=_triple(self.written(first, rows[i])), behaviour_xyz=_triple(xyz[i]),
            )
            for i, arm in enumerate(request.arms)
        ]  # fmt: skip
        done = time.perf_counter()
        timing = {"read": 1e3 * (looked - began), "steer": 1e3 * (done - looked), "total": 1e3 * (done - began)}
        return TextFrame(
            seq=request.seq, model=request.model, prompt=request.prompt, manifold=manifold.name, t=request.t,
            t_from=t_from, labels=self.labels, arms=arms, timing_ms=timing,
        )  # fmt: skip

    def path(self, request: PathRequest) -> PathResponse:
        """Class probabilities at equal shares of the way from ``t_from`` to ``t``, for each of the request's arms."""
        began = time.perf_counter()
        manifold = self._need(request.manifold)
        x = self.residuals([request.prompt])
        at = {site: value @ manifold.entry(site).frame for site, value in x.items()}
        first = x[next(iter(manifold.sites))][0]
        share = torch.linspace(0, 1, request.points).tolist()
        rows = [
            path_interventions(manifold, arm, request.t_from, request.t, s, at=at)
            for arm in request.arms
            for s in share
        ]
        p = self.sweep(request.prompt, rows).reshape(len(request.arms), len(share), -1)
        energy, coherent, xyz = self.judge(p)
        n = len(share)
        arms = [
            ArmPath(
                arm=arm, classes=[_floats(v) for v in p[i, :, :-1]], other=_floats(p[i, :, -1]),
                energy=_floats(energy[i]), coherence=_floats(coherent.mean[i]),
                activation_xyz=[_triple(self.written(first, row)) for row in rows[i * n : (i + 1) * n]],
                behaviour_xyz=[_triple(v) for v in xyz[i]],
            )
            for i, arm in enumerate(request.arms)
        ]  # fmt: skip
        timing = {"total": 1e3 * (time.perf_counter() - began)}
        return PathResponse(labels=self.labels, fraction=share, arms=arms, timing_ms=timing)

    # ---------------------------------------------------------------------------------------------- continuations

    def steering(self, steer: TextSteer, prompt: str) -> list[Intervention]:
        """The interventions of a request's steering; without a start, the chord's is where the prompt landed."""
        manifold = self._need(steer.manifold)
        t_from, at = steer.t_from, None
        if steer.arm == "random":
            at = {site: value @ manifold.entry(site).frame for site, value in self.residuals([prompt]).items()}
        if t_from is None and steer.arm in ("chord", "chord_subspace", "random"):
            t_from = float(self.landed(self.distribution(prompt)))
        return interventions_for(manifold, steer.arm, steer.t, t_from=t_from, strength=steer.strength, at=at)

    @torch.no_grad()
    def complete(
        self,
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
        ids = self.encode(prompt)
        if isinstance(steering, TextSteer):
            positions = steering.positions if positions is None else positions
            row: Row = self.steering(steering, prompt)
        else:
            row = list(steering or ())
        generator = torch.Generator().manual_seed(seed)
        device, end = self.model.device, self.tokenizer.eos_token_id
        limit = getattr(self.model.config, "max_position_embeddings", 2048) - len(ids)
        max_tokens = min(max_tokens, limit)
        cache = DynamicCache(config=self.model.config)
        fed, new, sent = torch.tensor([ids], device=device), [], 0
        mask = torch.zeros(len(ids))
        mask[-1] = 1.0
        now = [replace(each, mask=mask) for each in row]
        for step in range(max_tokens):
            with torch.no_grad():
                hidden = self._forward([now], input_ids=fed, past_key_values=cache, use_cache=True)
                logits = self.model.lm_head(hidden[0, -1]).float().cpu()
            token = int(logits.argmax()) if temperature <= 0 else int(
                torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            )  # fmt: skip
            logs = logits.log_softmax(-1)
            new.append(token)
            text = self.tokenizer.decode([i for i in new if i != end], skip_special_tokens=True)
            cut = min((text.find(s) for s in stop if s and s in text), default=-1)
            last = step == max_tokens - 1
            finish = "stop" if token == end or cut >= 0 else ("length" if last else None)
            text = text[:cut] if cut >= 0 else text
            ready = len(text) if finish else len(text) - _pending(text, stop)
            piece, sent = text[sent:ready], max(sent, ready)
            top = [(self._word(int(i)), float(logs[i])) for i in logs.topk(n_top).indices] if n_top else []
            yield Piece(token, piece, float(logs[token]), top, finish)
            if finish:
                return
            fed = torch.tensor([[token]], device=device)
            now = [_everywhere(each) for each in row] if positions == "all" else []

    def _word(self, token: int) -> str:
        return self.tokenizer.decode([token])

    def top(self, logits: torch.Tensor, n: int = N_TOP) -> list[tuple[str, float]]:
        """The ``n`` likeliest tokens of ``logits (V,)`` with their probabilities."""
        p, index = logits.softmax(-1).topk(min(n, logits.shape[-1]))
        return [(self._word(int(i)), float(v)) for v, i in zip(p, index, strict=True)]


def _everywhere(each: Intervention) -> Intervention:
    # Checked again when made, so made only where there is a mask to drop.
    return each if each.mask is None else replace(each, mask=None)


def _pending(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end must wait: half a byte-spelt character, or what may begin a stop string."""
    held = len(text) - len(text.rstrip("\ufffd"))
    for s in stop:
        held = max([held, *(n for n in range(1, len(s)) if text.endswith(s[:n]))])
    return held


def _floats(values: torch.Tensor) -> list[float]:
    return [float(v) for v in values]


def _triple(xyz: torch.Tensor) -> tuple[float, float, float]:
    x, y, z = (round(float(v), 5) for v in xyz)
    return x, y, z
