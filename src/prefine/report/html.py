"""The report of a run: one HTML file that needs nothing else.

No script, no font, no image is loaded from anywhere; charts are inline SVG; everything a model wrote is
escaped. Whatever the run directory lacks is left out, so a run that just started has a report too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from prefine.report import meter, panels
from prefine.report.advice import advice
from prefine.report.figures import Estimate, Evaluated, cost, main_evaluation
from prefine.report.record import Record, get, number, read_record
from prefine.report.roles import who_did_what
from prefine.store import write_text

SAMPLES = 12
"""Couples of samples shown (those that changed most first when they are scored)."""

LONGEST = 1200
"""Characters of a sample or prompt shown."""


def write_report(run_dir: str | Path) -> Path:
    """Write RUN/report.html and say where it is."""
    record = read_record(run_dir)
    target = record.path / "report.html"
    write_text(target, render(record))
    return target


def render(record: Record) -> str:
    """The report as text."""
    environment = Environment(
        loader=PackageLoader("prefine.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(seconds=say_seconds, count=say_count, figure=say_figure, code=code)
    points = main_evaluation(record)
    return environment.get_template("template.html.j2").render(
        title=_title(record),
        about=_about(record),
        state=record.state,
        failure=record.failure,
        holder=record.holder,
        now=[str(e.get("label") or e.get("verb")) for e in record.unfinished],
        unreadable=record.unreadable,
        launches=record.launches,
        sentence=_sentence(points),
        tiles=_tiles(points),
        outcome=panels.outcome(record),
        training=panels.training(record),
        table=_table(points),
        samples=_samples(record),
        cost=cost(record),
        wants=record.wants,
        meter=meter.meter(record),
        labels=meter.panel(record),
        roles=who_did_what(record),
        verbs=_verbs(record),
        notes=[{k: v for k, v in row.items() if v is not None} for row in record.notes],
        advice=advice(record),
        config=yaml.safe_dump(_plain(record.config), sort_keys=False, allow_unicode=True, width=100)
        if record.config
        else "",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        directory=record.path.resolve(),
    )


def say_seconds(value: float) -> str:
    """A duration for people: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def say_count(value: float) -> str:
    """A count for people: 960, 48,200, 1.2 M."""
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value:,.0f}"


def say_figure(value: Any) -> str:
    """A figure of unknown kind in few characters."""
    known = number(value)
    if known is None:
        return "–" if value is None or isinstance(value, float) else str(value)
    return f"{known:,.0f}" if known == int(known) and abs(known) < 1e12 else f"{known:.4g}"


def code(text: str) -> Markup:
    """Text whose `words in backticks` show as code; everything is escaped."""
    parts = [Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(text.split("`"))]
    return Markup("").join(parts)


def _title(record: Record) -> str:
    config = record.config
    name = config.get("title") or _catalogued(record, "title") or config.get("system") or record.path.name
    name = str(name).split(":")[0]
    world = _inputs(record).get("world")
    return f"{name} · {world} world" if world else name


def _about(record: Record) -> list[tuple[str, str]]:
    """What was run, in a few pairs."""
    config = record.config
    options = config.get("options")
    number_ = config.get("number")
    number_ = number_ if number_ is not None else _catalogued(record, "number")
    system = " ".join(str(x) for x in (f"{number_:03d}" if isinstance(number_, int) else "", config.get("system")) if x)
    rows = [
        ("system", system),
        ("paper", str(config.get("paper") or _catalogued(record, "paper") or "")),
        *((str(name).replace("_", " "), _one_line(value)) for name, value in _inputs(record).items()),
        ("options", ", ".join(f"{k} = {_one_line(v)}" for k, v in options.items())) if isinstance(options, Mapping)
        else ("options", ""),
        ("seed", str(config.get("seed", ""))),
    ]  # fmt: skip
    return [(name, value) for name, value in rows if value]


def _inputs(record: Record) -> Mapping[str, Any]:
    inputs = record.config.get("inputs")
    return {k: v for k, v in inputs.items() if v is not None} if isinstance(inputs, Mapping) else {}


def _catalogued(record: Record, field: str) -> Any:
    """What the catalogue says of the system, if this prefine still has it."""
    name = record.config.get("system")
    if not name:
        return ""
    try:
        from prefine.catalogue import find

        return getattr(find(str(name)), field)
    except Exception:  # a report is made whatever state the installation is in
        return ""


def _sentence(points: Sequence[Evaluated]) -> str:
    """The outcome in one sentence."""
    if not points or points[-1].position == 0:
        return ""
    end = points[-1]
    said = _said_of_wins(end) or _said_of_pairs(end)
    length, before = end.of("length"), points[0].of("length") if points[0].position == 0 else None
    if said and length is not None and before is not None and before.value > 0:
        ratio = length.value / before.value - 1
        same = abs(ratio) < 0.03
        longer = "longer" if ratio > 0 else "shorter"
        said += ", at about the same length" if same else f", with responses {abs(ratio):.0%} {longer}"
    return f"{said}." if said else ""


def _said_of_wins(end: Evaluated) -> str:
    win = end.of("win_rate")
    if win is None:
        return ""
    if win.se is not None and win.low <= 0.5 <= win.high:
        return f"At the {_at(end)} the policy cannot be told from its start ({win.value:.0%} wins)"
    verdict, share = ("wins", win.value) if win.value > 0.5 else ("loses", 1 - win.value)
    return f"At the {_at(end)} the policy {verdict} {share:.0%} of comparisons with its start"


def _said_of_pairs(end: Evaluated) -> str:
    right = end.of("pair_accuracy")
    if right is None:
        return ""
    unsure = right.se is not None and right.low <= 0.5 <= right.high
    chance = ", which chance alone could give" if unsure else ""
    who = "policy" if end.of("pair_chosen_reward") is None else "reward model"
    return f"At the {_at(end)} the {who} ranks {right.value:.0%} of held-out pairs right{chance}"


def _at(point: Evaluated) -> str:
    return "end" if point.label == "end" else f"end of {point.label}"


def _tiles(points: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """The headline: each with its name, value, a line below and, for the win rate, its interval."""
    if not points:
        return []
    start = points[0] if points[0].position == 0 else None
    end = points[-1]
    tiles: list[dict[str, Any]] = []
    win = end.of("win_rate")
    if win is not None:
        tiles.append({
            "name": "wins against the start", "value": f"{win.value:.0%}",
            "below": f"95%: {win.low:.0%} to {win.high:.0%}" if win.se is not None else "",
            "interval": (max(0.0, win.low), win.value, min(1.0, win.high)) if win.se is not None else None,
        })  # fmt: skip
    for name, title in (("reward", "reward"), ("length", "length, tokens"), ("pair_accuracy", "held-out pairs right")):
        after = end.of(name)
        if after is None:
            continue
        before = start.of(name) if start is not None and start is not end else None
        show = "{:.0%}" if name.startswith("pair_") else "{:.1f}" if name == "length" else "{:.3g}"
        tiles.append({
            "name": title, "value": show.format(after.value), "interval": None,
            "before": show.format(before.value) if before is not None else None,
            "below": _moved(before, after, relative=name == "length"),
        })  # fmt: skip
    kl = end.of("kl")
    if kl is not None:
        error = f" ± {1.96 * kl.se:.2g}" if kl.se is not None else ""
        tiles.append({"name": "KL to the start, nats", "value": f"{kl.value:.3g}", "interval": None,
                      "below": f"a response{error}"})  # fmt: skip
    return tiles


def _moved(before: Estimate | None, after: Estimate, *, relative: bool) -> str:
    if before is None:
        return f"± {1.96 * after.se:.2g}" if after.se else ""
    difference = after - before
    if relative and before.value:
        return f"{difference.value / before.value:+.1%}"
    error = f" ± {1.96 * difference.se:.2g}" if difference.se is not None else ""
    return f"{difference.value:+.3g}{error}"


def _table(points: Sequence[Evaluated]) -> dict[str, Any]:
    """Every evaluation figure, for those who want the numbers."""
    names = list(dict.fromkeys(n for p in points for n in p.row.get("figures", {}) if not n.endswith("_se")))
    rows = []
    for name in names:
        cells = []
        for point in points:
            found = point.of(name)
            error = "" if found is None or not found.se else f" ± {1.96 * found.se:.2g}"
            cells.append("–" if found is None else f"{found.value:.4g}{error}")
        rows.append((name.replace("_", " "), cells))
    return {"heads": [p.label for p in points], "rows": rows}


def _samples(record: Record) -> list[dict[str, Any]]:
    """Samples of the last round that has any, those that changed most first."""
    if all(row.get("before") == row.get("after") for row in record.samples):  # a reward model; the start itself
        return []
    last = record.samples[-1].get("round")
    rows = []
    for row in record.samples:
        if row.get("round") != last:
            continue
        before, after = get(row, "before_score"), get(row, "after_score")
        gain = after - before if before is not None and after is not None else None
        texts = {k: _cut(_text(row.get(k)).strip()) for k in ("prompt", "before", "after")}
        rows.append({**texts, "before_score": before, "after_score": after, "gain": gain})
    return rows[:SAMPLES]


def _text(value: Any) -> str:
    """A prompt or response as text: plain, or turns one below the other."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(
            f"{m.get('role', '')}: {m.get('content', '')}" if isinstance(m, Mapping) else str(m) for m in value
        )
    return str(value)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + f" … ({len(text) - LONGEST:,} characters more)"


def _verbs(record: Record) -> list[dict[str, Any]]:
    """Every verb that came to an end, in order, the last word on each."""
    last: dict[Any, dict[str, Any]] = {}
    for event in record.verbs:
        if event.get("event") not in ("done", "reused", "failed"):
            continue
        name = event.get("key") or event.get("label")
        figures = event.get("figures") if isinstance(event.get("figures"), Mapping) else {}
        row = {
            "verb": event.get("verb"), "label": event.get("label") or "", "round": event.get("round"),
            "event": event.get("event"), "seconds": get(event, "seconds"), "figures": figures,
            "key": str(event.get("key") or "")[:12],
        }  # fmt: skip
        earlier = last.pop(name, None)
        if earlier is not None and row["event"] == "reused":
            row["seconds"] = earlier["seconds"]
        last[name] = row
    return list(last.values())


def _one_line(value: Any) -> str:
    if isinstance(value, str | int | float | bool):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Nothing but what YAML and JSON have."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
