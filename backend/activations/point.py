"""Intervention points: the permanent places in a model where interventions act, row by row, as data.

    z = x F;   x' = x + gate · mask · (clamp(z, lo, hi) − z + shift) Fᵀ

x is a module's update (output minus input), output or input, as tokens (R, T, d); pictures (R, C, H, W) are read as
T = H·W tokens of width C. Only buffers change between requests, so a compiled graph stays valid and rows of one batch
are steered independently. With gate 0, or with nothing set, the output is the model's own, bit for bit.

Limit cases: gate 0 is the identity; k = 1 with lo = hi is the usual steering along one direction.

Not covered: non-linear edits in a compiled graph. They exist as eager edits (``PointSet.editing``), which verify this
formula. Hooks are not used: a hook added after ``torch.compile`` is silently ignored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from backend.activations.carrier import carried, carry, release
from backend.activations.rows import Half, RowBuffers, flat, guidance_layout, resolve
from backend.activations.site import Site
from backend.core.errors import AtlasError, Refused
from backend.models.adapter import Adapter, listing

__all__ = ["InterventionPoint", "PointSet", "RowBuffers", "guidance_layout", "install"]

_PLACES = {"resid_pre": "input", "update": "update"}
_NAMES = tuple(f.name for f in fields(RowBuffers))


class InterventionPoint(nn.Module):
    """One site's buffers and formula; ``set`` overwrites the buffers, ``capture`` reads what flows on.

    ``capture(x)`` gets x (R, T, d) behind the intervention; ``edit(x)`` replaces the formula by any function of
    x (R, T, d), eagerly.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.capture: Callable[[Tensor], None] | None = None
        self.edit: Callable[[Tensor], Tensor] | None = None
        self.active = False
        self.rows: RowBuffers | None = None
        for name in _NAMES:
            self.register_buffer(name, None, persistent=False)

    @property
    def busy(self) -> bool:
        """True where the point changes or reads anything."""
        return self.active or self.capture is not None or self.edit is not None

    def set(self, rows: RowBuffers | None) -> None:
        """Overwrite the buffers; ``None`` makes the point idle. Raises ``Invalid`` for shapes that do not fit.

        Buffers of the same shape are overwritten in place, so that compiled graphs keep their addresses. Buffers that
        need a gradient are kept as they are, so that a target can be optimised through the model.
        """
        if rows is not None:
            rows.check()
            self._write(rows)
        self.rows = rows
        self.active = rows is not None

    def _write(self, rows: RowBuffers) -> None:
        for name in _NAMES:
            new, old = getattr(rows, name), getattr(self, name)
            if new is None:
                setattr(self, name, None)
                continue
            if new.requires_grad:
                setattr(self, name, new)
                continue
            with torch.inference_mode(False), torch.no_grad():
                if old is not None and old.shape == new.shape and not old.requires_grad:
                    old.copy_(new)
                else:
                    device = new.device if old is None else old.device
                    setattr(self, name, new.detach().to(device, torch.float32, copy=True))

    def _apply(self, fn, recurse: bool = True):
        # The buffers stay float32 when the model is cast; forward moves them to the device it finds x on.
        return self

    def forward(self, value: Tensor, base: Tensor | None = None) -> Tensor:
        """``value`` is the tensor at the site, ``base`` the module's input where x is the update.

        Raises ``Refused`` where rows, tokens or widths are not those of the buffers.
        """
        if base is not None and base.shape != value.shape:
            raise self._refusal(
                f"the update of a module that turns {tuple(base.shape)} into {tuple(value.shape)}",
                "output minus input does not exist there",
                "Use the '#residual' part of this site.",
            )
        if value.ndim not in (2, 3, 4):
            raise self._refusal(f"a tensor of shape {tuple(value.shape)}", "it is neither tokens nor a picture",
                                "Choose a site whose activations are (R, d), (R, T, d) or (R, C, H, W).")  # fmt: skip
        if self.active:
            value = value + self._delta(value, base)
        if self.edit is not None:
            x = tokens(value if base is None else value - base)
            value = value + untokens(self.edit(x) - x, value)
        if self.capture is not None:
            self.capture(tokens(value if base is None else value - base))
        return value

    def _delta(self, value: Tensor, base: Tensor | None) -> Tensor:
        x = tokens(value if base is None else value - base)
        if self.frame.device != x.device:
            for name in _NAMES:
                if getattr(self, name) is not None:
                    setattr(self, name, getattr(self, name).to(x.device))
        n_rows, n_tokens, d = x.shape
        if self.frame.shape[0] != n_rows or self.frame.shape[1] != d:
            raise self._refusal(
                f"{n_rows} rows of width {d}",
                f"its buffers are for {self.frame.shape[0]} rows of width {self.frame.shape[1]}",
                "Give one entry per batch row, both halves under guidance (layout=guidance_layout(n)).",
            )
        if max(self.lo.shape[1], self.shift.shape[1], self.mask.shape[1]) not in (1, n_tokens):
            raise self._refusal(
                f"{n_tokens} tokens",
                f"its targets or masks are for {max(self.lo.shape[1], self.shift.shape[1], self.mask.shape[1])}",
                "Give targets for one token (all alike) or for as many as the site has.",
            )
        dtype = torch.promote_types(x.dtype, torch.float32)
        # Autocast would round codes to bf16 before the difference is taken.
        with torch.autocast(x.device.type, enabled=False):
            frame = self.frame.to(dtype)
            z = torch.bmm(x.to(dtype), frame)
            change = self.gate * self.mask * (torch.clamp(z, self.lo, self.hi) - z + self.shift)
            if self.floor is not None:
                own = torch.bmm(x.to(dtype), self.where_frame.to(dtype)) - self.centre
                change = change * (torch.bmm(own.square(), self.group.to(dtype)) >= self.floor)
            # (R, d, T): for pictures this is already the layout of the channels.
            delta = torch.bmm(frame, change.transpose(1, 2).to(dtype)).to(value.dtype)
        return delta.reshape(value.shape) if value.ndim == 4 else delta.transpose(1, 2).reshape(value.shape)

    def _refusal(self, found: str, true: str, todo: str) -> Refused:
        return Refused(f"The intervention point '{self.site}' met {found}.", f"There, {true}.", todo)

    def extra_repr(self) -> str:
        return f"{self.site}, {'active' if self.active else 'idle'}"


class PointSet:
    """The intervention points of one adapter, by canonical site."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.points: dict[str, InterventionPoint] = {}
        self._carriers: list[nn.Module] = []
        self._capacity = {"k": 0, "n_tokens": 1}

    def __getitem__(self, site: str | Site) -> InterventionPoint:
        """The point at ``site``; raises ``Refused`` listing the sites that have one."""
        name = str(Site.parse(site, model=self.adapter.name))
        if name not in self.points:
            raise Refused(
                f"Steering at '{name}' was asked for.",
                "This site has no intervention point.",
                f"Sites that have one: {listing(list(self.points))}.",
            )
        return self.points[name]

    def reserve(self, *, k: int = 0, n_tokens: int = 1) -> None:
        """Pad all later buffers to at least ``k`` columns and ``n_tokens`` tokens: fewer shapes, fewer graphs."""
        self._capacity = {"k": k, "n_tokens": n_tokens}

    def set(self, rows: Sequence, *, layout: Sequence[tuple[int, Half]] | None = None,
            progress: float | Sequence[float] | None = None) -> None:  # fmt: skip
        """Write the interventions of every row into the points; points that no row names become idle.

        Arguments as in ``backend.activations.rows.resolve``. Raises ``Refused`` for a site without a point, before
        anything is written.
        """
        for row in rows:
            for item in flat(row):
                self[item.site]
        resolved = resolve(rows, layout=layout, progress=progress)
        stacked = {
            name: RowBuffers.stack(
                [[item for item in row if str(item.site) == name] for row in resolved], **self._capacity
            )
            for name in self.points
        }
        for name, buffers in stacked.items():
            self.points[name].set(buffers)

    def clear(self) -> None:
        """Make all points idle."""
        for point in self.points.values():
            point.set(None)

    @contextlib.contextmanager
    def apply(self, rows: Sequence, *, layout: Sequence[tuple[int, Half]] | None = None,
              progress: float | Sequence[float] | None = None) -> Iterator[PointSet]:  # fmt: skip
        """Steer whatever runs inside the ``with``; afterwards the points are as they were before."""
        before = {name: point.rows for name, point in self.points.items()}
        try:
            self.set(rows, layout=layout, progress=progress)
            yield self
        finally:
            for name, buffers in before.items():
                self.points[name].set(buffers)

    @contextlib.contextmanager
    def reading(self, sites: Sequence[str | Site]) -> Iterator[dict[str, list[Tensor]]]:
        """Collect x (R, T, d) at ``sites``, one entry a call of the module, behind any intervention."""
        points = {str(Site.parse(site, model=self.adapter.name)): self[site] for site in sites}
        seen: dict[str, list[Tensor]] = {name: [] for name in points}
        before = {name: point.capture for name, point in points.items()}
        try:
            for name, point in points.items():
                point.capture = seen[name].append
            yield seen
        finally:
            for name, point in points.items():
                point.capture = before[name]

    @contextlib.contextmanager
    def editing(self, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[PointSet]:
        """Run any function x (R, T, d) → x' at sites, eagerly: the exact path for non-linear edits."""
        points = {site: self[site] for site in edits}
        before = {site: point.edit for site, point in points.items()}
        try:
            for site, point in points.items():
                point.edit = edits[site]
            yield self
        finally:
            for site, point in points.items():
                point.edit = before[site]

    def uninstall(self) -> None:
        """Give every module its own class back and forget the points."""
        for module in self._carriers:
            release(module)
        self._carriers.clear()
        self.points.clear()
        self.adapter.point_set = None

    def _add(self, site: Site) -> None:
        if str(site) in self.points:
            return
        try:
            _, _, module = self.adapter.module_at(f"{site.model}/{site.path}", part=site.part)
        except AtlasError:
            raise Refused(
                f"An intervention point at '{site}' was asked for.",
                f"'{self.adapter.name}' has no module there.",
                f"Sites that can carry one: {listing(self.adapter.site_names())}.",
            ) from None
        place = _PLACES.get(site.part, "output")
        point = carried(module).get(place) or InterventionPoint(site)
        if point.site != site:
            raise Refused(
                f"An intervention point at '{site}' was asked for.",
                f"This place already has one under the name '{point.site}'.",
                "Use that name.",
            )
        carry(module, place, point)
        self._carriers.append(module)
        self.points[str(site)] = point


def install(adapter: Adapter, sites: Sequence[str | Site]) -> PointSet:
    """Put intervention points at ``sites`` of every model of the adapter (the UNet and its few-step twin).

    Installing twice keeps the first point. Returns the adapter's one ``PointSet``. Raises ``Refused`` for a site that
    cannot carry a point, listing those that can.
    """
    if adapter.point_set is None:
        adapter.point_set = PointSet(adapter)
    wanted = [Site.parse(site, model=adapter.name) for site in ([sites] if isinstance(sites, (str, Site)) else sites)]
    for site in wanted:
        adapter.point_set._add(site)
    for site in wanted:
        for model in adapter.models:
            adapter.point_set._add(site.on(model))
    return adapter.point_set


def tokens(value: Tensor) -> Tensor:
    """Activations as (R, T, d): (R, C, H, W) row by row, (R, d) as one token."""
    if value.ndim == 4:
        return value.flatten(2).transpose(1, 2)
    return value[:, None] if value.ndim == 2 else value


def untokens(x: Tensor, like: Tensor) -> Tensor:
    """Inverse of ``tokens`` for the shape of ``like``."""
    return (x.transpose(1, 2) if like.ndim == 4 else x).reshape(like.shape).to(like.dtype)
