"""Small plots as SVG in the page's own ink: they follow light and dark by themselves and need no library.

Every function returns markup; sizes are CSS pixels, so that text stays at 11 px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape


def _svg(width: float, height: float, inside: str, label: str) -> str:
    return (
        f'<svg class="atlas-plot" viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" role="img" '
        f'aria-label="{escape(label)}">{inside}</svg>'
    )


def _text(x: float, y: float, words: str, *, anchor: str = "middle", cls: str = "", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{cls}" {more}>{escape(words)}</text>'


def number(value: float | None, *, digits: int = 3) -> str:
    """A number as people write it: no exponent in the ordinary range, thousands set apart."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10_000:
        return f"{value:,.0f}".replace(",", " ")
    if size >= 100:
        return f"{value:.0f}"
    if size < 1e-3:
        return f"{value:.1e}"
    text = f"{value:.{digits}g}"
    return text


def bars(values: Sequence[float], *, names: Sequence[str] | None = None, colour: str = "#0f7c86", marked: int | None = None,
         width: float = 320, height: float = 120, label: str = "", unit: str = "") -> str:  # fmt: skip
    """Vertical bars from zero; ``marked`` is drawn in the warm colour. Names stand below where there is room."""
    if not values:
        return ""
    top = max(max(values), 1e-12)
    n, named = len(values), names is not None and len(values) <= 14
    left, right, base = 36.0, width - 4, height - (18 if named else 8)
    step = (right - left) / n
    parts = [
        f'<line x1="{left}" y1="{base}" x2="{right}" y2="{base}" stroke="currentColor" opacity=".35"/>',
        _text(left - 6, 16, number(top, digits=2), anchor="end", cls="faint"),
        _text(left - 6, base, "0", anchor="end", cls="faint"),
    ]
    for i, value in enumerate(values):
        h = max(0.0, value) / top * (base - 10)
        tip = f"{names[i]}: " if names else f"{i + 1}: "
        fill = "#d9622b" if i == marked else colour
        parts.append(
            f'<rect x="{left + i * step + step * 0.12:.2f}" y="{base - h:.2f}" width="{max(step * 0.76, 0.6):.2f}" height="{h:.2f}" rx="1.5" '
            f'fill="{fill}"><title>{escape(tip)}{number(value)}{escape(unit)}</title></rect>'
        )
        if named:
            parts.append(_text(left + (i + 0.5) * step, height - 4, names[i], cls="faint"))
    return _svg(width, height, "".join(parts), label or "Bars: " + ", ".join(number(v) for v in values[:24]))


def radial(values: Sequence[float], colours: Sequence[str], *, title: str, size: float = 150) -> str:
    """Tuning around a circle: the radius of each sector is its value, its colour the place on the circle."""
    if not values:
        return ""
    n, c, top = len(values), size / 2, max(max(values), 1e-12)
    reach = c - 26
    parts = [
        f'<circle cx="{c}" cy="{c}" r="{reach * q:.1f}" fill="none" stroke="currentColor" opacity=".14"/>'
        for q in (0.5, 1.0)
    ]
    for i, value in enumerate(values):
        a0, a1 = 2 * math.pi * (i - 0.46) / n, 2 * math.pi * (i + 0.46) / n
        r = reach * max(0.0, value) / top
        x0, y0, x1, y1 = c + r * math.cos(a0), c - r * math.sin(a0), c + r * math.cos(a1), c - r * math.sin(a1)
        parts.append(
            f'<path d="M{c} {c} L{x0:.2f} {y0:.2f} A{r:.2f} {r:.2f} 0 0 0 {x1:.2f} {y1:.2f} Z" fill="{colours[int(i * len(colours) / n)]}">'
            f"<title>{360 * i / n:.0f}°: {number(value)}</title></path>"
        )
    for degrees in (0, 90, 180, 270):
        a = math.radians(degrees)
        parts.append(
            _text(c + (reach + 12) * math.cos(a), c - (reach + 12) * math.sin(a) + 4, f"{degrees}°", cls="faint")
        )
    return f'<figure style="margin:0">{_svg(size, size, "".join(parts), f"Tuning to {title}")}<figcaption class="atlas-quiet" style="text-align:center">{escape(title)}</figcaption></figure>'


def scatter(points: Sequence[tuple[float, float, str, str]], *, across: str, up: str, chosen: int | None = None,
            width: float = 420, height: float = 230) -> str:  # fmt: skip
    """Points ``(x, y, colour, title)`` on linear axes from zero; the unit value is drawn as a hairline where it is in sight."""
    if not points:
        return ""
    left, right, base, top = 40.0, width - 10, height - 34, 10.0
    x1 = max(max(p[0] for p in points) * 1.05, 1e-9)
    y1 = max(max(p[1] for p in points) * 1.05, 1e-9)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / x1 * (right - left), base - y / y1 * (base - top)

    parts = [f'<path d="M{left} {top} V{base} H{right}" fill="none" stroke="currentColor" opacity=".35"/>']
    for value in ticks(0, x1, 5):
        x, _ = at(value, 0)
        parts.append(_text(x, base + 15, number(value), cls="faint"))
    for value in ticks(0, y1, 4):
        _, y = at(0, value)
        parts.append(_text(left - 6, y + 4, number(value), anchor="end", cls="faint"))
    if x1 > 1:
        x, _ = at(1, 0)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{base}" stroke="currentColor" stroke-dasharray="2 3" opacity=".4"/>'
        )
    for i, (px, py, colour, title) in enumerate(points):
        x, y = at(px, py)
        ring = ' stroke="currentColor" stroke-width="2"' if i == chosen else ""
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if i == chosen else 4}" fill="{colour}" fill-opacity=".82"{ring}><title>{escape(title)}</title></circle>'
        )
    parts.append(_text((left + right) / 2, height - 4, across, cls="faint"))
    parts.append(
        _text(11, (top + base) / 2, up, cls="faint", more=f'transform="rotate(-90 11 {(top + base) / 2:.0f})"')
    )
    return _svg(width, height, "".join(parts), f"{up} against {across}")


def interval(value: float | None, low: float | None, high: float | None, controls: dict[str, float | None], *, unit: str = "",
             width: float = 360) -> str:  # fmt: skip
    """One value with its interval, and its controls as small dots on the same axis, each named."""
    if value is None:
        return ""
    known = sorted(((k, v) for k, v in controls.items() if v is not None and math.isfinite(v)), key=lambda kv: kv[1])
    every = [value, *(v for v in (low, high) if v is not None), *(v for _, v in known)]
    lo, hi = min(0.0, *every), max(0.0, *every)
    hi = hi if hi > lo else lo + 1.0
    left, right, axis = 12.0, width - 12, 22.0

    def at(v: float) -> float:
        return left + (v - lo) / (hi - lo) * (right - left)

    parts = [
        f'<line x1="{left}" x2="{right}" y1="{axis}" y2="{axis}" stroke="currentColor" opacity=".28"/>',
        f'<line x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{axis - 5}" y2="{axis + 5}" stroke="currentColor" opacity=".5"/>',
    ]
    if low is not None and high is not None:
        parts.append(
            f'<line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="{axis}" y2="{axis}" stroke="#0f7c86" stroke-width="5" stroke-linecap="round" opacity=".45"/>'
        )
    parts.append(
        f'<circle cx="{at(value):.1f}" cy="{axis}" r="6" fill="#0f7c86"><title>{number(value)}{escape(unit)}</title></circle>'
    )
    # Names of controls are put on the first line where they do not run into one that stands there.
    lines: list[float] = []
    for name, v in known:
        x, half = at(v), 3.1 * len(name) + 6
        centre = min(max(x, left + half), right - half)
        line = next((i for i, end in enumerate(lines) if centre - half > end), len(lines))
        if line == len(lines):
            lines.append(-math.inf)
        lines[line] = centre + half
        y = axis + 20 + 15 * line
        parts.append(
            f'<circle cx="{x:.1f}" cy="{axis}" r="3.5" fill="currentColor" opacity=".55"><title>{escape(name)}: {number(v)}{escape(unit)}</title></circle>'
        )
        parts.append(_text(centre, y, name, cls="faint"))
    height = axis + (12 if not lines else 10 + 15 * len(lines) + 4)
    return _svg(
        width, height, "".join(parts), f"{number(value)}{unit}" + "".join(f", {k} {number(v)}{unit}" for k, v in known)
    )


def lines(series: Sequence[tuple[str, str, Sequence[float], bool]], fraction: Sequence[float], *, label: str, width: float = 360,
          height: float = 190) -> str:  # fmt: skip
    """Curves ``(name, colour, values, dashed)`` between 0 and 1 over ``fraction``; each is named where it is highest."""
    left, right, base, top = 30.0, width - 8, height - 32, 16.0

    def at(f: float, v: float) -> tuple[float, float]:
        return left + f * (right - left), base - min(max(v, 0.0), 1.0) * (base - top)

    parts = []
    for v in (0.0, 0.5, 1.0):
        _, y = at(0, v)
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity="{0.35 if v == 0 else 0.1}"/>'
        )
        parts.append(_text(left - 6, y + 4, f"{v:g}", anchor="end", cls="faint"))
    for f, words in ((0.0, "start"), (0.5, "half way"), (1.0, "point")):
        parts.append(
            _text(at(f, 0)[0], base + 15, words, anchor={0.0: "start", 0.5: "middle", 1.0: "end"}[f], cls="faint")
        )
    placed: list[tuple[float, float]] = []
    names = []
    # Only curves that matter are named: the highest, and at most four of them.
    telling = sorted((max(v) for _, _, v, _ in series if v), reverse=True)
    least = max(0.12, telling[min(3, len(telling) - 1)] - 1e-9) if telling else 1.0
    for name, colour, values, dashed in series:
        if not values or max(values) < 0.02:
            continue
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in (at(f, v) for f, v in zip(fraction, values)))
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2.4" stroke-linejoin="round"{dash}><title>{escape(name)}</title></path>'
        )
        peak = max(range(len(values)), key=lambda i: values[i])
        if max(values) < least:
            continue
        x, y = at(fraction[peak], values[peak])
        half = 3.1 * len(name)
        anchor = "start" if x - half < left else "end" if x + half > right else "middle"
        y = max(y - 5, 10.0)
        while any(abs(x - a) < 56 and abs(y - b) < 12 for a, b in placed) and y > 12:
            y -= 12
        if not any(abs(x - a) < 56 and abs(y - b) < 12 for a, b in placed):
            placed.append((x, y))
            names.append(_text(x, y, name, anchor=anchor, more='font-weight="700"'))
    return _svg(width, height, "".join(parts + names), label)


def ticks(lo: float, hi: float, n: int) -> list[float]:
    """Round values between ``lo`` and ``hi``, at most about ``n``."""
    raw = (hi - lo) / max(n, 1)
    unit = 10 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= raw * 0.999)
    first = math.ceil(lo / step - 1e-9)
    return [round(i * step, 12) for i in range(first, int(math.floor(hi / step + 1e-9)) + 1)]
