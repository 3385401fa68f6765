"""Attention heads as pictures: the board's cells, and one head in words and plots."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from app.views.charts import bars, number, scatter
from app.views.theme import LABELS, key, meter
from app.views.theme import facts as facts_line
from backend.wire.sinks import HeadDetail, HeadSummary, SinkBoard

GREY = "#7b8794"

MEASURES: dict[str, tuple[str, str]] = {
    "strength": ("Strength", "mean attention to the head's dominant key"),
    "event": ("Sink events", "share of queries that put at least half of their attention on it"),
    "value_ratio": ("Value ratio", "norm of the sink's output-projected value over the mean of the other keys"),
    "rank1_energy": ("Rank-1 share", "share of the head's update that one direction carries"),
    "stable_rank": ("Stable rank", "how many directions the head's update uses"),
}
"""Measures of a head: name, and what it is."""

SAYS = {
    "nop": "writes next to nothing: attention rests there so that the head does nothing",
    "broadcast": "sends one message to every token",
    "bias": "adds a constant that does not depend on the input",
    "other": "is a sink, but neither silent nor one message",
    "weak": "matters little to the output, whatever its sink carries",
    "no sink": "has no sink: its attention does not rest on one key",
}


def measure_of(head: HeadSummary, measure: str, top: float) -> float:
    """A head's measure between 0 and 1, relative to the board's largest."""
    return float(getattr(head, measure)) / max(top, 1e-9)


def cells(board: SinkBoard, measure: str) -> list[dict]:
    """One cell a head: size is the measure, colour the label."""
    shares = measure in ("strength", "event", "rank1_energy")
    top = 1.0 if shares else max((float(getattr(h, measure)) for h in board.board), default=1.0)
    name = MEASURES[measure][0].lower()
    return [
        {
            "layer": h.layer, "head": h.head, "value": measure_of(h, measure, top), "colour": LABELS.get(h.label, GREY),
            "title": f"Layer {h.layer}, head {h.head}: {h.label}, {name} {number(getattr(h, measure), digits=2)}, "
                     f"most attention on {h.token.strip() or 'a space'}",
        }
        for h in board.board
    ]  # fmt: skip


def legend(board: SinkBoard) -> str:
    """The labels with their colours and how many heads have each."""
    counts = {label: sum(h.label == label for h in board.board) for label in LABELS}
    return "".join(key(LABELS[label], f"{label} {n}") for label, n in counts.items() if n)


def threshold(board: SinkBoard) -> str:
    """What counts as a sink, in one sentence with this input's numbers."""
    return (
        f"With {board.n} keys, even attention would give each {100 * board.uniform:.1f} %. A head has a sink event "
        "where at least 90 % of the queries put half of their attention or more on one key; the label then says, "
        "by observation alone, what that key's value does."
    )


def values_against_rank(board: SinkBoard, chosen: tuple[int, int] | None) -> str:
    """Value ratio against stable rank, one point a head."""
    heads = board.board
    points = [
        (h.value_ratio, h.stable_rank, LABELS.get(h.label, GREY), f"layer {h.layer}, head {h.head}: {h.label}")
        for h in heads
    ]
    at = next((i for i, h in enumerate(heads) if chosen == (h.layer, h.head)), None)
    return scatter(points, across="value ratio (1: as large as the others)", up="stable rank", chosen=at)


def most_telling(heads: Sequence[HeadSummary]) -> tuple[int, int] | None:
    """The head to open when none was asked for: the strongest sink."""
    if not heads:
        return None
    best = max(heads, key=lambda h: (h.label != "no sink", h.strength))
    return best.layer, best.head


def sentence(detail: HeadDetail) -> str:
    """What this head does, with its numbers."""
    h = detail.summary
    told = [f"By observation it {SAYS.get(h.label, h.label)}."]
    told.append(f"{100 * h.strength:.0f} % of its attention goes to <b>{escape(h.token.strip() or 'a space')}</b>.")
    if h.constant and h.label != "no sink":
        told.append(
            "It stands at position 0 of a causal model, so it cannot depend on content: what it sends is a bias."
        )
    if detail.causal_label:
        says = SAYS.get(detail.causal_label, "")
        told.append(
            f"Exchanging its value, with attention held fixed, says <b>{escape(detail.causal_label)}</b>: it {says}."
        )
    return f'<div class="atlas-said">{" ".join(told)}</div>'


def facts(detail: HeadDetail) -> str:
    """The head's numbers in one line."""
    h = detail.summary
    told = [
        (f"{100 * h.strength:.1f} %", "strength"), (f"{100 * h.event:.0f} %", "queries at ≥ ½"),
        (f"{h.value_ratio:.2f}", "value ratio"),
        (f"{h.stable_rank:.2f}", "stable rank"), (f"{100 * h.rank1_energy:.0f} %", "rank-1 share"),
        (h.label, "by observation"), *([(detail.causal_label, "by exchange")] if detail.causal_label else []),
    ]  # fmt: skip
    return facts_line(told)


def value_norms(detail: HeadDetail) -> str:
    """Norm of each key's output-projected value; the sink is warm."""
    return bars(
        detail.value_norms,
        names=[t.strip() or "␣" for t in detail.tokens],
        marked=detail.summary.sink,
        colour=GREY,
        width=420,
        height=110,
        label="Norm of each key's value",
    )


def spectrum(detail: HeadDetail) -> str:
    """Squared singular values of the head's update as shares of their sum."""
    return bars(
        detail.spectrum[:12],
        names=[str(i + 1) for i in range(min(12, len(detail.spectrum)))],
        width=320,
        height=110,
        label="Spectrum of the head's update",
    )


EXCHANGES = {
    "zero": "value set to zero",
    "mean": "mean value of all keys",
    "donor": "this sink's value from another input",
    "ordinary": "value of an ordinary key",
    "remove": "attention to it taken away",
    "control": "control: another key's value",
}


def effects(detail: HeadDetail) -> str:
    """How far the model's output moves when the sink's value is exchanged with attention fixed; the control is grey."""
    if not detail.effects:
        return '<div class="atlas-quiet">This head has no sink whose value could be exchanged.</div>'
    top = max([*detail.effects.values(), 1e-9])
    colours = {"control": GREY}
    return "".join(
        meter(EXCHANGES.get(name, name), value / top, f"{100 * value:.1f} %", colours.get(name, "#d9622b"))
        for name, value in detail.effects.items()
    )
