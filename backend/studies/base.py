"""What a study is: a named function that measures and returns findings, run the same way from everywhere.

    @study("light-ring")
    def run(ctx: StudyContext) -> list[Finding]:
        ctx.progress(0.1, "fitting the ring")
        return [ctx.finding("median-error-deg", "The light lands where it was sent.", interval, aim="<= 10", unit="°")]

A study lives in ``backend/studies/<name with underscores>/`` and is imported when it is asked for, so that listing the
studies costs nothing. Every finding carries the command that re-runs it. Not covered: running several at once.
"""

from __future__ import annotations

import ast
import importlib
import operator
import pkgutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

import torch

from backend.catalogue.store import Catalogue
from backend.core.errors import Invalid, NotFound
from backend.core.stats import Interval
from backend.wire.findings import Finding, StudyResult

Scale = Literal["small", "paper"]
Progress = Callable[[float, str], None]
Run = Callable[["StudyContext"], list[Finding]]

_REGISTERED: dict[str, Run] = {}
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def study(name: str) -> Callable[[Run], Run]:
    """Register ``run(ctx) -> list[Finding]`` as the study ``name`` (lower-case words joined by hyphens)."""

    def register(run: Run) -> Run:
        _REGISTERED[name] = run
        return run

    return register


def judge(value: float | None, aim: str, *, low: float | None = None,
          high: float | None = None) -> Literal["holds", "falls short", "null", "unjudged"]:  # fmt: skip
    """Compare with an aim such as ``">= 0.9"``; an aim in other words, or no value, stays unjudged.

    A strict aim (``"> 0"``) asks for a difference: where the interval holds the limit, the answer is ``"null"``.
    """
    sign, _, number = aim.partition(" ")
    if value is None or sign not in _COMPARE:
        return "unjudged"
    try:
        limit = float(number.split()[0])
    except (ValueError, IndexError):
        return "unjudged"
    if sign in ("<", ">") and low is not None and high is not None and low <= limit <= high:
        return "null"
    return "holds" if _COMPARE[sign](value, limit) else "falls short"


@dataclass
class StudyContext:
    """What a study is given."""

    name: str
    scale: Scale
    """``small`` runs on two cores in minutes; ``paper`` is for a GPU."""
    seed: int
    progress: Progress
    """Called with a share in 0..1 and what is being done; may raise ``Cancelled``."""
    generator: torch.Generator
    """A CPU generator seeded with ``seed``."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the reader: what was skipped and why."""

    def finding(
        self,
        measure: str,
        claim: str,
        value: Interval | float | None,
        *,
        aim: str = "",
        controls: Mapping[str, float | None] | None = None,
        status: str | None = None,
        **fields,
    ) -> Finding:
        """A finding of this study: id, interval, n, seed, date and command are filled in, and ``aim`` is judged.

        ``value`` is an ``Interval`` wherever rows can be resampled; a plain number comes with ``low``, ``high`` and
        ``n`` in ``fields`` where they exist. ``aim`` like ``">= 0.9"`` sets the status unless ``status`` is given.
        """
        if isinstance(value, Interval):
            fields = {"low": value.low, "high": value.high, "n": value.n, **fields}
            value = value.value
        value = None if value is None else float(value)
        return Finding(
            id=f"{self.name}/{measure}", claim=claim, value=value, aim=aim,
            status=status or judge(value, aim, low=fields.get("low"), high=fields.get("high")),
            controls=dict(controls or {}), seeds=[self.seed], command=command(self.name, self.scale, self.seed),
            measured=date.today().isoformat(), **fields,
        )  # fmt: skip

    def absent(self, measure: str, claim: str, reason: str) -> Finding:
        """A finding that could not be measured here; it is reported with its reason and not stored."""
        self.notes.append(f"{self.name}/{measure} was not measured: {reason}")
        return self.finding(measure, claim, None, caveat=reason)


def command(name: str, scale: str, seed: int) -> str:
    """The command line that re-runs a study."""
    return f"manifold-atlas study {name} --scale {scale} --seed {seed}"


def available() -> dict[str, str]:
    """Name and first docstring line of every study, read from the source without importing it."""
    found = {}
    for folder in sorted(Path(__file__).parent.iterdir()):
        init = folder / "__init__.py"
        if init.exists():
            texts = [ast.get_docstring(ast.parse(p.read_text(encoding="utf-8"))) for p in [init, *folder.glob("*.py")]]
            first = next((t for t in texts if t), "")
            found[folder.name.replace("_", "-")] = first.splitlines()[0] if first else ""
    for name, run in _REGISTERED.items():
        found.setdefault(name, (run.__doc__ or "").split("\n")[0])
    return found


def load(name: str) -> Run:
    """The registered function of a study; raises ``NotFound`` with the names that exist."""
    if name not in _REGISTERED:
        known = available()
        if name not in known:
            raise NotFound(
                f"The study {name!r} was asked for.", f"There are {', '.join(known)}.",
                "Choose one of these; `manifold-atlas study` lists them.",
            )  # fmt: skip
        package = importlib.import_module(f"backend.studies.{name.replace('-', '_')}")
        for module in pkgutil.iter_modules(package.__path__):
            if name in _REGISTERED:
                break
            importlib.import_module(f"{package.__name__}.{module.name}")
    if name not in _REGISTERED:
        raise NotFound(
            f"The study {name!r} was asked for.", "Its folder registers no function under that name.",
            f'Decorate its run function with @study("{name}").',
        )  # fmt: skip
    return _REGISTERED[name]


def run_study(
    name: str,
    scale: Scale = "small",
    seed: int = 0,
    *,
    progress: Progress | None = None,
    root: Path | None = None,
    notes: list[str] | None = None,
) -> StudyResult:
    """Run a study and store its findings under ``root`` (by default ``ATLAS_HOME``); ``notes`` collects its remarks.

    Raises ``NotFound`` for an unknown name and ``Invalid`` for an unknown scale or a finding with another study's id.
    """
    if scale not in ("small", "paper"):
        raise Invalid(f"The scale {scale!r} was asked for.", "There are small and paper.", "Choose one of these.")
    run = load(name)
    began = time.monotonic()
    ctx = StudyContext(
        name=name, scale=scale, seed=seed, progress=progress or (lambda fraction, message: None),
        generator=torch.Generator().manual_seed(seed), notes=notes if notes is not None else [],
    )  # fmt: skip
    findings = run(ctx)
    store = Catalogue()
    for finding in findings:
        if finding.id.split("/")[0] != name:
            raise Invalid(f"The study {name!r} returned {finding.id!r}.", "Ids start with the study.", "Rename it.")
        if finding.value is not None:
            store.save_finding(finding, root=root)
    ctx.progress(1.0, "done")
    seconds = round(time.monotonic() - began, 2)
    return StudyResult(study=name, scale=scale, seed=seed, seconds=seconds, findings=findings)
