"""Charts: what is drawn is where the numbers are."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.report.charts import HEIGHT, WIDTH, Point, Series, line_chart, short, smooth, ticks


def chart(*points: Point, **how: object) -> str:
    settings = {"title": "t", "x_label": "x", "y_label": "y"} | how
    return str(line_chart([Series("s", points)], **settings))  # type: ignore[arg-type]


def circles(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle class="dot k0" cx="([\d.-]+)" cy="([\d.-]+)"', svg)]


def test_higher_values_are_drawn_higher_and_later_ones_to_the_right() -> None:
    (x1, y1), (x2, y2), (x3, y3) = circles(chart(Point(0, 1.0), Point(1, 3.0), Point(2, 2.0)))
    assert x1 < x2 < x3 and y2 < y3 < y1
    assert math.isclose(x2 - x1, x3 - x2, abs_tol=0.11) and math.isclose(y1 - y3, y3 - y2, abs_tol=0.11)


def test_an_interval_is_drawn_from_its_low_to_its_high_end() -> None:
    svg = chart(Point(0, 1.0, 0.5, 1.5), Point(1, 2.0, 1.0, 3.0))
    (_, y1), (_, y2) = circles(svg)
    bars = [
        tuple(map(float, b))
        for b in re.findall(r'class="bar k0" x1="[\d.]+" y1="([\d.]+)" x2="[\d.]+" y2="([\d.]+)"', svg)
    ]
    unit = y1 - y2
    assert bars[0] == pytest.approx((y1 + unit / 2, y1 - unit / 2), abs=0.2)
    assert bars[1] == pytest.approx((y2 + unit, y2 - unit), abs=0.2)


@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), min_size=1, max_size=30),
    st.booleans(),
)
def test_everything_lies_inside_the_picture(values: list[tuple[float, float]], band: bool) -> None:
    points = tuple(Point(x, y, y - 1, y + 1) for x, y in sorted(values))
    svg = str(line_chart([Series("s", points, band=band)], title="t", x_label="x", y_label="y"))
    assert "nan" not in svg and "inf" not in svg
    for polyline in re.findall(r'points="([^"]*)"', svg):
        for x, y in (p.split(",") for p in polyline.split()):
            assert -0.1 <= float(x) <= WIDTH + 0.1 and -0.1 <= float(y) <= HEIGHT + 0.1


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_even_round_and_inside(low: float, width: float, count: int) -> None:
    found = ticks(low, low + width, count)
    slack = 1e-9 * (abs(low) + width)
    assert all(low - slack <= t <= low + width + slack for t in found)
    assert len(found) <= count + 2
    if len(found) > 2:
        gaps = [b - a for a, b in pairwise(found)]
        assert max(gaps) - min(gaps) <= 4 * slack


def test_nothing_to_draw_is_no_picture() -> None:
    assert chart() == ""


def test_names_are_escaped() -> None:
    svg = chart(Point(0, 1.0, label="<b>"), Point(1, 2.0), title='"><script>', x_label="<i>", y_label="a & b")
    assert "<b>" not in svg and "<script>" not in svg and "<i>" not in svg and "a &amp; b" in svg


def test_smoothing_keeps_a_straight_line_straight_and_its_ends() -> None:
    points = smooth([2.0 * i for i in range(1000)], first=1.0)
    assert len(points) <= 162
    inner = points[10:-10]
    assert all(math.isclose(p.y, 2.0 * (p.x - 1.0), abs_tol=1e-9) for p in inner)
    assert points[0].x == 1.0 and points[-1].x == 1000.0


def test_smoothing_shows_the_spread() -> None:
    noisy = smooth([(-1.0) ** i for i in range(480)])
    assert all(p.low is not None and p.high is not None for p in noisy)
    assert max(abs(p.y) for p in noisy) < 0.1
    assert min((p.high or 0) - (p.low or 0) for p in noisy) > 1.8  # two standard deviations of +-1


def test_gaps_are_left_out() -> None:
    assert [p.x for p in smooth([1.0, None, 3.0])] == [0.0, 2.0]


def test_short_numbers() -> None:
    assert [short(v) for v in (0.0, 0.5, 12345.0, 2.5e6, 0.0001)] == ["0", "0.5", "12.3k", "2.5M", "1e-4"]
