"""Inline SVG charts, written by hand: lines, bars and dots of given numbers; knows nothing of runs or events."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Form = Callable[[float], str]
"""How a value is written."""
ValueOf = Callable[[int], float | None]
"""The value at a place."""
WIDTH = 640.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 12.0, 22.0, 26.0
_LEAST_PANEL = 0.2
"""Of the width: a phase of five calls stays readable beside one of eight hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A stretch of the horizontal axis with its own scale: a name and its values, None where there is none.

    foot: what stands below it. titles: what is shown when the pointer rests on a point, one for each value.
    """

    name: str
    foot: str
    values: tuple[float | None, ...]
    titles: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One horizontal bar from 0 to 1."""

    name: str
    value: float
    style: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A point with its interval, beside a bound that it must exceed."""

    name: str
    middle: float
    low: float
    high: float
    bound: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two values of one day: first and second series; None when that arm did not play or settle."""

    label: str
    group: str
    first: float | None
    second: float | None
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """One line of a stairs chart: a value for each place, and what the pointer shows there."""

    name: str
    style: str
    values: tuple[float, ...]
    titles: tuple[str, ...]


def curve(panels: Sequence[Panel], *, height: float, form: Form, smooth: int) -> Markup:
    """Points by panel with a trailing mean over at most `smooth` of them, drawn as a line."""
    shown = [value for panel in panels for value in panel.values if value is not None]
    if not shown:
        return Markup("")
    y = _Axis.around([*shown, 0.0], height - BOTTOM, TOP)
    parts = [_grid(y, form)]
    for (start, end), panel in zip(_places(panels), panels, strict=True):
        parts.append(_panel_frame(panel.name, start, end, height))
        parts.append(_text((start + end) / 2, height - 8, panel.foot, "axis", "middle"))
        step = (end - start) / len(panel.values)
        marks = enumerate(zip(panel.values, panel.titles, strict=True))
        points = [(start + step * (k + 0.5), v, t) for k, (v, t) in marks if v is not None]
        if not points:
            parts.append(_text((start + end) / 2, TOP + 16, "none here", "axis", "middle"))
        radius = 1.3 if len(points) > 60 else 2.4
        parts += [_dot(x, y(v), radius, "raw", t) for x, v, t in points]
        means = _trailing([v for _, v, _ in points], smooth)
        if len(points) > 1:
            parts.append(_line([(x, y(m)) for (x, _, _), m in zip(points, means, strict=True)], "line agent"))
    return _svg(height, parts)


def bars(rows: Sequence[Bar], *, form: Form) -> Markup:
    """Horizontal bars on a common scale from 0 to 1, each with its figure."""
    step, left = 30.0, 96.0
    height = step * len(rows) + 8
    parts = []
    for k, row in enumerate(rows):
        top = step * k + 6
        long = max(0.0, min(1.0, row.value)) * (WIDTH - left - 70)
        parts.append(_text(left - 8, top + 15, row.name, "label", "end"))
        parts.append(_rect("track", left, top, WIDTH - left - 70, ""))
        parts.append(_rect(f"bar {row.style}", left, top, long, row.title))
        parts.append(_text(WIDTH - 62, top + 15, form(row.value), "label", "start"))
    return _svg(height, parts)


def intervals(rows: Sequence[Interval], *, form: Form) -> Markup:
    """Points with intervals on one scale that holds 0; a tick marks the bound that the interval must exceed."""
    left, right = 110.0, WIDTH - 70.0
    return _interval_rows(
        rows, form, left, _Axis.around([v for r in rows for v in (r.low, r.high, r.bound, 0.0)], left, right)
    )


def rungs(rows: Sequence[Interval], *, form: Form) -> Markup:
    """Points with intervals and long names, on one scale around them; a tick marks what they are held against."""
    left, right = 210.0, WIDTH - 70.0
    shown = [v for r in rows for v in (r.low, r.high, r.bound)]
    room = (max(shown) - min(shown)) * 0.06
    return _interval_rows(rows, form, left, _Axis(min(shown) - room, max(shown) + room, left, right))


def _interval_rows(rows: Sequence[Interval], form: Form, left: float, x: _Axis) -> Markup:
    step = 30.0
    height = step * len(rows) + 30
    parts = []
    for tick in x.ticks():
        style = "zero" if tick == 0 else "grid"
        parts.append(_segment(style, (x(tick), 4), (x(tick), height - 22), ""))
        parts.append(_text(x(tick), height - 7, form(tick), "axis", "middle"))
    for k, row in enumerate(rows):
        mid = step * k + 18
        parts.append(_text(left - 8, mid + 5, row.name, "label", "end"))
        parts.append(_segment("bound", (x(row.bound), mid - 9), (x(row.bound), mid + 9), ""))
        parts.append(_segment("range", (x(row.low), mid), (x(row.high), mid), row.title))
        parts.append(_dot(x(row.middle), mid, 5.0, "agent", row.title))
        parts.append(_text(WIDTH - 62, mid + 5, form(row.middle), "label", "start"))
    return _svg(height, parts)


def pairs(rows: Sequence[Pair], *, height: float, form: Form) -> Markup:
    """Two dots a place, joined by a line: the first series filled, the second open."""
    shown = [v for row in rows for v in (row.first, row.second) if v is not None]
    if not shown:
        return Markup("")
    y = _Axis.around([*shown, 0.0], height - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(rows)
    parts = [_grid(y, form)]
    for group in dict.fromkeys(row.group for row in rows):
        places = [k for k, row in enumerate(rows) if row.group == group]
        parts.append(_panel_frame(group, LEFT + step * places[0], LEFT + step * (places[-1] + 1), height))
    for k, row in enumerate(rows):
        x = LEFT + step * (k + 0.5)
        if row.first is not None and row.second is not None:
            parts.append(_segment("range", (x, y(row.first)), (x, y(row.second)), row.title))
        if row.second is not None:
            parts.append(_dot(x, y(row.second), 4.5, "control", row.title))
        if row.first is not None:
            parts.append(_dot(x, y(row.first), 4.5, "agent", row.title))
        if len(rows) <= 30 or k % 5 == 0:
            parts.append(_text(x, height - 8, row.label, "axis", "middle"))
    return _svg(height, parts)


def stairs(labels: Sequence[str], series: Sequence[Steps], *, height: float, form: Form) -> Markup:
    """Amounts by place, each held until the next: what was granted, and what was used of it."""
    if not labels:
        return Markup("")
    y = _Axis.around([0.0, *(v for one in series for v in one.values)], height - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(labels)
    parts = [_grid(y, form)]
    for one in series:
        corners = []
        for k, value in enumerate(one.values):
            corners += [(LEFT + step * k, y(value)), (LEFT + step * (k + 1), y(value))]
        parts.append(_line(corners, f"line {one.style}"))
        for k, (value, title) in enumerate(zip(one.values, one.titles, strict=True)):
            parts.append(_dot(LEFT + step * (k + 0.5), y(value), 5.0, "ghost", title))
    for k, label in enumerate(labels):
        if len(labels) <= 30 or k % 5 == 0:
            parts.append(_text(LEFT + step * (k + 0.5), height - 8, label, "axis", "middle"))
    return _svg(height, parts)


@dataclass(frozen=True, slots=True)
class _Axis:
    """A linear scale from values to places on the picture, with round ticks."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        """The scale that holds all values with a little room; a single value gets a scale of 1."""
        low, high = min(values), max(values)
        room = (high - low) * 0.06 if high > low else 0.5
        return cls(low - room if low < 0 or low == high else low, high + room, start, end)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Three to six round values within the scale."""
        raw = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(raw))
        size = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
        first = math.ceil(self.low / size)
        return [size * k for k in range(first, math.floor(self.high / size) + 1)]


def _places(panels: Sequence[Panel]) -> list[tuple[float, float]]:
    """Where each panel stands: as wide as it has values, but never narrower than a readable stretch."""
    total = sum(len(panel.values) for panel in panels)
    wide = [max(_LEAST_PANEL, len(panel.values) / total) for panel in panels]
    width = (WIDTH - LEFT - RIGHT) / sum(wide)
    found, start = [], LEFT
    for share in wide:
        found.append((start, start + share * width))
        start += share * width
    return found


def _trailing(values: Sequence[float], most: int) -> list[float]:
    return [
        sum(part) / len(part) for k in range(len(values)) if (part := values[max(0, k + 1 - most) : k + 1])
    ]


def _grid(y: _Axis, form: Form) -> str:
    parts = []
    for tick in y.ticks():
        style = "zero" if tick == 0 else "grid"
        parts.append(_segment(style, (LEFT, y(tick)), (WIDTH - RIGHT, y(tick)), ""))
        parts.append(_text(LEFT - 6, y(tick) + 4, form(tick), "axis", "end"))
    return "".join(parts)


def _panel_frame(name: str, start: float, end: float, height: float) -> str:
    edge = _segment("edge", (start, 4), (start, height - BOTTOM), "")
    return edge + _text((start + end) / 2, 14, name, "label", "middle")


def _line(points: Sequence[tuple[float, float]], style: str) -> str:
    return f'<polyline class="{escape(style)}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _segment(style: str, start: tuple[float, float], end: tuple[float, float], title: str) -> str:
    at = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line class="{escape(style)}" {at}>{_title(title)}</line>'


def _rect(style: str, left: float, top: float, width: float, title: str) -> str:
    at = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="20"'
    return f'<rect class="{escape(style)}" {at}>{_title(title)}</rect>'


def _dot(x: float, y: float, radius: float, style: str, title: str) -> str:
    at = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
    return f'<circle class="dot {escape(style)}" {at}>{_title(title)}</circle>'


def _title(text: str) -> str:
    """What is shown when the pointer rests on a mark."""
    return f"<title>{escape(text)}</title>" if text else ""


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> Markup:
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img">{body}</svg>')
