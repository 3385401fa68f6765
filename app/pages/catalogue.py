"""Catalogue: findings as sentences beside their controls, the cards of what is installed, and replay."""

from __future__ import annotations

import asyncio

import panel_material_ui as pmui
import param

from app.client.backend import BackendError
from app.components import FindingList, SearchBox
from app.pages.address import bind
from app.pages.layout import column, columns, heading, markup, row
from app.pages.shell import Shell
from app.views import findings as views
from app.views.theme import skeleton
from backend.wire.capabilities import Capabilities
from backend.wire.findings import Catalogue as Shelf
from backend.wire.jobs import JobInfo, JobRequest

KINDS = {"model": "Models", "dataset": "Datasets", "featurizer": "Featurizers", "manifold": "Manifolds"}


class State(param.Parameterized):
    """What the URL holds."""

    query = param.String(default="")
    study = param.String(default="")
    model = param.String(default="")
    evidence = param.String(default="")
    status = param.String(default="")


class Catalogue:
    """The page. ``view()`` is what is served."""

    def __init__(self) -> None:
        self.state = State()
        bind(self.state)
        self.shell = Shell("catalogue", title="Findings", on_ready=self._ready)
        self.shelf: Shelf | None = None
        self.jobs: dict[str, JobInfo] = {}
        self._loading = True
        s, wide = self.state, {"sizing_mode": "stretch_width", "margin": 0}
        self.search = SearchBox(
            placeholder="Search findings", value=s.query, on_search=lambda w: self._filter(query=w), **wide
        )
        self.choices = {
            name: pmui.Select(label=label, options={"any": ""}, value="", size="small", **wide)
            for name, label in (("study", "Study"), ("model", "Model"), ("evidence", "Evidence"), ("status", "Status"))
        }
        for name, choice in self.choices.items():
            choice.param.watch(lambda e, name=name: self._filter(**{name: e.new or ""}), "value")
        self.title = markup('<h1 class="atlas-h1">Findings</h1>')
        self.list = FindingList(
            waiting="Waiting for the backend …", on_replay=self._replay, on_cancel=self._cancel, **wide
        )
        self.cards = markup(skeleton("Waiting for the backend …"))

    def view(self) -> pmui.Page:
        filters = row(
            column(self.search, grow="3 1 260px"),
            *[column(c, grow="1 1 130px") for c in self.choices.values()],
            align="flex-start",
        )
        left = column(self.title, filters, self.list, grow="2.4 1 520px", gap=16)
        right = column(
            heading("What is installed", "Each with the gates it had to reach, on held-out data."),
            self.cards,
            grow="1 1 300px",
        )
        return self.shell.page(columns(left, right, gap=56))

    # ------------------------------------------------------------------ what people do

    def _filter(self, **changes) -> None:
        if self._loading:
            return
        self.state.param.update(**changes)
        self._show_list()

    def _show_list(self) -> None:
        if self.shelf is None:
            return
        s = self.state
        wanted = views.Wanted(words=s.query, study=s.study, model=s.model, evidence=s.evidence, status=s.status)
        found = [f for f in self.shelf.findings if views.passes(f, wanted)]
        self.search.found = f"{len(found)} of {len(self.shelf.findings)}"
        self.list.param.update(
            items=[views.entry(f) for f in views.ordered(found)],
            waiting="No finding passes. Empty the search or the filters." if self.shelf.findings
            else "Nothing has been measured here yet. Measure something with:\nmanifold-atlas study light-ring",
        )  # fmt: skip

    def _replay(self, study: str, seed: int, scale: str) -> None:
        self.shell.run(self._run(JobRequest(name=study, seed=seed, scale="paper" if scale == "paper" else "small")))

    def _cancel(self, study: str) -> None:
        if job := self.jobs.get(study):
            self.shell.run(self.shell.client.cancel_job(job.id))

    # ------------------------------------------------------------------ the backend

    async def _ready(self, _caps: Capabilities) -> None:
        await self._load()
        try:
            for job in await self.shell.client.jobs():
                if job.state in ("queued", "running") and job.name not in self.jobs:
                    self.shell.run(self._follow(job))
        except BackendError:
            return

    async def _load(self) -> None:
        shelf = await self.shell.client.catalogue()

        def draw() -> None:
            self._loading = True
            self.shelf = shelf
            every = shelf.findings
            options = {
                "study": sorted({views.study_of(f) for f in every}),
                "model": sorted({f.model for f in every if f.model}),
                "evidence": sorted({f.evidence for f in every}),
                "status": [s for s in views.ORDER if any(f.status == s for f in every)],
            }
            for name, choice in self.choices.items():
                choice.options = {"any": ""} | {o: o for o in options[name]}
                kept = getattr(self.state, name)
                if kept not in options[name]:
                    setattr(self.state, name, "")
                choice.value = getattr(self.state, name)
            self._loading = False
            self.title.object = (
                f'<h1 class="atlas-h1">Findings</h1><div class="atlas-quiet">{views.tally(every)}. '
                "Each can be run again; a control stands beside each claim.</div>"
            )
            self.cards.object = self._cards(shelf)
            self._show_list()

        self.shell.show(draw)

    @staticmethod
    def _cards(shelf: Shelf) -> str:
        parts = []
        for kind, title in KINDS.items():
            of = [views.card(c) for c in shelf.cards if c.kind == kind]
            if of:
                parts.append(f'<h2 class="atlas-h2" style="margin:16px 0 8px">{title}</h2>{"".join(of)}')
        parts += [f'<div class="atlas-quiet">Skipped: {views.escape(s)}</div>' for s in shelf.skipped]
        return (
            "".join(parts)
            or '<div class="atlas-quiet">Nothing is installed yet. See what can be: manifold-atlas train</div>'
        )

    async def _run(self, request: JobRequest) -> None:
        job = await self.shell.client.start_job(request)
        await self._follow(job)

    async def _follow(self, job: JobInfo) -> None:
        self._note(job)
        async for state in self.shell.client.follow(job.id):
            self._note(state)
        if self.jobs[job.name].state == "done":
            await asyncio.sleep(0.2)
            await self._load()

    def _note(self, job: JobInfo) -> None:
        self.jobs[job.name] = job

        def draw() -> None:
            told = job.message if job.error is None else f"{job.error.asked} {job.error.true} {job.error.todo}".strip()
            self.list.jobs = {
                **self.list.jobs,
                job.name: {"state": job.state, "progress": job.progress, "message": told},
            }

        self.shell.show(draw)


def page() -> pmui.Page:
    return Catalogue().view()
