"""One task of the calendar world: its questions, the known truth about their answers, and the stories around them.

Statements about dates are uncertain here. The true answer class c is blurred over the W classes,

    p(k) ∝ Σ_m exp(−(k − c + mW)² / 2σ²)    cyclic tasks (wrapped normal)
    p(k) ∝ exp(−(k − c)² / 2σ²)             letters and ages (normal, renormalised at the ends)

so a model's behaviour can be compared with the truth, not with another model. In the limit σ → 0 the world is
ordinary arithmetic. Around each question lies a short story whose sentences agree with the answer that was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from backend.core.errors import Invalid
from backend.worlds.calendar_words import TAILS, cast, pick

SIGMA = 0.7
"""Spread of an answer, in classes: the true class keeps 0.57 of the mass, each neighbour has 0.21."""


class Prompt(NamedTuple):
    """One question: its text, the entity it starts from, the number of steps, and the index of the true answer."""

    text: str
    entity: str
    increment: int
    answer_class: int


class Story(NamedTuple):
    """A question, the class that was drawn as its answer, and the text that follows the answer."""

    task: str
    prompt: Prompt
    drawn: int
    answer: str
    rest: str

    @property
    def text(self) -> str:
        return self.prompt.text + self.answer + self.rest


@dataclass(frozen=True)
class Task:
    """One arithmetic task; ``template`` is the published wording, ``paraphrases`` our own, ``unseen`` never trained."""

    name: str
    classes: tuple[str, ...]
    cyclic: bool
    template: str
    entities: tuple[str, ...]
    increments: tuple[str, ...]
    shift: int = 0
    """answer class = entity index + steps + shift (modulo W where cyclic)."""
    prefix: str = " "
    """What stands between a prompt and its answer; empty where the template ends in a space."""
    sigma: float = SIGMA
    paraphrases: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    themes: tuple[str, ...] = ()
    clauses: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    subject: str | None = None
    """The person the template itself is about, where it names one."""

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def answer_class(self, entity: str, increment: int) -> int | None:
        """Index of the true answer, or ``None`` where it falls off the end of a task that is not cyclic."""
        index = self.entities.index(entity) + increment + self.shift
        if self.cyclic:
            return index % self.n_classes
        return index if 0 <= index < self.n_classes else None

    @cache  # noqa: B019  (tasks are few, frozen and live as long as the module)
    def pairs(self) -> tuple[tuple[str, int, int], ...]:
        """All (entity, increment, answer class) that have an answer, entity by entity."""
        found = []
        for entity in self.entities:
            for increment in range(1, len(self.increments) + 1):
                answer = self.answer_class(entity, increment)
                if answer is not None:
                    found.append((entity, increment, answer))
        return tuple(found)

    def prompts(self, wording: str | None = None, *, generator: torch.Generator | None = None) -> list[Prompt]:
        """Every question in one wording (the published template unless told); names are drawn with ``generator``."""
        wording = self.template if wording is None else wording
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        return [self._prompt(wording, pair, cast(generator)) for pair in self.pairs()]

    def answer_distribution(self, prompt: Prompt) -> torch.Tensor:
        """The known truth: probability of each class, ``(W,)``, summing to 1 (module equation)."""
        return self.distributions()[prompt.answer_class]

    @cache  # noqa: B019
    def distributions(self) -> torch.Tensor:
        """The known truth for every answer class, ``(W, W)``; row c belongs to true class c."""
        k = torch.arange(self.n_classes, dtype=torch.float64)
        gap = k[None] - k[:, None]
        turns = torch.arange(-2, 3, dtype=torch.float64) if self.cyclic else torch.zeros(1, dtype=torch.float64)
        mass = torch.exp(-((gap[..., None] + turns * self.n_classes) ** 2) / (2 * self.sigma**2)).sum(-1)
        return (mass / mass.sum(-1, keepdim=True)).float()

    def answer_ids(self, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
        """Token id of each class right after a prompt, ``(W,)``; raises Invalid where one is not a single token."""
        ids = [tokenizer(self.prefix + word, add_special_tokens=False)["input_ids"] for word in self.classes]
        split = [word for word, one in zip(self.classes, ids, strict=True) if len(one) != 1]
        if split:
            raise Invalid(
                f"The answers of {self.name} were asked for as single tokens.",
                f"This tokenizer splits {', '.join(map(repr, split[:5]))}.",
                "Use a tokenizer in which each answer is one token.",
            )
        return torch.tensor([one[0] for one in ids])

    def question(
        self,
        generator: torch.Generator,
        *,
        without: frozenset[tuple[str, int]] = frozenset(),
        paraphrased: float = 0.0,
    ) -> Prompt:
        """One question, in our own wording with chance ``paraphrased``; pairs in ``without`` are never asked."""
        return self._ask(generator, without, paraphrased)[0]

    def sample(self, generator: torch.Generator, *, without: frozenset[tuple[str, int]] = frozenset()) -> Story:
        """One story; pairs (entity, increment) in ``without`` are never asked. Half use the published template."""
        prompt, slots, named = self._ask(generator, without, 0.5)
        drawn = int(torch.multinomial(self.answer_distribution(prompt), 1, generator=generator))
        slots |= {"a": self.classes[drawn], "theme": self.themes[drawn], "subject": slots["name"]}
        if self.subject and named:
            slots |= {"subject": self.subject, "she": "he", "She": "He"}
        rest = pick(generator, self.clauses) + pick(generator, self.sentences) + pick(generator, TAILS)
        return Story(self.name, prompt, drawn, self.prefix + self.classes[drawn], rest.format(**slots))

    def _ask(
        self, generator: torch.Generator, without: frozenset[tuple[str, int]], paraphrased: float
    ) -> tuple[Prompt, dict[str, str], bool]:
        pair = pick(generator, [pair for pair in self.pairs() if pair[:2] not in without])
        published = float(torch.rand((), generator=generator)) >= paraphrased or not self.paraphrases
        slots = cast(generator)
        wording = self.template if published else pick(generator, self.paraphrases)
        return self._prompt(wording, pair, slots), slots, published

    def _prompt(self, wording: str, pair: tuple[str, int, int], slots: dict[str, str]) -> Prompt:
        entity, increment, answer = pair
        text = wording.format(entity=entity, number=self.increments[increment - 1], **slots)
        return Prompt(text, entity, increment, answer)
