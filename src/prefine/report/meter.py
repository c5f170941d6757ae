"""The annotation meter: how many labels a run asked for, of whom and when, and what came of them.

Counted is what the method asked for, whether it was answered now or found in the store; what a yardstick or a model's
own view says is not (``run.judge(role=...)``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from prefine.report.charts import Point, Series, line_chart
from prefine.report.figures import Estimate, Evaluated, main_evaluation
from prefine.report.panels import Panel
from prefine.report.record import Record, Row, get

UNPAID = ("view", "evaluation")
"""Roles of judgements that ask nobody for a label."""


@dataclass(frozen=True)
class Asked:
    """What one judge was asked in one round (None: outside rounds)."""

    judge: str
    round: int | None
    given: int = 0
    abstained: int = 0
    comparisons: int = 0
    """Of both: labels that compare two responses, the others grade one."""
    unread: int = 0
    """Verdicts that a model wrote and nobody could read."""

    @property
    def labels(self) -> int:
        """Asked for, answered or not."""
        return self.given + self.abstained

    def __add__(self, other: Asked) -> Asked:
        return replace(
            self, given=self.given + other.given, abstained=self.abstained + other.abstained,
            comparisons=self.comparisons + other.comparisons, unread=self.unread + other.unread,
        )  # fmt: skip


@dataclass(frozen=True)
class Meter:
    """Everything a run asked for, by judge and round."""

    rows: tuple[Asked, ...]

    @property
    def total(self) -> Asked:
        return sum(self.rows, Asked("all", None))

    def until(self, position: int) -> int:
        """Labels asked for by the time of a place on the round axis (0: the start, r + 1: after round r)."""
        return sum(r.labels for r in self.rows if position and (r.round is None or r.round < position))

    def said(self) -> str:
        """In a few words.

        >>> Meter((Asked("people", 0, 9, 1, 10),)).said()
        '10 labels asked for (10 comparisons, 1 abstained)'
        """
        all_ = self.total
        more = {"comparisons": all_.comparisons, "abstained": all_.abstained, "unread": all_.unread}
        parts = ", ".join(f"{n:,} {name}" for name, n in more.items() if n)
        return f"{all_.labels:,} labels asked for" + (f" ({parts})" if parts else "")


def meter(record: Record) -> Meter:
    """The meter of a run as its journal tells it."""
    return Meter(tuple(_sums(paid(record.verbs))))


def paid(events: Iterable[Row]) -> Iterable[Row]:
    """The judgements that asked somebody for labels, each once, the last word on each."""
    last: dict[str, Row] = {}
    for event in events:
        if event.get("verb") == "judge" and event.get("event") in ("done", "reused"):
            last[str(event.get("key") or event.get("label"))] = event
    return [e for e in last.values() if e.get("role") not in UNPAID and "held-out" not in str(e.get("label"))]


def _sums(events: Iterable[Row]) -> Iterable[Asked]:
    sums: dict[tuple[str, int | None], Asked] = {}
    for event in events:
        name = str(event.get("label") or "judge").removeprefix("judge ")
        place = event.get("round")
        asked = Asked(
            name, place if isinstance(place, int) else None, given=_count(event, "labels"),
            abstained=_count(event, "abstained"), comparisons=_count(event, "comparisons"),
            unread=_count(event, "unread"),
        )  # fmt: skip
        key = asked.judge, asked.round
        sums[key] = sums[key] + asked if key in sums else asked
    return sums.values()


def _count(event: Row, name: str) -> int:
    return round(get(event, name) or 0)


def panel(record: Record) -> Panel | None:
    """What the labels bought: reward (or wins, or pairs ranked right) against labels asked for."""
    found, points = meter(record), main_evaluation(record)
    if not found.rows:
        return None
    for figure, label in FIGURES.items():
        known = [(p, e) for p in points if (e := p.of(figure)) is not None]
        if len(known) < 2:
            continue
        drawn = tuple(_point(found.until(p.position), e, p.label) for p, e in known)
        chart = line_chart(
            [Series("", drawn, named_points=True)], title="Labels", x_label="labels asked for", y_label=label,
            percent=figure != "reward",
        )  # fmt: skip
        return Panel("What the labels bought", chart, _say(found, known[0][0], known[-1][0], figure, label))
    return None


def _point(labels: int, e: Estimate, name: str) -> Point:
    low, high = (e.low, e.high) if e.se is not None else (None, None)
    return Point(float(labels), e.value, low, high, label=name)


FIGURES: Mapping[str, str] = {
    "reward": "mean reward", "win_rate": "wins against the start", "pair_accuracy": "held-out pairs ranked right",
}  # fmt: skip


def _say(found: Meter, start: Evaluated, end: Evaluated, figure: str, label: str) -> str:
    before, after = start.of(figure), end.of(figure)
    moved = "" if before is None or after is None else f" {label.capitalize()} moved by {(after - before).value:+.3g}."
    return f"{found.said()}.{moved} Methods that choose what to ask are compared along this line, at equal labels."
