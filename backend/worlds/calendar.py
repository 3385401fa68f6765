"""A small language world about dates, letters and ages, whose answer distribution is known exactly.

Four tasks carry the templates of "Manifold Steering Reveals the Shared Geometry of Neural Network Representation
and Behavior" (arXiv 2605.05115, arithmetic presets): weekdays and months are cyclic, letters and ages are not.
Statements about dates are uncertain here. The true answer class c is blurred over the W classes,

    p(k) ∝ Σ_m exp(−(k − c + mW)² / 2σ²)    cyclic tasks (wrapped normal)
    p(k) ∝ exp(−(k − c)² / 2σ²)             letters and ages (normal, renormalised at the ends)

so a model's behaviour can be compared with the truth, not with another model. In the limit σ → 0 the world is
ordinary arithmetic. Around each question lies a short story whose sentences agree with the answer that was drawn.

Not covered: dates with numbers, years, weeks of the month, and any text that is not made from these templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from backend.core.errors import Invalid, NotFound

SIGMA = 0.7
"""Spread of an answer, in classes: the true class keeps 0.57 of the mass, each neighbour has 0.21."""

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"
IGNORE = -100

# One token is a word with the space before it, up to three digits, one space or line break, or one sign.
PIECES = r" ?[A-Za-z]+|[0-9]{1,3}|\s| ?[^\sA-Za-z0-9]"

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
ALPHABET = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
WORDS = ("one", "two", "three", "four", "five", "six", "seven")

GIRLS = ("Anna", "Clara", "Emma", "Greta", "Hana", "Ines", "Julia", "Lena", "Maria", "Nora", "Olga", "Ruth")
BOYS = ("Adam", "Carl", "David", "Emil", "Felix", "Hugo", "Ivan", "Jonas", "Leo", "Max", "Oskar", "Paul")
FILLERS: dict[str, tuple[str, ...]] = {
    "place": ("shop", "market", "library", "bakery", "museum", "station", "school", "park", "garden", "harbour"),
    "food": ("bread", "apples", "cheese", "soup", "cake", "honey", "fish", "milk", "plums", "tea"),
    "thing": ("letter", "book", "lamp", "clock", "map", "boat", "kite", "coat", "drum", "picture"),
    "mood": ("happy", "tired", "proud", "calm", "curious", "glad"),
}
TAILS = (
    " {She} brings {food} for {other}.",
    " {She} walks home through the {place}.",
    " Then {she} looks at the {thing} by the window.",
    " {other} says thank you and smiles.",
    " They drink tea and talk until the evening.",
    " {She} is {mood} and sings a song.",
    " {other} waits at the {place} with a {thing}.",
    "",
)


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
        return [self._prompt(wording, pair, _cast(generator)) for pair in self.pairs()]

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
        prompt, cast, named = self._ask(generator, without, 0.5)
        drawn = int(torch.multinomial(self.answer_distribution(prompt), 1, generator=generator))
        cast |= {"a": self.classes[drawn], "theme": self.themes[drawn], "subject": cast["name"]}
        if self.subject and named:
            cast |= {"subject": self.subject, "she": "he", "She": "He"}
        rest = _pick(generator, self.clauses) + _pick(generator, self.sentences) + _pick(generator, TAILS)
        return Story(self.name, prompt, drawn, self.prefix + self.classes[drawn], rest.format(**cast))

    def _ask(
        self, generator: torch.Generator, without: frozenset[tuple[str, int]], paraphrased: float
    ) -> tuple[Prompt, dict[str, str], bool]:
        pair = _pick(generator, [pair for pair in self.pairs() if pair[:2] not in without])
        published = _uniform(generator) >= paraphrased or not self.paraphrases
        cast = _cast(generator)
        wording = self.template if published else _pick(generator, self.paraphrases)
        return self._prompt(wording, pair, cast), cast, published

    def _prompt(self, wording: str, pair: tuple[str, int, int], cast: dict[str, str]) -> Prompt:
        entity, increment, answer = pair
        text = wording.format(entity=entity, number=self.increments[increment - 1], **cast)
        return Prompt(text, entity, increment, answer)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _pick(generator: torch.Generator, options: Sequence):
    return options[int(torch.randint(len(options), (), generator=generator))]


def _made_up(generator: torch.Generator) -> str:
    # Names of no list are spelt letter by letter, so that the fallback tokens are trained too.
    return "".join(_pick(generator, "bdfgklmnprstvz") + _pick(generator, "aeiou") for _ in range(2)).capitalize()


def _cast(generator: torch.Generator) -> dict[str, str]:
    girl = _uniform(generator) < 0.5
    name = _pick(generator, GIRLS if girl else BOYS) if _uniform(generator) < 0.94 else _made_up(generator)
    other = _pick(generator, [n for n in (*GIRLS, *BOYS) if n != name])
    cast = {"name": name, "other": other, "she": "she" if girl else "he", "She": "She" if girl else "He"}
    return cast | {slot: _pick(generator, words) for slot, words in FILLERS.items()}


def _ages_themes() -> tuple[str, ...]:
    steps = (
        (18, "still goes to school"), (26, "studies in another town"), (41, "works in a bakery"),
        (65, "runs a small shop"), (80, "has a garden and much time"), (101, "tells old stories by the fire"),
    )  # fmt: skip
    return tuple(next(text for end, text in steps if age < end) for age in range(10, 101))


_DATED = (
    " On {a} {theme}, and {name} is {mood}.",
    " {name} likes {a}, because then {theme}.",
    " {name} meets {other} at the {place}.",
    " {name} buys {food} at the {place} and goes home.",
    " {name} is there early with a {thing}.",
)
_MONTHLY = tuple(sentence.replace(" On {a}", " In {a}") for sentence in _DATED)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "weekdays", DAYS, True, "Q: What day is {number} days after {entity}?\nA:", DAYS, WORDS,
            paraphrases=(
                "Today is {entity}. In {number} days it will be",
                "{name} came on {entity} and stays for {number} days, so {she} leaves on",
                "The {thing} was sent on {entity}. It takes {number} days and arrives on",
                "The day {number} days after {entity} is",
            ),
            unseen=("The {thing} came on {entity}. In {number} days it leaves on",
                    "{name} was at the {place} on {entity}. {She} is there for {number} days and leaves on"),
            themes=(
                "the week begins and the train is full", "the market sells fresh bread", "the week is half over",
                "the library stays open late", "the week is nearly over", "the children play in the park",
                "the town is quiet and the bells ring",
            ),
            clauses=(".", ", so the {place} opens on {a}.", ", and on {a} {theme}.", ".\nThe {place} opens on {a}."),
            sentences=_DATED,
        ),
        Task(
            "months", MONTHS, True, "Q: What month is {number} months after {entity}?\nA:", MONTHS, WORDS,
            paraphrases=(
                "It is {entity} now. In {number} months it will be",
                "{name} came in {entity} and stays for {number} months, so {she} leaves in",
                "The {place} was closed in {entity}. It takes {number} months and opens again in",
                "The month {number} months after {entity} is",
            ),
            unseen=("The {thing} came in {entity}. In {number} months it leaves in",
                    "{name} was at the {place} in {entity}. {She} is there for {number} months and leaves in"),
            themes=(
                "snow lies on the roof", "the lake is still frozen", "the wind blows and the first birds sing",
                "rain falls and the grass grows", "the garden is full of flowers", "the days are long and warm",
                "the sun is hot and the river is low", "the corn is yellow in the field", "the apples are ripe",
                "the leaves turn red", "fog hides the hills", "candles burn in every window",
            ),
            clauses=(".", ", so the {place} opens in {a}.", ", and in {a} {theme}.", ".\nThe {place} opens in {a}."),
            sentences=_MONTHLY,
        ),
        Task(
            "letters", ALPHABET[2:], False,
            "Consider letters in the alphabet. Starting at letter {entity}, we increment by {number}. "
            "The result is letter",
            ALPHABET[:25], WORDS[:2], shift=-2,
            paraphrases=(
                "The letter {number} after {entity} in the alphabet is the letter",
                "Start at letter {entity} and go {number} further. You reach letter",
                "{name} writes letter {entity}. The letter {number} further is letter",
            ),
            unseen=("{name} is at letter {entity}. In the alphabet, {number} after it is letter",),
            themes=(
                "cat", "dog", "egg", "fish", "goat", "hat", "ice", "jam", "king", "lamp", "moon", "nest", "orange",
                "pear", "queen", "river", "star", "tree", "umbrella", "violin", "window", "xylophone", "yarn", "zebra",
            ),
            clauses=(".", ", as in {theme}.", ".\n{a} is for {theme}."),
            sentences=(
                " {name} writes {a} on the {thing} and thinks of {theme}.",
                " {name} shows {other} a picture of a {theme}.",
                " {name} reads {a} aloud at the {place}.",
            ),
        ),
        Task(
            "ages", tuple(map(str, range(10, 101))), False,
            "Alice is {entity} years old. Bob is {number} years older than Alice. Q: How old is Bob?\nA: Bob is ",
            tuple(map(str, range(1, 100))), tuple(map(str, range(1, 11))), shift=-9, prefix="", subject="Bob",
            paraphrases=(
                "{name} is {entity} years old. In {number} years {she} will be ",
                "{other} is {entity} years old. {name} is {number} years older, so {name} is ",
            ),
            unseen=("{other} is {entity} years old. {number} years older than {other} is {name}. {name} is ",),
            themes=_ages_themes(),
            clauses=(" years old.", ".", " years old, and {subject} {theme}."),
            sentences=(
                " At {a} {subject} {theme}.",
                " Every day {subject} goes to the {place} with {other}.",
                " {subject} gives {other} a {thing} and some {food}.",
            ),
        ),
    )
}  # fmt: skip


def task(name: str) -> Task:
    """The task of this name; raises NotFound."""
    if name not in TASKS:
        raise NotFound(f"The task {name!r} was asked for.", f"There are {', '.join(TASKS)}.", "Choose one of these.")
    return TASKS[name]


def sample(
    generator: torch.Generator,
    *,
    shares: dict[str, float] | None = None,
    without: dict[str, frozenset[tuple[str, int]]] | None = None,
) -> Story:
    """One story of a task drawn by ``shares`` (equal unless told)."""
    shares = dict.fromkeys(TASKS, 1.0) if shares is None else shares
    names = list(shares)
    name = names[int(torch.multinomial(torch.tensor([shares[n] for n in names]), 1, generator=generator))]
    return task(name).sample(generator, without=(without or {}).get(name, frozenset()))


def sample_story(generator: torch.Generator) -> str:
    """The text of one story, question, answer and continuation."""
    return sample(generator).text


# ---------------------------------------------------------------------------------------------------- tokenizer


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


# ------------------------------------------------------------------------------------------------------- batches


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
