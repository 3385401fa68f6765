"""The words of the calendar world: its classes, and who and what its stories speak of.

Every story has a cast, drawn once: a name, another name, the pronouns, and one word for each slot of its templates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

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


def pick(generator: torch.Generator, options: Sequence):
    """One of ``options``, all equally likely."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def _made_up(generator: torch.Generator) -> str:
    # Names of no list are spelt letter by letter, so that the fallback tokens are trained too.
    return "".join(pick(generator, "bdfgklmnprstvz") + pick(generator, "aeiou") for _ in range(2)).capitalize()


def cast(generator: torch.Generator) -> dict[str, str]:
    """Who and what one story speaks of: the value of every slot that a template may name."""
    girl = float(torch.rand((), generator=generator)) < 0.5
    listed = float(torch.rand((), generator=generator)) < 0.94
    name = pick(generator, GIRLS if girl else BOYS) if listed else _made_up(generator)
    other = pick(generator, [n for n in (*GIRLS, *BOYS) if n != name])
    drawn = {"name": name, "other": other, "she": "she" if girl else "he", "She": "She" if girl else "He"}
    return drawn | {slot: pick(generator, words) for slot, words in FILLERS.items()}
