"""The report of a comparison: one HTML file over the runs of several methods, made like a run's own report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from prefine.errors import InputError
from prefine.report.charts import Point, Series, line_chart, smooth
from prefine.report.figures import COUNTED, Estimate, Evaluated, main_evaluation, segments, side_moved
from prefine.report.html import say_count, say_seconds
from prefine.report.panels import Panel
from prefine.report.record import Record, Row, get, read_record
from prefine.store import write_text

COLOURS = 8
COLUMNS = (
    "reward", "wins", "KL", "length", "pairs right", "chosen moved", "rejected moved", "time", "trained", "sampled",
    "labels",
)  # fmt: skip
"""Of the table: ``row_of`` gives a cell for each."""
MEASURING = "held-out"
"""Verbs whose label says so only measure: they are no part of what a method costs."""


@dataclass(frozen=True)
class Spent:
    """What a method takes by itself: shared artifacts count for everyone who needs them."""

    seconds: float
    trained: float
    sampled: float
    labels: float


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
    inputs = {k: v for k, v in about.get("inputs", {}).items() if v is not None}
    where = inputs.get("world") or inputs.get("model") or ""
    return environment.get_template("compare.html.j2").render(
        title=f"{len(methods)} methods compared" + (f" · {where}" if where else ""),
        about=[(k.replace("_", " "), str(v)) for k, v in {**inputs, "seed": about["seed"], **about["train"]}.items()],
        sentence=sentence(methods),
        columns=COLUMNS,
        rows=[row_of(method) for method in methods],
        panels=[p for p in panels(methods) if p is not None],
        matrix=_matrix(about),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        directory=out.resolve(),
    )


def read_methods(out: Path, named: Sequence[Mapping[str, Any]]) -> list[Compared]:
    records = [read_record(out / method["folder"]) for method in named]
    seconds = {str(e.get("key")): get(e, "seconds") or 0.0 for r in records for e in r.done if e.get("key")}
    return [
        Compared(str(method["name"]), i % COLOURS, record, main_evaluation(record), spent(record, seconds))
        for i, (method, record) in enumerate(zip(named, records, strict=True))
    ]


def spent(record: Record, seconds: Mapping[str, float]) -> Spent:
    """The cost of everything a run needed, made here or found; ``seconds``: what artifacts took, whoever made them."""
    needed: dict[str, Row] = {}
    for event in record.last_launch:
        measures = MEASURING in str(event.get("label", ""))
        if event.get("event") in ("done", "reused") and event.get("key") and not measures:
            needed[str(event["key"])] = event

    def total(verb: str, name: str) -> float:
        return sum(get(e, name) or 0.0 for e in needed.values() if e.get("verb") == verb and name in COUNTED[verb])

    return Spent(
        sum(seconds.get(key, 0.0) for key in needed),
        total("train", "tokens"), total("sample", "tokens"), total("judge", "labels"),
    )  # fmt: skip


def sentence(methods: Sequence[Compared]) -> str:
    """Who is ahead, as far as that is known."""
    known = [(m, e) for m in methods if (e := m.of("reward")) is not None]
    if len(known) < 2:
        known = [(m, e) for m in methods if (e := m.of("pair_accuracy")) is not None]
        what = "ranks most held-out pairs right"
    else:
        what = "has the highest held-out reward"
    if len(known) < 2:
        return ""
    best, second = sorted(known, key=lambda k: -k[1].value)[:2]
    gap = best[1] - second[1]
    sure = "" if gap.clear else f", but {second[0].name} cannot be told from it on these prompts"
    return f"{best[0].name} {what} ({best[1].value:.3g}){sure}."


def panels(methods: Sequence[Compared]) -> list[Panel | None]:
    return [
        _reward_and_kl(methods),
        _over_training(methods, "chosen", "Displacement of the chosen",
                       "Change of the log-probability of the chosen responses since the first step. Below zero a "
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


def _over_training(methods: Sequence[Compared], side: str, title: str, text: str) -> Panel | None:
    series = []
    for method in methods:
        moved = _displacement(method.record, side)
        series.append(Series(method.name, smooth(moved), colour=method.colour, band=True))
    if not any(len(s.points) > 1 for s in series):
        return None
    chart = line_chart(series, title=title, x_label="optimiser steps", y_label="nats a response", rule=(0.0, ""))
    return Panel(title, chart, text, _legend(methods))


def _displacement(record: Record, side: str) -> list[float | None]:
    """Step by step, rounds end to end: the log-ratio to the reference, or, without one, the log-probability against
    that of the first steps."""
    found: list[float | None] = []
    level = 0.0
    for segment in (s for s in segments(record) if not s.rewards):
        values = segment.column(f"{side}_ratio")
        if all(v is None for v in values):
            plain = segment.column(f"{side}_logp")
            known = [v for v in plain[: max(1, len(plain) // 20)] if v is not None]
            first = sum(known) / len(known) if known else 0.0
            values = [None if v is None else v - first for v in plain]
        found += [None if v is None else level + v for v in values]
        level = next((v for v in reversed(found) if v is not None), level)
    return found


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
        x_ticks={float(i): m.name[:14] for i, (m, _) in enumerate(known)}, least=0.3 * known[0][1].value,
    )  # fmt: skip
    return Panel("Length", chart, "Judges like length: a gain that comes with longer responses may be length alone.")


def _legend(methods: Sequence[Compared]) -> tuple[tuple[str, int], ...]:
    return tuple((m.name, m.colour) for m in methods)


def row_of(method: Compared) -> dict[str, Any]:
    """One line of the table, as text."""
    moved = {side: _moved(method, side) for side in ("chosen", "rejected")}
    return {
        "name": method.name,
        "colour": method.colour,
        "state": method.record.state,
        "cells": [
            _said(method.of("reward"), "{:.3g}"),
            _said(method.of("win_rate"), "{:.0%}"),
            _said(method.of("kl"), "{:.3g}"),
            _said(method.of("length"), "{:.1f}"),
            _said(method.of("pair_accuracy"), "{:.0%}"),
            _said(moved["chosen"], "{:+.3g}"),
            _said(moved["rejected"], "{:+.3g}"),
            say_seconds(method.spent.seconds),
            say_count(method.spent.trained),
            say_count(method.spent.sampled),
            say_count(method.spent.labels),
        ],
    }


def _moved(method: Compared, side: str) -> Estimate | None:
    return side_moved(method.points[0], method.points[-1], side) if len(method.points) > 1 else None


def _said(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "–"
    value = form.format(estimate.value)
    if not estimate.se:
        return value
    return f"{value} ± {form.replace('+', '').format(1.96 * estimate.se)}"


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
            clear = abs(win - 0.5) > 1.96 * (error or 0.0)
            colour = ("--good" if win > 0.5 else "--bad") if clear else "--k7"
            part = round(100 * min(0.6, 0.08 + 1.2 * abs(win - 0.5)))
            shade = f"color-mix(in srgb, var({colour}) {part}%, transparent)"
            cells.append({"text": f"{win:.0%}", "se": f"± {1.96 * (error or 0.0):.0%}", "shade": shade})
        rows.append((name, cells))
    return {"heads": names, "rows": rows}
