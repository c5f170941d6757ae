"""Bars and lines as inline SVG: no script, nothing loaded, text and grid in the page's own colour.

The two hues are readable on white and on near-black; everything else is ``currentColor``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

HUES = ("#4a7fe0", "#d97f2a", "#3a9d6e", "#a566c8")
WIDTH = 640
BAR, GAP = 22, 8
LEFT, RIGHT = 190, 120


def bars(title: str, rows: Mapping[str, tuple[float, float, float]], unit: str) -> str:
    """A horizontal bar a side with its median, a whisker from least to most, and the number beside it."""
    if not rows:
        return ""
    top = 26
    height = top + len(rows) * (BAR + GAP)
    most = max(high for _, _, high in rows.values()) or 1.0
    room = WIDTH - LEFT - RIGHT

    def at(value: float) -> float:
        return LEFT + room * value / most

    parts = [_text(0, 14, title, weight="bold")]
    for i, (name, (median, low, high)) in enumerate(rows.items()):
        y = top + i * (BAR + GAP)
        middle = y + BAR / 2
        parts.append(_text(LEFT - 8, middle + 4, name, anchor="end"))
        parts.append(
            f'<rect x="{LEFT}" y="{y}" width="{max(at(median) - LEFT, 1):.1f}" height="{BAR}" rx="3" '
            f'fill="{HUES[0 if i == 0 else 1]}"><title>{escape(name)}: {short(median)} {escape(unit)} '
            f"({short(low)} to {short(high)})</title></rect>"
        )
        parts.append(_line(at(low), middle, at(high), middle, 0.8, 1.5))
        parts += [_line(at(v), middle - 4, at(v), middle + 4, 0.8, 1.5) for v in (low, high)]
        parts.append(_text(max(at(high), at(median)) + 8, middle + 4, f"{short(median)} {unit}"))
    return _svg(title, height, parts)


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
    log: bool = True,
    from_zero: bool = False,
) -> str:
    """Lines over x on logarithmic axes (or a linear y with ``log=False``), named at their ends."""
    points = [p for s in series.values() for p in s]
    if not points:
        return ""
    height, left, right, top, bottom = 320, 70, 110, 34, 270
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    y_low = 0.0 if from_zero else y_low
    y_ticks = decades(y_low, y_high) if log else even(y_low, y_high)
    y_low, y_high = min(y_low, y_ticks[0]), max(y_high, y_ticks[-1])
    scale = math.log if log else float

    def at_x(x: float) -> float:
        share = (math.log(x) - math.log(x_low)) / ((math.log(x_high) - math.log(x_low)) or 1.0)
        return left + share * (WIDTH - left - right)

    def at_y(y: float) -> float:
        share = (scale(y) - scale(y_low)) / ((scale(y_high) - scale(y_low)) or 1.0)
        return bottom - share * (bottom - top)

    parts = [_text(0, 14, title, weight="bold")]
    for y in y_ticks:
        parts.append(_line(left, at_y(y), WIDTH - right, at_y(y), 0.15, 1))
        parts.append(_text(left - 8, at_y(y) + 4, short(y), anchor="end"))
    for x in sorted({x for x, _ in points}):
        parts.append(_line(at_x(x), bottom, at_x(x), bottom + 4, 0.5, 1))
        parts.append(_text(at_x(x), bottom + 18, short(x), anchor="middle"))
    parts.append(_line(left, bottom, WIDTH - right, bottom, 0.5, 1))
    parts.append(_text((left + WIDTH - right) / 2, height - 8, x_label, anchor="middle"))
    parts.append(
        f'<text transform="translate(14 {(top + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    ends: list[float] = []
    for i, (name, places) in enumerate(series.items()):
        hue = HUES[i % len(HUES)]
        path = " ".join(f"{'L' if k else 'M'}{at_x(x):.1f} {at_y(y):.1f}" for k, (x, y) in enumerate(places))
        parts.append(f'<path d="{path}" fill="none" stroke="{hue}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3.5" fill="{hue}"><title>{escape(name)} at '
            f"{short(x)}: {short(y)}</title></circle>"
            for x, y in places
        ]
        end = at_y(places[-1][1])
        end += next((14.0 for other in ends if abs(other - end) < 14), 0.0)
        ends.append(end)
        parts.append(f'<text x="{WIDTH - right + 10}" y="{end + 4:.1f}" style="fill:{hue}">{escape(name)}</text>')
    return _svg(title, height, parts)


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from below the least to above the most; only powers where those are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1.0,) if last - first > 3 else (1.0, 2.0, 5.0)
    marks = [s * 10.0**e for e in range(first, last + 1) for s in steps]
    below = [m for m in marks if m <= low][-1:]
    above = [m for m in marks if m >= high][:1]
    return sorted({*below, *(m for m in marks if low < m < high), *above})


def even(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers, evenly spaced, that reach over all."""
    raw = (high - low or high or 1.0) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.floor(low / step)
    marks = [first * step]
    while marks[-1] < high:
        marks.append((first + len(marks)) * step)
    return marks


def short(value: float) -> str:
    """A number as few digits as say it.

    >>> [short(x) for x in (0.0312, 1.5, 64, 1410.4, 1_000_000)]
    ['0.031', '1.5', '64', '1,410', '1M']
    """
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.3g}"


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    """One block of HTML without an empty line, as Markdown wants it."""
    style = "width:100%;max-width:720px;height:auto;font:12px sans-serif;fill:currentColor"
    inside = "".join(parts)
    return (
        f'<div class="bench-chart"><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}" style="{style}">{inside}</svg></div>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, opacity: float, width: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'stroke-opacity="{opacity}" stroke-width="{width}"/>'
    )
