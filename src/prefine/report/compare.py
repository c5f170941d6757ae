"""The report of a comparison: one HTML file over the runs of several methods, made like a run's own report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from prefine.errors import InputError
from prefine.report.charts import Point, Series, line_chart, smooth
from prefine.report.figures import COUNTED, FREE, Estimate, Evaluated, Segment, Z, main_evaluation, segments, side_moved
from prefine.report.html import say_count, say_seconds
from prefine.report.meter import meter
from prefine.report.panels import CHOSEN, REJECTED, Panel
from prefine.report.record import Record, Row, get, read_record
from prefine.store import write_text

COLOURS = 8
COLUMNS = (
    "reward", "wins", "KL", "length", "pairs right", "chosen", "rejected", "time", "trained", "sampled",
    "labels", "lr",
)  # fmt: skip
"""Of the table: ``row_of`` gives a cell for each, and ``told`` those that say anything."""
NOTHING = "–"
MEASURING = "held-out"
"""Verbs whose label says so only measure: they are no part of what a method costs."""


@dataclass(frozen=True)
class Spent:
    """What a method takes by itself: shared artifacts count for everyone who needs them."""

    seconds: float
    trained: float
    sampled: float
    labels: float
    more: bool = False
    """Whether something was made by a run that is no longer there, so that nobody knows how long it took."""


@dataclass(frozen=True)
class Compared:
    """One method: its name, colour, record and figures."""

    name: str
    colour: int
    record: Record
    points: Sequence[Evaluated]
    spent: Spent

    @property
    def end(self) -> Evaluated | None:
        return self.points[-1] if self.points else None

    def of(self, name: str) -> Estimate | None:
        return None if self.end is None else self.end.of(name)


def write_comparison(out: Path) -> Path:
    """Write OUT/report.html and say where it is."""
    from prefine.compare import FILE

    if not (out / FILE).exists():
        raise InputError("there is no comparison here", remedy="`prefine compare` makes one", file=out)
    about = json.loads((out / FILE).read_text())
    write_text(out / "report.html", render(out, about))
    return out / "report.html"


def render(out: Path, about: Mapping[str, Any]) -> str:
    """The report as text."""
    environment = Environment(
        loader=PackageLoader("prefine.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(seconds=say_seconds, count=say_count)
    methods = read_methods(out, about["methods"])
    columns, rows = told(methods)
    inputs = {k: v for k, v in about.get("inputs", {}).items() if v is not None}
    where = inputs.get("world") or inputs.get("model") or ""
    return environment.get_template("compare.html.j2").render(
        title=f"{len(methods)} methods compared" + (f" · {where}" if where else ""),
        about=[(k.replace("_", " "), str(v)) for k, v in {**inputs, "seed": about["seed"], **about["train"]}.items()],
        sentence=sentence(methods),
        columns=columns,
        rows=rows,
        panels=[p for p in panels(methods) if p is not None],
        matrix=_matrix(about),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        directory=out.resolve(),
    )


def read_methods(out: Path, named: Sequence[Mapping[str, Any]]) -> list[Compared]:
    records = [read_record(out / method["folder"]) for method in named]
    seconds = _took(out, records)
    return [
        Compared(str(method["name"]), i % COLOURS, record, main_evaluation(record), spent(record, seconds))
        for i, (method, record) in enumerate(zip(named, records, strict=True))
    ]


def spent(record: Record, seconds: Mapping[str, float]) -> Spent:
    """The cost of everything a run needed, made here or found; ``seconds``: what artifacts took, whoever made them."""
    needed = _needed(record)

    def total(verb: str, name: str) -> float:
        return sum(get(e, name) or 0.0 for e in needed.values() if e.get("verb") == verb and name in COUNTED[verb])

    return Spent(
        sum(seconds.get(key, 0.0) for key in needed),
        total("train", "tokens"), total("sample", "tokens"), meter(record).total.labels,
        more=any(key not in seconds and e.get("verb") not in FREE for key, e in needed.items()),
    )  # fmt: skip


def _needed(record: Record) -> dict[str, Row]:
    """Key -> event of every artifact that a run came to be with, those that only measure left out."""
    return {
        str(event["key"]): event
        for event in record.last_launch
        if event.get("event") in ("done", "reused") and event.get("key") and MEASURING not in str(event.get("label"))
    }


def _took(out: Path, records: Sequence[Record]) -> dict[str, float]:
    """Key -> how long it took to make: here, or in other runs beside this one, which share its store."""

    def seconds(events: Iterable[Row]) -> dict[str, float]:
        made = (e for e in events if e.get("event") == "done" and e.get("key"))
        return {str(e["key"]): took for e in made if (took := get(e, "seconds")) is not None}

    here = seconds(e for record in records for e in record.journal)
    if all(key in here or e.get("verb") in FREE for r in records for key, e in _needed(r).items()):
        return here
    others = [*out.parent.glob("*/journal.jsonl"), *out.parent.glob("*/*/journal.jsonl")]
    return {**{k: v for file in others for k, v in seconds(read_record(file.parent).journal).items()}, **here}


def sentence(methods: Sequence[Compared]) -> str:
    """Who is ahead, as far as that is known."""
    figure, what = "reward", "has the highest held-out reward"
    if sum(m.of(figure) is not None for m in methods) < 2:
        figure, what = "pair_accuracy", "ranks most held-out pairs right"
    known = sorted(((m, e) for m in methods if (e := m.of(figure)) is not None), key=lambda k: -k[1].value)
    if len(known) < 2:
        return ""
    (best, most), (second, less) = known[:2]
    sure = "" if (most - less).clear else f", but {second.name} cannot be told from it on these prompts"
    far = [best.of("kl"), second.of("kl")]
    said = f", at KL {far[0].value:.3g} where {second.name} has {far[1].value:.3g}" if far[0] and far[1] else ""
    return f"{best.name} {what} ({most.value:.3g}{said}){sure}."


def panels(methods: Sequence[Compared]) -> list[Panel | None]:
    return [
        _reward_and_kl(methods),
        _held_out_sides(methods),
        _over_training(methods, "chosen", "Displacement of the chosen",
                       "Log-probability of the chosen responses of each step's batch, less the start's. Below zero a "
                       "method buys its margin by making also the good responses less likely."),
        _over_training(methods, "rejected", "Displacement of the rejected",
                       "The same for the rejected responses: what falls more than the chosen is the margin."),
        _length(methods),
    ]  # fmt: skip


def _reward_and_kl(methods: Sequence[Compared]) -> Panel | None:
    series = []
    for method in methods:
        drawn = []
        for point in method.points:
            reward, kl = point.of("reward"), point.of("kl")
            kl = Estimate(0.0) if kl is None and point.position == 0 else kl
            if reward is not None and kl is not None:
                drawn.append(Point(kl.value, reward.value, reward.low, reward.high, kl.low, kl.high, point.label))
        series.append(Series(method.name, tuple(drawn), colour=method.colour))
    if max((len(s.points) for s in series), default=0) < 2:
        return None
    chart = line_chart(series, title="Reward against KL", x_label="KL to the start, nats a response",
                       y_label="mean reward")  # fmt: skip
    text = "What each method's reward cost in distance from the common start. Compare at equal KL: up and to the left "
    return Panel("Reward against KL", chart, f"{text}is better.", _legend(methods))


def _held_out_sides(methods: Sequence[Compared]) -> Panel | None:
    """Where held-out responses went, a method beside the other."""
    sides = {"chosen": (-0.1, CHOSEN), "rejected": (0.1, REJECTED)}
    series = [
        Series(f"{m.name}, {side}", (Point(i + aside, e.value, e.low, e.high, label="from start to end"),), colour)
        for i, m in enumerate(methods)
        for side, (aside, colour) in sides.items()
        if (e := _moved(m, side)) is not None
    ]
    if not series:
        return None
    title = "Held-out chosen and rejected"
    chart = line_chart(
        series, title=title, x_label="", y_label="change of log-probability, nats", rule=(0.0, "start"),
        x_ticks={float(i): _short(m.name) for i, m in enumerate(methods)},
    )  # fmt: skip
    text = "From start to end, on pairs nobody trained on. Both below zero is likelihood displacement."
    return Panel(title, chart, text, (("chosen", CHOSEN), ("rejected", REJECTED)))


def _over_training(methods: Sequence[Compared], side: str, title: str, text: str) -> Panel | None:
    trainings = [[s for s in segments(m.record) if not s.rewards] for m in methods]
    stored = [_stored(m.record) for m in methods]
    plain = next((t[0] for t, kept in zip(trainings, stored, strict=True) if kept and _from_start(t, side)), None)
    moved = [_displacement(t, kept, plain, side) for t, kept in zip(trainings, stored, strict=True)]
    series = [Series(m.name, smooth(d), colour=m.colour, band=True) for m, d in zip(methods, moved, strict=True)]
    if not any(len(s.points) > 1 for s in series):
        return None
    chart = line_chart(series, title=title, x_label="optimiser steps", y_label="nats a response", rule=(0.0, ""))
    return Panel(title, chart, text, _legend(methods))


def _displacement(trainings: Sequence[Segment], stored: bool, plain: Segment | None, side: str) -> list[float | None]:
    """Step by step, rounds end to end, how far the log-probability is from where it began.

    On the batches that another method saw too, whose reference was the start (``plain``), the start's is known: it
    is taken away. Else what a fixed reference gives each batch, and where there is none, the mean of the first steps.
    """
    if plain is not None and len(trainings) == 1 and _batches(trainings[0]) == _batches(plain):
        start = _less(plain.column(f"{side}_logp"), plain.column(f"{side}_ratio"))
        return _less(trainings[0].column(f"{side}_logp"), start)
    found: list[float | None] = []
    level = 0.0
    for training in trainings:
        values = training.column(f"{side}_ratio") if stored else []
        known = [v for v in values if v is not None][:1]
        if not known:
            values = training.column(f"{side}_logp")
            known = [v for v in values[: max(1, len(values) // 20)] if v is not None]
        first = sum(known) / len(known) if known else 0.0
        found += [None if v is None else level + v - first for v in values]
        level = next((v for v in reversed(found) if v is not None), level)
    return found


def _stored(record: Record) -> bool:
    """Whether its references stood still: those that move have no stored log-probabilities."""
    return any(e.get("verb") == "logps" for e in _needed(record).values())


def _from_start(trainings: Sequence[Segment], side: str) -> bool:
    """One training, whose reference gave the first batch what the policy itself did: it was the start."""
    if len(trainings) != 1 or not trainings[0].rows:
        return False
    ratio, logp = (trainings[0].column(f"{side}_{name}")[0] for name in ("ratio", "logp"))
    return ratio is not None and logp is not None and abs(ratio) <= 2e-3 * abs(logp)


def _batches(training: Segment) -> list[list[float | None]]:
    """What tells whether two trainings saw the same responses at the same steps: their lengths."""
    return [training.column(name) for name in ("step", "chosen_length", "rejected_length")]


def _less(a: Sequence[float | None], b: Sequence[float | None]) -> list[float | None]:
    return [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"


def _length(methods: Sequence[Compared]) -> Panel | None:
    starts = [m.points[0].of("length") for m in methods if m.points and m.points[0].position == 0]
    known = [(m, e) for m in methods if (e := m.of("length")) is not None]
    if not known:
        return None
    series = [
        Series(m.name, (Point(float(i), e.value, e.low, e.high, label=m.name),), colour=m.colour)
        for i, (m, e) in enumerate(known)
    ]
    rule = next(((s.value, "start") for s in starts if s is not None), None)
    chart = line_chart(
        series, title="Length of responses", x_label="", y_label="tokens a response", rule=rule,
        x_ticks={float(i): _short(m.name) for i, (m, _) in enumerate(known)}, least=0.3 * known[0][1].value,
    )  # fmt: skip
    return Panel("Length", chart, "Judges like length: a gain that comes with longer responses may be length alone.")


def _legend(methods: Sequence[Compared]) -> tuple[tuple[str, int], ...]:
    return tuple((m.name, m.colour) for m in methods)


def told(methods: Sequence[Compared]) -> tuple[list[str], list[dict[str, Any]]]:
    """The table: its columns, without those that nobody has anything to say in, and its rows."""
    rows = [row_of(method) for method in methods]
    kept = [i for i in range(len(COLUMNS)) if any(row["cells"][i] != NOTHING for row in rows)]
    return [COLUMNS[i] for i in kept], [{**row, "cells": [row["cells"][i] for i in kept]} for row in rows]


def row_of(method: Compared) -> dict[str, Any]:
    """One line of the table, as text."""
    moved = {side: _moved(method, side) for side in ("chosen", "rejected")}
    lr = (method.record.config.get("train") or {}).get("lr")
    return {
        "name": method.name,
        "colour": method.colour,
        "state": method.record.state,
        "cells": [
            _said(method.of("reward"), "{:.3g}"),
            _said(method.of("win_rate"), "{:.0%}"),
            _said(method.of("kl"), "{:.3g}"),
            _said(method.of("length"), "{:.3g}"),
            _said(method.of("pair_accuracy"), "{:.0%}"),
            _said(moved["chosen"], "{:+.3g}"),
            _said(moved["rejected"], "{:+.3g}"),
            ("≥ " if method.spent.more else "") + say_seconds(method.spent.seconds),
            say_count(method.spent.trained),
            say_count(method.spent.sampled),
            say_count(method.spent.labels),
            f"{lr:.2g}" if isinstance(lr, float) else NOTHING,
        ],
    }


def _moved(method: Compared, side: str) -> Estimate | None:
    return side_moved(method.points[0], method.points[-1], side) if len(method.points) > 1 else None


def _said(estimate: Estimate | None, form: str) -> str:
    """
    >>> _said(Estimate(-0.00893, 0.0923), "{:+.3g}"), _said(Estimate(0.7, 0.04), "{:.0%}"), _said(None, "")
    ('-0.01 ± 0.18', '70% ± 8%', '–')
    """
    if estimate is None:
        return NOTHING
    if not estimate.se:
        return form.format(estimate.value)
    wide = Z * estimate.se
    if form.endswith("g}"):  # as many places as the interval has two figures of
        form = form.replace(".3g", f".{max(0, 1 - math.floor(math.log10(wide)))}f")
    return f"{form.format(estimate.value)} ± {form.replace('+', '').format(wide)}"


def _matrix(about: Mapping[str, Any]) -> dict[str, Any]:
    """Cells with text, error and a shade: green for a clear win of the row, red for a clear loss."""
    names = about.get("names", [])
    rows = []
    for i, name in enumerate(names):
        cells = []
        for win, error in zip(about["wins"][i], about["errors"][i], strict=True):
            if win is None:
                cells.append({"text": "", "se": "", "shade": "transparent"})
                continue
            clear = abs(win - 0.5) > Z * (error or 0.0)
            colour = ("--good" if win > 0.5 else "--bad") if clear else "--k7"
            part = round(100 * min(0.6, 0.08 + 1.2 * abs(win - 0.5)))
            shade = f"color-mix(in srgb, var({colour}) {part}%, transparent)"
            cells.append({"text": f"{win:.0%}", "se": f"± {Z * (error or 0.0):.0%}", "shade": shade})
        rows.append((name, cells))
    return {"heads": names, "rows": rows}
