"""A small language world about dates, letters and ages, whose answer distribution is known exactly.

Four tasks carry the templates of "Manifold Steering Reveals the Shared Geometry of Neural Network Representation
and Behavior" (arXiv 2605.05115, arithmetic presets): weekdays and months are cyclic, letters and ages are not. What a
task is, and the distribution of its answers, stands in ``calendar_task``; tokens and batches in ``calendar_tokens``.

Not covered: dates with numbers, years, weeks of the month, and any text that is not made from these templates.
"""

from __future__ import annotations

import torch

from backend.core.errors import NotFound
from backend.worlds.calendar_task import Story, Task
from backend.worlds.calendar_words import ALPHABET, DAYS, MONTHS, WORDS


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
