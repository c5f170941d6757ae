"""The charts of a report, each with a sentence that says what to look for, or what was seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prefine.report.charts import Point, Series, line_chart, smooth
from prefine.report.figures import (
    Change,
    Estimate,
    Evaluated,
    Segment,
    change,
    evaluations,
    segments,
    side_moved,
)
from prefine.report.record import Record

CHOSEN, REJECTED, ACCENT = 1, 2, 0


@dataclass(frozen=True)
class Panel:
    """A chart with its title, its legend as (name, colour) and what to make of it."""

    title: str
    chart: Markup
    text: str
    legend: tuple[tuple[str, int], ...] = ()


def outcome(record: Record) -> list[Panel]:
    """What came out, by round."""
    groups = evaluations(record)
    panels = [_by_round(groups, "win_rate", "Wins against the start", "share of comparisons won", _say_wins,
                        percent=True, rule=(0.5, "even"))]  # fmt: skip
    panels.append(_reward_and_kl(groups))
    panels.append(_by_round(groups, "reward", "Reward", "mean reward", _say_moved("The reward")))
    panels.append(_by_round(groups, "length", "Length", "tokens a response", _say_length))
    panels.append(_by_round(groups, "pair_accuracy", "Held-out pairs ranked right", "share of pairs", _say_pairs,
                            percent=True, rule=(0.5, "chance")))  # fmt: skip
    panels.append(_held_out_sides(groups))
    return [p for p in panels if p is not None]


def training(record: Record) -> list[Panel]:
    """How training went, step by step, all rounds end to end."""
    policies = [s for s in segments(record) if not s.rewards]
    rewards = [s for s in segments(record) if s.rewards]
    panels = [
        _by_step(policies, [("chosen", "chosen_logp", CHOSEN), ("rejected", "rejected_logp", REJECTED)],
                 "Log-probability of chosen and rejected", "nats a response", displacement(policies)),
        _by_step(policies, [("chosen", "chosen_ratio", CHOSEN), ("rejected", "rejected_ratio", REJECTED)],
                 "Against the reference", "log-ratio, nats", "How much more (above zero) or less likely than under "
                 "the reference. Every round starts at zero when the reference moves along.", rule=(0.0, "")),
        _by_step(policies, [("margin", "margin", ACCENT)], "Margin", "chosen minus rejected",
                 "How far chosen and rejected are apart. A margin that keeps growing after accuracy has settled "
                 "is effort spent on pairs already won.", rule=(0.0, "")),
        _by_step(policies, [("accuracy", "accuracy", ACCENT)], "Accuracy", "pairs ranked right",
                 "The share of training pairs whose chosen response leads.", rule=(0.5, "chance"), percent=True),
        _by_step(policies, [("loss", "loss", ACCENT)], "Loss", "loss", "The objective itself."),
        _by_step(policies, [("gradient norm", "grad_norm", 3)], "Gradient norm", "before clipping",
                 "Calm is good; spikes point at single batches."),
        _by_step(rewards, [("accuracy", "accuracy", ACCENT)], "Reward model: accuracy", "pairs ranked right",
                 "The share of training pairs that the reward model ranks right.", rule=(0.5, "chance"), percent=True),
        _by_step(rewards, [("loss", "loss", ACCENT)], "Reward model: loss", "loss",
                 "The objective of the reward model."),
    ]  # fmt: skip
    return [p for p in panels if p is not None]


def displacement(trainings: Sequence[Segment]) -> str:
    """What the two log-probabilities did, in words: the place where likelihood displacement shows."""
    chosen, rejected = change(trainings, "chosen_logp"), change(trainings, "rejected_logp")
    if chosen is None or rejected is None:
        return "Where chosen and rejected responses went during training."
    moves = f"Within a training, chosen {_went(chosen)} and rejected {_went(rejected)}. "
    return moves + DISPLACEMENT[chosen.direction, rejected.direction]


def _held_out_sides(groups: dict[str, list[Evaluated]]) -> Panel | None:
    """Chosen and rejected log-probabilities of held-out pairs: displacement where it cannot be overfitting."""
    points = max(groups.values(), key=len, default=[])
    sides = {
        name: [(p, e) for p in points if (e := p.of(f"pair_{name}_logp")) is not None]
        for name in ("chosen", "rejected")
    }
    if any(len(known) < 2 for known in sides.values()):
        return None
    series = [
        Series(name, tuple(_point(p.position, e, p.label) for p, e in known), colour)
        for (name, known), colour in zip(sides.items(), (CHOSEN, REJECTED))
    ]
    title = "Held-out chosen and rejected"
    chart = line_chart(series, title=title, x_label="", y_label="log-probability, nats",
                       x_ticks={float(p.position): p.label for p, _ in sides["chosen"]})  # fmt: skip
    moves = {name: side_moved(points[0], points[-1], name) or Estimate(0.0) for name in sides}
    went = {name: 0 if not m.clear else (1 if m.value > 0 else -1) for name, m in moves.items()}
    said = ", ".join(f"{name} {WENT[went[name]]} by {abs(moves[name].value):.2g}" if went[name] else f"{name} stayed"
                     for name in sides)  # fmt: skip
    return Panel(
        title, chart, f"From start to end, {said}. {DISPLACEMENT[went['chosen'], went['rejected']]}", _legend(series)
    )


WENT = {-1: "fell", 0: "stayed", 1: "rose"}

DISPLACEMENT = {
    (-1, -1): "Both fall: likelihood displacement. The margin grows because the rejected falls faster, while the "
    "mass they lose goes to responses nobody judged. A likelihood term on the chosen responses holds them up.",
    (1, -1): "That is what one hopes for: mass moves from the rejected to the chosen.",
    (1, 1): "Both rise: the policy moves towards all of this data, the chosen and the rejected, as in supervised "
    "fine-tuning.",
    (-1, 1): "The wrong way round: the rejected gains on the chosen. Check that labels are not swapped.",
    (0, -1): "The rejected are pushed down and the chosen hold their place.",
    (1, 0): "The chosen are pulled up and the rejected hold their place.",
    (-1, 0): "The chosen lose likelihood: watch the samples for responses that nobody judged.",
    (0, 1): "The rejected gain likelihood. Check that labels are not swapped.",
    (0, 0): "Neither moved beyond the noise: the training was short or gentle.",
}
"""(direction of chosen, of rejected) -> what it means."""


def _went(moved: Change) -> str:
    return f"{WENT[moved.direction]} ({moved.amount:+.2f} ± {1.96 * moved.se:.2f} nats)"


def _by_round(
    groups: dict[str, list[Evaluated]],
    figure: str,
    title: str,
    y_label: str,
    say: Callable[[list[tuple[Evaluated, Estimate]]], str],
    *,
    percent: bool = False,
    rule: tuple[float, str] | None = None,
) -> Panel | None:
    series: list[Series] = []
    ticks: dict[float, str] = {}
    first: Known = []
    for i, (name, points) in enumerate(groups.items()):
        known = [(p, e) for p in points if (e := p.of(figure)) is not None]
        if figure == "win_rate" and known and points[0].position == 0 and known[0][0].position > 0:
            known.insert(0, (points[0], Estimate(0.5)))  # against itself
        first = first or known
        ticks.update({float(p.position): p.label for p, _ in known})
        drawn = tuple(_point(p.position, e, p.label) for p, e in known)
        series.append(Series(name, drawn, colour=_colour(i)))
    if not first or (len(first) < 2 and figure != "win_rate"):
        return None
    chart = line_chart(
        series, title=f"{title} by round", x_label="", y_label=y_label, x_ticks=ticks, percent=percent, rule=rule,
        least=0.3 * first[0][1].value if figure == "length" else 0.0,
    )  # fmt: skip
    return Panel(title, chart, say(first), _legend(series))


def _reward_and_kl(groups: dict[str, list[Evaluated]]) -> Panel | None:
    series = []
    for i, (name, points) in enumerate(groups.items()):
        drawn = []
        for p in points:
            reward, kl = p.of("reward"), p.of("kl")
            kl = Estimate(0.0) if kl is None and p.position == 0 else kl
            if reward is None or kl is None:
                continue
            drawn.append(_point(kl.value, reward, p.label, across=kl))
        series.append(Series(name, tuple(drawn), colour=_colour(i), named_points=True))
    if max((len(s.points) for s in series), default=0) < 2:
        return None
    chart = line_chart(
        series, title="Reward against KL", x_label="KL to the start, nats a response", y_label="mean reward"
    )
    text = "What the reward cost in distance from the start. Up and to the left is better; a line that turns "
    return Panel("Reward against KL", chart, text + "flat or down spends distance for nothing.", _legend(series))


def _by_step(
    trainings: Sequence[Segment],
    lines: Sequence[tuple[str, str, int]],
    title: str,
    y_label: str,
    text: str,
    *,
    rule: tuple[float, str] | None = None,
    percent: bool = False,
) -> Panel | None:
    series, marks = [], []
    first = 1.0
    for training in trainings:
        if len(training.rows) and len(trainings) > 1:
            number = training.round
            marks.append((first, f"round {number + 1}" if number is not None else training.label[:14]))
        for name, column, colour in lines:
            points = smooth(training.column(column), first)
            series.append(Series(name, points, colour=colour, band=True))
        first += len(training.rows)
    if not any(len(s.points) > 1 for s in series):
        return None
    x_label = "optimiser steps" if not marks else "optimiser steps, all trainings end to end"
    every = max(1, -(-len(marks) // 6))
    chart = line_chart(series, title=title, x_label=x_label, y_label=y_label, rule=rule, marks=marks[::every],
                       percent=percent)  # fmt: skip
    return Panel(title, chart, text, _legend(series))


def _point(x: float, e: Estimate, label: str, across: Estimate | None = None) -> Point:
    low, high = (e.low, e.high) if e.se is not None else (None, None)
    wide = across is not None and across.se is not None
    return Point(float(x), e.value, low, high, across.low if wide and across else None,
                 across.high if wide and across else None, label)  # fmt: skip


def _legend(series: Sequence[Series]) -> tuple[tuple[str, int], ...]:
    names = tuple(dict.fromkeys((s.name, s.colour) for s in series if s.points))
    return names if len(names) > 1 else ()


def _colour(i: int) -> int:
    return (0, 3, 4, 1, 2)[i % 5]


Known = list[tuple[Evaluated, Estimate]]


def _say_wins(known: Known) -> str:
    last = known[-1][1]
    if last.se is None:
        return "Share of comparisons with the start that the policy wins; ties count half."
    if last.low > 0.5:
        return f"The whole interval ({last.low:.0%} to {last.high:.0%}) lies above even: it is better than its start."
    if last.high < 0.5:
        return f"The whole interval ({last.low:.0%} to {last.high:.0%}) lies below even: it got worse."
    return f"The interval ({last.low:.0%} to {last.high:.0%}) includes even: more prompts would tell."


def _say_moved(what: str) -> Callable[[Known], str]:
    def say(known: Known) -> str:
        moved = known[-1][1] - known[0][1]
        sure = "" if moved.clear or moved.se is None else ", which could be chance"
        return f"{what} went from {known[0][1].value:.3g} to {known[-1][1].value:.3g} ({moved.value:+.3g}){sure}."

    return say


def _say_length(known: Known) -> str:
    before, after = known[0][1].value, known[-1][1].value
    if before <= 0:
        return "Tokens a response."
    ratio = after / before - 1
    if ratio > 0.10:
        return f"Responses grew by {ratio:.0%}. Judges like length: compare at equal length before trusting the wins."
    if ratio < -0.10:
        return f"Responses shrank by {-ratio:.0%}."
    return f"Length held ({ratio:+.1%}): whatever was gained is not bought with words."


def _say_pairs(known: Known) -> str:
    return (
        f"Of held-out pairs, {known[-1][1].value:.0%} have the chosen response gain on the rejected, against the start."
    )
