"""What results.json says, as a part of the documentation: targets, charts, tables, and how each row was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.plot import bars, lines, short

Entry = Mapping[str, Any]
MB = 1e6


def page(results: Mapping[str, Any]) -> str:
    """Markdown, without a heading of its own above the second level."""
    rows: Mapping[str, Entry] = results.get("rows", {})
    if not rows:
        return "`benchmarks/results.json` holds no rows yet; `make bench` writes them."
    done = {name: row for name, row in rows.items() if row["status"] == "done"}
    parts = [
        "## Targets",
        targets(done),
        failures(rows),
        "## Row by row",
        *(section(name, row) for name, row in done.items()),
        "## How each row was measured",
        provenance(rows),
        *sorted({f"Data: {_text(row['data']['source'])}." for row in done.values() if "data" in row}),
    ]
    return "\n\n".join(part for part in parts if part)


def targets(rows: Mapping[str, Entry]) -> str:
    """Every figure that something was asked of."""
    lines_ = [
        [
            f"[{_text(row['title'])}](#{name})",
            _text(t["what"]),
            f"{'at most' if t['at_most'] else 'at least'} {short(t['wanted'])}",
            f"**{short(t['value'])}**",
            "met" if t["met"] else "missed",
        ]
        for name, row in rows.items()
        for t in row.get("targets", ())
    ]
    return _table(["row", "figure", "target", "median", ""], lines_)


def failures(rows: Mapping[str, Entry]) -> str:
    """The rows that could not be measured, and why."""
    return "\n\n".join(
        f"`{name}` could not be measured: {_text(row['reason'])}"
        for name, row in rows.items()
        if row["status"] == "failed"
    )


def section(name: str, row: Entry) -> str:
    """A row: its chart, its sides, its ratios."""
    parts = [f"### {_text(row['title'])} {{ #{name} }}"]
    parts += [part for draw in PARTS if (part := draw(row))]
    return "\n\n".join(parts)


def throughput(row: Entry) -> str:
    """Bars of what each side does a second."""
    sides = row.get("sides", {})
    unit = next((k for side in sides.values() for k in side if k.endswith("_per_second")), None)
    if unit is None:
        return ""
    shown = {
        name: tuple(side[unit][k] for k in ("median", "least", "most")) for name, side in sides.items() if unit in side
    }
    return bars(row["title"], shown, f"{unit.removesuffix('_per_second')}/s") if len(shown) > 1 else ""


def sides(row: Entry) -> str:
    """Seconds, speed and memory of every side."""
    found = row.get("sides", {})
    columns = list(dict.fromkeys(k for side in found.values() for k in side if k in COLUMNS or k.endswith("_second")))
    heads = ["", *(COLUMNS.get(c, (c.replace("_", " "), _spread))[0] for c in columns)]
    body = [
        [_text(name), *(COLUMNS.get(c, ("", _spread))[1](side[c]) if c in side else "" for c in columns)]
        for name, side in found.items()
    ]
    return _table(heads, body) if columns else ""


def ratios(row: Entry) -> str:
    return _table(
        ["ratio, of what was measured in turn", "median", "least", "most"],
        [
            [_text(name), f"**{short(r['median'])}**", short(r["least"]), short(r["most"])]
            for name, r in row.get("ratios", {}).items()
        ],
    )


def growth(row: Entry) -> str:
    """Lines over the points of a series, where the points have sides."""
    points = row.get("series", {}).get("points", ())
    if not points or "sides" not in points[0]:
        return ""
    label = row["series"]["label"]
    series = {name: [(p["at"], p["sides"][name]["seconds"]["median"]) for p in points] for name in points[0]["sides"]}
    chart = lines(row["title"], series, x_label=label, y_label="seconds a step")
    heads = [label, *(f"{name}, s" for name in series), "padded over prefine"]
    body = [
        [short(p["at"]), *(_spread(p["sides"][name]["seconds"]) for name in series), short(p["ratio"]["median"])]
        for p in points
    ]
    return f"{chart}\n\n{_table(heads, body)}"


def memory(row: Entry) -> str:
    """Peak memory over the size of the data, and what each part took."""
    points = row.get("series", {}).get("points", ())
    if not points or "phases" not in points[0]:
        return ""
    series = {"peak": [(p["at"], p["peak_bytes"] / MB) for p in points]}
    chart = lines(
        row["title"], series, x_label=row["series"]["label"], y_label="peak memory, MB", log=False, from_zero=True
    )
    phases = list(points[0]["phases"])
    body = [
        [short(p["at"]), short(p["peak_bytes"] / MB), *(short(p["phases"][n]["seconds"]) for n in phases)]
        for p in points
    ]
    return f"{chart}\n\n{_table(['rows', 'peak, MB', *(f'{_text(n)}, s' for n in phases)], body)}"


def objectives(row: Entry) -> str:
    """Microseconds a call, side by side."""
    found = {n: s["microseconds_a_call"] for n, s in row.get("sides", {}).items() if "microseconds_a_call" in s}
    if not found:
        return ""
    names = list(next(iter(found.values())))
    body = [[f"`{name}`", *(_spread(side[name]) for side in found.values())] for name in names]
    return _table(["loss and gradient, microseconds a call", *map(_text, found)], body)


def figures(row: Entry) -> str:
    """Floating-point rates, where the row has them."""
    rates = row.get("figures", {}).get("gflops_per_second", {})
    shown = {name: (r["median"], r["least"], r["most"]) for name, r in rates.items()}
    return bars("billions of floating-point operations a second", shown, "GFLOP/s")


def checks(row: Entry) -> str:
    said = [
        f"{_text(c['what'])}: {', '.join(map(_text, c['sides']))} agree to {c['difference']:.1e} (limit {c['limit']:g})"
        for c in row.get("checks", ())
    ]
    return f"Before timing: {'; '.join(said)}." if said else ""


PARTS: Sequence[Callable[[Entry], str]] = (
    throughput, figures, growth, memory, sides, objectives, ratios, checks,
)  # fmt: skip
"""What a section may have; each gives nothing where the row has nothing of it."""


def provenance(rows: Mapping[str, Entry]) -> str:
    """When, where and with what."""
    body = []
    for name, row in rows.items():
        machine = row["machine"]
        versions = f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}"
        settings = "; ".join(f"{k.replace('_', ' ')}: {_setting(v)}" for k, v in row.get("settings", {}).items())
        body.append(
            [f"`{name}`", row["date"], f"`{row['commit']}`", str(row["load_before"]), _text(versions), _text(settings)]
        )
    return _table(["row", "date", "commit", "load before", "machine", "settings"], body)


def _setting(value: Any) -> str:
    if isinstance(value, Mapping) and "parameters" in value:
        return f"{value['name']}, {value['parameters'] / 1e6:.1f}M parameters"
    return str(value)


def _spread(value: Mapping[str, float]) -> str:
    return f"{short(value['median'])} ({short(value['least'])}–{short(value['most'])})"


COLUMNS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "seconds": ("seconds", _spread),
    "reference_seconds": ("reference, seconds", _spread),
    "peak_bytes": ("peak memory, MB", lambda v: short(v / MB)),
}


def _text(text: str) -> str:
    return text.replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = [list(row) for row in rows]
    heads = list(heads)
    if not body:
        return ""
    lines_ = [heads, ["---"] * len(heads), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines_)
