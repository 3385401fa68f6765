"""The address of a view: what the page shows stands in the URL, and the URL restores the page.

Only what differs from the default is written, so that addresses stay short enough to be read. Values that cannot be
read (an old link, a typing mistake) are left at their default.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import panel as pn
import param


def read(state: param.Parameterized, search: str) -> None:
    """Set each parameter of ``state`` that stands in ``search`` (with or without its question mark)."""
    for name, text in parse_qsl(search.lstrip("?")):
        if name == "name" or name not in state.param:
            continue
        try:
            setattr(state, name, _value(state.param[name], text))
        except (ValueError, TypeError):
            continue


def write(state: param.Parameterized) -> str:
    """The query of ``state``, empty where everything is as it starts."""
    changed = {
        name: getattr(state, name) for name in state.param
        if name != "name" and getattr(state, name) is not None and getattr(state, name) != state.param[name].default
    }  # fmt: skip
    return (
        "?" + urlencode({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in changed.items()}) if changed else ""
    )


def bind(state: param.Parameterized) -> None:
    """Read the session's address into ``state`` and keep it there from now on."""
    location = pn.state.location
    if location is None:
        return
    read(state, location.search or "")

    def keep(*_events) -> None:
        text = write(state)
        if text != (location.search or ""):
            location.search = text

    state.param.watch(keep, [name for name in state.param if name != "name"])


def _value(parameter: param.Parameter, text: str):
    if isinstance(parameter, param.Integer):
        return int(text)
    if isinstance(parameter, param.Number):
        return float(text)
    return text
