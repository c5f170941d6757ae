"""Line charts as inline SVG: uncertainty drawn, no script, nothing loaded, colours from the page's own style.

Colours are CSS classes (``k0`` ... ``k4``), so that a chart follows the page into dark mode; every point says
its numbers when pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP = 58, 14, 14


@dataclass(frozen=True)
class Point:
    """Where it is, how sure that is in y (and in x), and what it is called."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points in one colour. ``band``: uncertainty as an area behind the line, else as bars on the points."""

    name: str
    points: tuple[Point, ...]
    colour: int = 0
    band: bool = False
    named_points: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Mapping[float, str] | None = None,
    rule: tuple[float, str] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    percent: bool = False,
    least: float = 0.0,
) -> Markup:
    """A chart. ``least`` is the smallest height of the y axis, so that a change that is none does not look
    like one. ``rule`` is a horizontal line that means something (chance, no change); ``marks`` are vertical
    lines where something begins; ``x_ticks`` replace the numbers of the x axis by names."""
    drawn = [s for s in series if s.points]
    bottom = HEIGHT - (40 if x_label else 24)
    if not drawn:
        return Markup("")
    xs = [v for s in drawn for p in s.points for v in (p.x, p.x_low, p.x_high) if v is not None]
    ys = [v for s in drawn for p in s.points for v in (p.y, p.low, p.high) if v is not None]
    if rule is not None:
        ys.append(rule[0])
    x_low, x_high = _padded(xs, 0.0 if x_ticks is None and not drawn[0].named_points else 0.06)
    y_low, y_high = _padded(ys, 0.07)
    lacking = max(0.0, least - (y_high - y_low)) / 2
    y_low, y_high = y_low - lacking, y_high + lacking
    if percent:
        y_low, y_high = max(y_low, -0.02), min(y_high, 1.02)

    def at_x(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - TOP)

    parts: list[Markup] = []
    for tick in ticks(y_low, y_high, 5):
        y = at_y(tick)
        text = f"{tick * 100:.0f}%" if percent else short(tick)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(_text(LEFT - 7, y + 4, text, "tick end"))
    named = x_ticks if x_ticks is not None else {t: short(t) for t in ticks(x_low, x_high, 6)}
    for x, name in _thinned(named):
        parts.append(_text(at_x(x), bottom + 17, name, "tick mid"))
    for x, name in marks:
        parts.append(_line(at_x(x), TOP, at_x(x), bottom, "mark"))
        parts.append(_text(at_x(x) + 4, TOP + 9, name, "note"))
    parts.append(_line(LEFT, bottom, WIDTH - RIGHT, bottom, "axis"))
    if rule is not None:
        parts.append(_line(LEFT, at_y(rule[0]), WIDTH - RIGHT, at_y(rule[0]), "rule"))
        parts.append(_text(WIDTH - RIGHT, at_y(rule[0]) - 5, rule[1], "note end"))
    for s in drawn:
        parts += _draw(s, at_x, at_y, percent)
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_label, "label mid"))
    parts.append(
        Markup('<text class="label mid" transform="translate(11 {}) rotate(-90)">{}</text>').format(
            f"{(TOP + bottom) / 2:.0f}", y_label
        )
    )
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(parts)
    )


def smooth(values: Sequence[float | None], first: float = 0.0, limit: int = 160) -> tuple[Point, ...]:
    """A noisy sequence as its running mean with one standard deviation about it, at most ``limit`` points."""
    known = [(first + i, v) for i, v in enumerate(values) if v is not None]
    if not known:
        return ()
    half = max(0, len(known) // 24)
    stride = max(1, math.ceil(len(known) / limit))
    places = sorted({*range(0, len(known), stride), len(known) - 1})
    points = []
    for i in places:
        window = [v for _, v in known[max(0, i - half) : i + half + 1]]
        mean = sum(window) / len(window)
        spread = math.sqrt(sum((v - mean) ** 2 for v in window) / len(window))
        points.append(Point(known[i][0], mean, mean - spread, mean + spread))
    return tuple(points)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between two limits, about ``count`` of them."""
    raw = (high - low) / max(1, count)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number in few characters, read easily."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size and size < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.4g}"


def _draw(s: Series, at_x, at_y, percent: bool) -> list[Markup]:  # type: ignore[no-untyped-def]
    parts: list[Markup] = []
    sure = [p for p in s.points if p.low is not None and p.high is not None]
    if s.band and len(sure) > 1:
        upper = [f"{at_x(p.x):.1f},{at_y(p.high or 0):.1f}" for p in sure]
        lower = [f"{at_x(p.x):.1f},{at_y(p.low or 0):.1f}" for p in reversed(sure)]
        parts.append(Markup('<polygon class="band k{}" points="{}"/>').format(s.colour, " ".join(upper + lower)))
    line = " ".join(f"{at_x(p.x):.1f},{at_y(p.y):.1f}" for p in s.points)
    parts.append(Markup('<polyline class="line k{}" points="{}"/>').format(s.colour, line))
    if s.band:
        return parts
    for p in s.points:
        x, y = at_x(p.x), at_y(p.y)
        if p.low is not None and p.high is not None:
            parts.append(_line(x, at_y(p.low), x, at_y(p.high), f"bar k{s.colour}"))
        if p.x_low is not None and p.x_high is not None:
            parts.append(_line(at_x(p.x_low), y, at_x(p.x_high), y, f"bar k{s.colour}"))
        show = (lambda v: f"{v:.1%}") if percent else short
        about = f" ({show(p.low)} to {show(p.high)})" if p.low is not None and p.high is not None else ""
        parts.append(
            Markup('<circle class="dot k{}" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
                s.colour, f"{x:.1f}", f"{y:.1f}", f"{s.name}, {p.label or short(p.x)}: {show(p.y)}{about}"
            )
        )
        if s.named_points and p.label:
            left = x > WIDTH - RIGHT - 56
            parts.append(_text(x + (-8 if left else 8), y + 15, p.label, "note end" if left else "note"))
    return parts


def _thinned(named: Mapping[float, str]) -> list[tuple[float, str]]:
    every = max(1, math.ceil(len(named) / 8))
    return [pair for i, pair in enumerate(sorted(named.items())) if i % every == 0]


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * share
    if high - low < 1e-12 * max(1.0, abs(high)):
        room = max(abs(high) * 0.1, 0.5)
    return low - room, high + room


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        kind, f"{x1:.1f}", f"{y1:.1f}", f"{x2:.1f}", f"{y2:.1f}"
    )


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, f"{x:.1f}", f"{y:.1f}", escape(text))
