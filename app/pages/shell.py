"""The shell around every page: bar, navigation, state of the backend, error banner, and the way back after a loss.

A page asks the shell for three things: ``run`` a coroutine, ``show`` a change (with the document's lock, from any
task), and ``tell`` an error. The shell watches the backend; when it is lost a banner says so, and when it is back
the page's ``on_ready`` is called again, so a page never has to care.
"""

from __future__ import annotations

import asyncio
import html
import logging
import time
from collections.abc import Awaitable, Callable

import panel as pn
import panel_material_ui as pmui

from app.client.backend import Backend, BackendDown, BackendError
from app.views.theme import ACCENT, CSS, NAV_CSS
from backend.wire.capabilities import Capabilities

log = logging.getLogger("atlas.app")

PAGES = (
    ("", "home", "Home"),
    ("Explore", "explore", "Blocks"),
    ("Explore", "sinks", "Sinks"),
    ("Steer", "steer-image", "Image"),
    ("Steer", "steer-text", "Text"),
    ("Catalogue", "catalogue", "Findings"),
)
"""Group, path, name."""

THEME = {
    "palette": {"primary": {"main": ACCENT}},
    "shape": {"borderRadius": 8},
    "typography": {"fontFamily": "Roboto, 'Helvetica Neue', Arial, sans-serif", "fontSize": 14},
}


class Shell:
    """One browser session's page. ``on_ready(capabilities)`` is awaited at the start and after each recovery."""

    def __init__(self, here: str, *, title: str, on_ready: Callable[[Capabilities], Awaitable[None]] | None = None) -> None:
        self.client = Backend()
        self.capabilities: Capabilities | None = None
        self.here, self.title, self._on_ready = here, title, on_ready
        self._doc = pn.state.curdoc
        self._alive, self._tasks = True, set()
        self._up: bool | None = None
        self._trip = 0.0
        self.nav = pn.pane.HTML(self._nav(""), stylesheets=[NAV_CSS], sizing_mode="stretch_width", margin=0)
        self.dot = pn.pane.HTML(self._dot("starting"), margin=(0, 12), align="center")
        self.banner = pmui.Alert(visible=False, alert_type="warning", sizing_mode="stretch_width", margin=(0, 0, 16, 0))
        pn.state.onload(self._start)
        pn.state.on_session_destroyed(lambda _context: self._stop())

    # ------------------------------------------------------------------ what a page uses

    def run(self, work: Awaitable) -> None:
        """Start a coroutine of this session; its errors are told, never lost."""

        async def guarded() -> None:
            try:
                await work
            except BackendError as error:
                self.show(lambda: self.tell(error))
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("A task of page %s failed", self.here)
                self.show(lambda: self.tell(BackendError("The page was updating itself.", "Something in it failed.",
                                                         "Reload the page; the log of the app has the details.")))  # fmt: skip

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def show(self, change: Callable[[], None]) -> None:
        """Carry out a change of the page with the document's lock, from any task."""
        if not self._alive:
            return
        if self._doc is None or self._doc.session_context is None:
            change()
        else:
            self._doc.add_next_tick_callback(change)

    def tell(self, error: BackendError) -> None:
        """Show an error as sentences; a lost backend is a state of its own."""
        if isinstance(error, BackendDown):
            self._lost()
            return
        parts = [html.escape(part) for part in (error.asked, error.true, error.todo) if part]
        self.banner.param.update(object=" ".join(parts), alert_type="error", visible=True)

    def clear(self) -> None:
        if self.banner.visible and self.banner.alert_type == "error":
            self.banner.visible = False

    def link(self, **query: object) -> None:
        """Keep ``query`` (seed, prompt, ...) in the navigation, so that it survives a change of page."""
        text = "&".join(f"{k}={v}" for k, v in query.items() if v is not None)
        self.nav.object = self._nav(f"?{text}" if text else "")

    def page(self, *main) -> pmui.Page:
        """The whole page, served as one."""
        share = pn.pane.HTML(
            '<button onclick="navigator.clipboard.writeText(window.location.href);this.textContent=\'Link copied\'" '
            'style="all:unset;cursor:pointer;font-size:13px;opacity:.85;padding:6px" tabindex="0" '
            'aria-label="Copy the address of this view">Share</button>',
            margin=0, align="center",
        )  # fmt: skip
        return pmui.Page(
            title="Manifold Atlas",
            meta=pmui.template.base.Meta(title=f"{self.title} · Manifold Atlas"),
            site_url="/home",
            header=[pn.Row(self.nav, self.dot, share, sizing_mode="stretch_width", margin=0)],
            main=[pn.Column(self.banner, *main, sizing_mode="stretch_width", margin=(20, 24), max_width=1520)],
            sidebar_open=False,
            sidebar_variant="temporary",
            theme_config={"light": THEME, "dark": THEME},
            raw_css=[CSS],
            busy_indicator=None,
        )

    # ------------------------------------------------------------------ the watch over the backend

    async def _start(self) -> None:
        self.run(self._watch())

    async def _watch(self) -> None:
        while self._alive:
            began = time.perf_counter()
            try:
                health = await self.client.health()
                self._trip = 1000 * (time.perf_counter() - began)
                if not self._up:
                    self.capabilities = await self.client.capabilities()
                    self._up = True
                    self.show(self._found)
                    if self._on_ready:
                        self.run(self._on_ready(self.capabilities))
                text, state = f"{health.device} {self._trip:.0f} ms", health.status
                self.show(lambda state=state, text=text: setattr(self.dot, "object", self._dot(state, text)))
            except BackendDown:
                if self._up is not False:
                    self._up = False
                    self.show(self._lost)
            except BackendError as error:
                self.show(lambda error=error: self.tell(error))
            await asyncio.sleep(1.0 if not self._up else 3.0)

    def _lost(self) -> None:
        self._up = False
        self.dot.object = self._dot("lost")
        self.banner.param.update(
            object=f"The backend at {self.client.url} does not answer. The page keeps what it shows, looks for it "
            "every second and goes on by itself.",
            alert_type="warning", visible=True,
        )  # fmt: skip

    def _found(self) -> None:
        self.banner.visible = False

    def _stop(self) -> None:
        self._alive = False
        for task in list(self._tasks):
            task.cancel()
        asyncio.ensure_future(self.client.close())

    def _nav(self, query: str) -> str:
        items, last = [], None
        for group, path, name in PAGES:
            if group and group != last:
                items.append(f'<span class="group">{group}</span>')
            last = group
            here = ' class="here" aria-current="page"' if path == self.here else ""
            items.append(f'<a href="/{path}{query}"{here}>{name}</a>')
        return f'<nav aria-label="Pages">{"".join(items)}</nav>'

    @staticmethod
    def _dot(state: str, text: str = "") -> str:
        colour = {"ready": "#2f9e44", "starting": "#f08c00", "degraded": "#f08c00", "lost": "#e03131"}[state]
        words = text or {"starting": "starting", "lost": "no backend"}.get(state, state)
        return (
            f'<span role="status" style="display:inline-flex;align-items:center;gap:6px;font-size:13px;white-space:nowrap">'
            f'<i style="width:10px;height:10px;border-radius:5px;background:{colour};display:inline-block"></i>'
            f"{html.escape(words)}</span>"
        )


def heading(text: str, note: str = "") -> pn.pane.HTML:
    """A section's name and the one sentence that says how to read it."""
    quiet = f'<div class="atlas-quiet">{note}</div>' if note else ""
    return pn.pane.HTML(f'<div class="atlas-h2">{text}</div>{quiet}', stylesheets=[CSS], sizing_mode="stretch_width", margin=(0, 0, 8, 0))


def quiet(text: str = "", **params) -> pn.pane.HTML:
    """A quiet line of text."""
    return pn.pane.HTML(f'<div class="atlas-quiet">{text}</div>', stylesheets=[CSS], sizing_mode="stretch_width", margin=(0, 0, 8, 0), **params)
