"""The figures of a run, worked out from its record: by round, by training step, by verb.

Positions on the round axis: 0 is the start, r + 1 is after round r, and a run without rounds ends at 1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from prefine.report.record import Record, Row, figures_of, get, number

Z = 1.96
"""Half the width of a 95% interval, in standard errors."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error, where one is known."""

    value: float
    se: float | None = None

    @property
    def low(self) -> float:
        return self.value - Z * (self.se or 0.0)

    @property
    def high(self) -> float:
        return self.value + Z * (self.se or 0.0)

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference. Errors are added as if independent, which is too wide on shared prompts: safe."""
        known = self.se is not None or other.se is not None
        se = math.hypot(self.se or 0.0, other.se or 0.0) if known else None
        return Estimate(self.value - other.value, se)

    @property
    def clear(self) -> bool:
        """Whether it is known to differ from zero."""
        return self.se is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Evaluated:
    """One evaluation at its place on the round axis."""

    position: int
    label: str
    row: Row

    def of(self, name: str) -> Estimate | None:
        value = get(self.row, name)
        return None if value is None else Estimate(value, get(self.row, f"{name}_se"))


@dataclass(frozen=True)
class Segment:
    """The metrics of one training, step by step."""

    key: str
    label: str
    round: int | None
    rows: tuple[Row, ...]

    @property
    def rewards(self) -> bool:
        """Whether this trained a reward model (its log-probabilities are rewards)."""
        return "reward model" in self.label

    def column(self, name: str) -> list[float | None]:
        return [number(row.get(name)) for row in self.rows]

    def values(self, name: str) -> list[float]:
        return [v for v in self.column(name) if v is not None]


@dataclass(frozen=True)
class Change:
    """How a figure moved within trainings: the mean over trainings of (last fifth - first fifth)."""

    before: float
    after: float
    se: float

    @property
    def amount(self) -> float:
        return self.after - self.before

    @property
    def direction(self) -> int:
        """+1 rises, -1 falls, 0 cannot be told from noise."""
        return 0 if abs(self.amount) <= 2 * self.se else (1 if self.amount > 0 else -1)


@dataclass(frozen=True)
class VerbCost:
    """What one kind of verb came to."""

    verb: str
    made: int
    reused: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What the run came to so far, over all launches in this directory."""

    seconds: float
    trained_tokens: float
    sampled_tokens: float
    labels: float
    responses: float
    made: int
    reused: int
    by_verb: tuple[VerbCost, ...]


def evaluations(record: Record) -> dict[str, list[Evaluated]]:
    """Evaluations by name, each list in order of position; the last one given for a position stands."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in record.evaluations:
        groups[str(row.get("name") or "evaluation")].append(row)
    placed = {name: _placed(rows) for name, rows in groups.items()}
    return {name: points for name, points in placed.items() if points}


def main_evaluation(record: Record) -> list[Evaluated]:
    """The evaluation the headline speaks of: the one with most points, the first among equals."""
    return max(evaluations(record).values(), key=len, default=[])


def side_moved(start: Evaluated, end: Evaluated, side: str) -> Estimate | None:
    """How the log-probability of held-out chosen or rejected responses moved: paired where that was measured."""
    paired = end.of(f"pair_{side}_ratio")
    if paired is not None:
        return paired
    before, after = start.of(f"pair_{side}_logp"), end.of(f"pair_{side}_logp")
    return None if before is None or after is None else after - before


def segments(record: Record) -> list[Segment]:
    """Trainings in the order they ran."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in record.metrics:
        rows[str(row.get("key") or row.get("label") or "")].append(row)
    return [
        Segment(key, str(own[0].get("label") or "train"), _int(own[0].get("round")), tuple(own))
        for key, own in rows.items()
    ]


def change(trainings: Iterable[Segment], name: str) -> Change | None:
    """How a figure moved from the first to the last fifth of each training, averaged over trainings."""
    before, after, variance = [], [], []
    for training in trainings:
        values = training.values(name)
        k = max(1, len(values) // 5)
        if len(values) < 4:
            continue
        first, last = values[:k], values[-k:]
        spread = _variance([b - a for a, b in pairwise(values)]) / 2  # noise, the trend taken out
        before.append(_mean(first))
        after.append(_mean(last))
        variance.append(2 * spread / k)
    if not before:
        return None
    return Change(_mean(before), _mean(after), math.sqrt(sum(variance)) / len(variance))


def cost(record: Record) -> Cost:
    """Seconds, tokens, labels and responses of everything computed here."""
    made: dict[str, int] = defaultdict(int)
    reused: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    totals: dict[str, float] = defaultdict(float)
    for event in record.done:
        verb = str(event.get("verb") or "?")
        if verb in FREE and get(event, "seconds") is None:
            continue
        made[verb] += 1
        seconds[verb] += get(event, "seconds") or 0.0
        for name in () if (verb, event.get("role")) in UNPAID else COUNTED.get(verb, ()):
            totals[f"{verb} {name}"] += get(event, name) or 0.0
    for event in record.reused:
        reused[str(event.get("verb") or "?")] += 1
    verbs = sorted({*made, *reused}, key=lambda v: -seconds[v])
    return Cost(
        seconds=sum(seconds.values()),
        trained_tokens=totals["train tokens"],
        sampled_tokens=totals["sample tokens"],
        labels=totals["judge labels"],
        responses=totals["sample candidates"],
        made=sum(made.values()),
        reused=sum(reused.values()),
        by_verb=tuple(VerbCost(v, made[v], reused[v], seconds[v]) for v in verbs),
    )


FREE = ("slates", "policy")
"""Verbs that only bring something in when they took no time."""

COUNTED: Mapping[str, tuple[str, ...]] = {
    "train": ("tokens",),
    "judge": ("labels",),
    "sample": ("candidates", "tokens"),
}
"""Which figures of which verbs add up to a cost."""


UNPAID = {("judge", "view"), ("judge", "evaluation")}
"""Judgements that ask nobody for a label: the models' own view of their samples, and the yardstick's."""


def rounds_done(record: Record) -> int:
    """How many rounds trained something to the end."""
    rounds = {_int(e.get("round")) for e in record.verbs if e.get("event") in ("done", "reused")
              and e.get("verb") == "train"}  # fmt: skip
    return len(rounds - {None})


def _placed(rows: Sequence[Row]) -> list[Evaluated]:
    places: dict[int, Evaluated] = {}
    for i, row in enumerate(rows):
        round_ = _int(row.get("round"))
        named = {str(row.get("role")), str(row.get("label"))}
        if "start" in named or (i == 0 and round_ is None and len(rows) > 1):
            position, label = 0, "start"
        elif round_ is not None:
            position, label = round_ + 1, f"round {round_ + 1}"
        else:
            last = max(places, default=0)
            same = last > 0 and row.get("key") is not None and places[last].row.get("key") == row.get("key")
            position, label = (last, places[last].label) if same else (last + 1, "end")
        if figures_of(row) or get(row, "reward") is not None:
            places[position] = Evaluated(position, label, row)
    return [places[p] for p in sorted(places)]


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
