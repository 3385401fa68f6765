"""Findings and cards as sentences: which are shown, in which order, and what each says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from app.views.charts import interval, number
from app.views.theme import facts
from backend.wire.findings import Card, Finding

ORDER = ("contradicted", "falls short", "null", "holds", "unjudged")
"""What asks for attention comes first."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of a finding to be shown."""

    words: str = ""
    study: str = ""
    model: str = ""
    evidence: str = ""
    status: str = ""


def study_of(finding: Finding) -> str:
    """The study of ``study/measure``."""
    return finding.id.split("/", 1)[0]


def passes(finding: Finding, wanted: Wanted) -> bool:
    """Whether a finding is shown; every word must stand in its text."""
    for name in ("model", "evidence", "status"):
        if getattr(wanted, name) and getattr(finding, name) != getattr(wanted, name):
            return False
    if wanted.study and study_of(finding) != wanted.study:
        return False
    text = (
        " ".join(
            (
                finding.id,
                finding.claim,
                finding.question,
                finding.model,
                finding.data,
                finding.evidence,
                finding.status,
                finding.caveat,
                *finding.controls,
            )
        )
        .lower()
        .replace("-", " ")
        .replace("_", " ")
    )
    return all(word in text for word in wanted.words.lower().replace("-", " ").replace("_", " ").split())


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """By study, and inside a study what asks for attention first."""
    return sorted(findings, key=lambda f: (study_of(f), ORDER.index(f.status), f.id))


def with_unit(value: float | None, unit: str) -> str:
    """A value with its unit set as people do: no space before a degree sign."""
    told = number(value)
    if not unit or value is None:
        return told
    return told + unit if unit.startswith("°") else f"{told} {unit}"


def entry(finding: Finding) -> dict:
    """What the list shows of a finding."""
    f = finding
    between = f"95 % between {number(f.low)} and {number(f.high)}" if f.low is not None and f.high is not None else ""
    told = ", ".join(part for part in (between, f"n = {f.n}" if f.n else "") if part)
    controls = ", ".join(f"{k} {with_unit(v, f.unit)}" for k, v in f.controls.items() if v is not None)
    lines = [
        f"Controls: {controls}." if controls else "",
        f"Published: {f.published}." if f.published else "",
        f"Aim: {plain(f.aim)}." if f.aim else "",
        f"Mind: {f.caveat}" if f.caveat else "",
    ]  # fmt: skip
    seed = re.search(r"--seed[ =](\d+)", f.command)
    return {
        "id": f.id, "study": study_of(f), "claim": f.claim, "question": f.question, "status": f.status,
        "value": with_unit(f.value, f.unit) if f.value is not None else "no number yet", "interval": told,
        "chips": [c for c in (f.evidence, f.model, f.data, f.measured) if c], "lines": [x for x in lines if x],
        "plot": interval(f.value, f.low, f.high, f.controls, unit=f.unit), "command": f.command,
        "seed": int(seed.group(1)) if seed else 0, "scale": "paper" if "--scale paper" in f.command else "small",
        "supports": f.supports, "contradicts": f.contradicts,
    }  # fmt: skip


def tally(findings: Sequence[Finding]) -> str:
    """How many hold, fall short, and so on, in words."""
    counts = {s: sum(f.status == s for f in findings) for s in ORDER}
    words = {"holds": "holding", "falls short": "falling short", "unjudged": "not judged"}
    told = [
        f"{counts[s]} {words.get(s, s)}"
        for s in ("holds", "falls short", "null", "contradicted", "unjudged")
        if counts[s]
    ]
    return f"{len(findings)} finding{'s' if len(findings) != 1 else ''}" + (": " + ", ".join(told) if told else "")


def card(entry_: Card) -> str:
    """One card with its facts and its gates: what was aimed at and what was reached."""
    numbers = [(_said(v), _named(k)) for k, v in entry_.facts.items() if isinstance(v, int | float)][:6]
    words = [(_named(k), str(v)) for k, v in entry_.facts.items() if isinstance(v, str)][:4]
    lines = "".join(f'<div class="atlas-line"><span>{escape(k)}</span><span>{escape(v)}</span></div>' for k, v in words)
    name = f"{entry_.name} · " if entry_.name != entry_.title else ""
    summary = entry_.summary.replace("*", "").replace("`", "")
    return (
        f'<article class="atlas-card" id="card-{escape(entry_.name)}"><h3>{escape(entry_.title)}</h3> '
        f'<span class="atlas-quiet">{escape(name + entry_.licence)}</span><p>{escape(summary)}</p>'
        f"{facts(numbers) if numbers else ''}{lines}{''.join(_gate(g) for g in entry_.gates)}</article>"
    )


def _named(key: str) -> str:
    return key.removeprefix("n_").replace("_", " ")


def _said(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return number(value) if isinstance(value, float) else f"{value:,}".replace(",", " ")


def _gate(gate: dict) -> str:
    passed, value, aim = gate.get("passed"), gate.get("value"), gate.get("aim")
    sign, words = {True: ("✓", "reached"), False: ("✗", "not reached")}.get(passed, ("·", "not judged"))
    told = escape(_named(str(gate.get("name", ""))))
    told += f": <b>{escape(_said(value))}</b>" if value is not None else ""
    told += f" <small>(aim {escape(plain(_said(aim)))})</small>" if aim not in (None, "") else ""
    cls = "atlas-gate passed" if passed else "atlas-gate"
    return f'<div class="{cls}"><b aria-label="{words}">{sign}</b><span>{told}</span></div>'


def plain(aim: str) -> str:
    """An aim in words: ``>= 0.9`` is "at least 0.9"."""
    return aim.replace(">=", "at least").replace("<=", "at most").replace(">", "above").replace("<", "below")
