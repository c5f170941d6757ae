"""Which runs there are and where each one stands: plain data, and tables of it for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prefine.errors import InputError
from prefine.report.figures import Cost, cost, main_evaluation, rounds_done
from prefine.report.html import say_count, say_seconds
from prefine.report.meter import Asked, Meter, meter
from prefine.report.record import Record, get, number, read_record

STYLE = {"running": "cyan", "finished": "green", "failed": "red", "stopped": "yellow", "waiting": "magenta"}
FIGURES = ("reward", "win_rate", "kl", "length", "pair_accuracy")
NAMES = {"win_rate": "wins", "kl": "KL", "pair_accuracy": "pairs"}


@dataclass(frozen=True)
class RunRow:
    """One run in a list of runs."""

    name: str
    path: Path
    system: str
    state: str
    rounds: int
    of_rounds: int | None
    figures: Mapping[str, float]
    seconds: float
    size: int
    """Bytes in the run directory (artifacts are in the store, which runs share)."""
    changed: float
    """When it last said something, in seconds since the epoch."""


@dataclass(frozen=True)
class Standing:
    """Where one run stands."""

    name: str
    path: Path
    system: str
    state: str
    holder: str | None
    failure: str
    rounds: int
    of_rounds: int | None
    launches: int
    done: tuple[Mapping[str, Any], ...]
    """Verbs that came to an end in the last launch: round, verb, label, event, seconds."""
    now: tuple[str, ...]
    """Verbs that are under way, or were when it was interrupted."""
    left: str
    """What is left, in words."""
    figures: Mapping[str, float]
    cost: Cost
    labels: Asked
    """What the run asked judges for, over all rounds."""


def runs_table(root: str | Path) -> list[RunRow]:
    """The runs under a folder (or the folder itself, when it is a run), the one that spoke last first."""
    root = Path(root)
    if not root.is_dir():
        raise InputError("there is no such folder", remedy="give the folder that holds your runs", file=root)
    rows = [_row(record) for record in _records(root)]
    return sorted(rows, key=lambda r: -r.changed)


def status_of(run_dir: str | Path) -> Standing:
    """Where a run stands: what is done, what is left, what it cost and who holds it."""
    record = read_record(run_dir)
    done = {}
    for event in record.last_launch:
        if event.get("event") in ("done", "reused", "failed"):
            row = {n: event.get(n) for n in ("round", "verb", "label", "event", "seconds")}
            done[event.get("key") or event.get("label")] = row
    rounds, of_rounds = rounds_done(record), _rounds_asked(record)
    now = tuple(str(e.get("label") or e.get("verb")) for e in record.unfinished)
    return Standing(
        name=record.path.resolve().name, path=record.path, system=_system(record), state=record.state,
        holder=record.holder, failure=record.failure, rounds=rounds, of_rounds=of_rounds,
        launches=record.launches, done=tuple(done.values()), now=now,
        left=_left(record, rounds, of_rounds, now), figures=_figures(record), cost=cost(record),
        labels=meter(record).total,
    )  # fmt: skip


def as_json(value: RunRow | Standing) -> dict[str, Any]:
    """The same for programs."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(value).items()}


def show_runs(rows: Sequence[RunRow]) -> RenderableType:
    """A table for the terminal."""
    if not rows:
        return Text("no runs here yet; `prefine demo` makes one")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("run", "system", "state", "rounds", *_named(rows), "time", "size"):
        words = head in ("run", "system", "state")
        table.add_column(NAMES.get(head, head), justify="left" if words else "right", no_wrap=True, overflow="fold")
    for row in rows:
        table.add_row(
            Text(row.name), Text(row.system), Text(row.state, STYLE[row.state]), _of(row.rounds, row.of_rounds),
            *(_figure(name, row.figures.get(name)) for name in _named(rows)),
            say_seconds(row.seconds), say_bytes(row.size),
        )  # fmt: skip
    return table


def show_status(status: Standing) -> RenderableType:
    """One run for the terminal."""
    head = Text.assemble((status.name, "bold"), "  ", status.system, "  ", (status.state, STYLE[status.state]))
    table = Table(box=None, pad_edge=False, header_style="dim")
    columns = (("round", "left"), ("done", "left"), ("time", "right"), ("made", "right"), ("reused", "right"))
    for name, justify in columns:
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, rows in _by_round(status.done).items():
        seconds = sum(number(row["seconds"]) or 0.0 for row in rows)
        events = [row["event"] for row in rows]
        verbs = ", ".join(dict.fromkeys(str(row["verb"]) for row in rows))
        table.add_row(name, Text(verbs), say_seconds(seconds), str(events.count("done")), str(events.count("reused")))
    c = status.cost
    spent = ", ".join([
        say_seconds(c.seconds),
        *([f"{say_count(c.trained_tokens)} tokens trained on"] if c.trained_tokens else []),
        f"{say_count(c.responses)} responses",
    ])  # fmt: skip
    figures = "  ".join(f"{NAMES.get(n, n)} {_figure(n, v)}" for n, v in status.figures.items())
    asked = Meter((status.labels,)).said() if status.labels.labels else ""
    lines = [
        ("left", status.left), ("cost", spent), ("labels", asked), ("figures", figures),
        ("held by", status.holder or "nobody"),
        ("stopped by", status.failure),
    ]  # fmt: skip
    facts = Table.grid(padding=(0, 2))
    for name, text in lines:
        if text:
            facts.add_row(Text(name, "dim"), Text(text))
    return Group(head, Text(), table, Text(), facts) if status.done else Group(head, Text(), facts)


def say_bytes(size: float) -> str:
    """A size for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _records(root: Path) -> Iterable[Record]:
    for path in (root, *sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))):
        if (path / "run.yaml").is_file() or (path / "journal.jsonl").is_file():
            yield read_record(path)


def _row(record: Record) -> RunRow:
    times = [t for e in record.journal if (t := number(e.get("time"))) is not None]
    return RunRow(
        name=record.path.resolve().name, path=record.path, system=_system(record), state=record.state,
        rounds=rounds_done(record), of_rounds=_rounds_asked(record), figures=_figures(record),
        seconds=cost(record).seconds, size=_size(record.path),
        changed=max(times) if times else record.path.stat().st_mtime,
    )  # fmt: skip


def _size(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # gone while we looked: a run may be going on
            continue
    return total


def _by_round(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        name = f"round {row['round'] + 1}" if isinstance(row["round"], int) else "outside rounds"
        groups.setdefault(name, []).append(row)
    return groups


def _system(record: Record) -> str:
    usual = "compare" if (record.path / "comparison.json").exists() else "?"
    return str(record.config.get("system") or usual)


def _rounds_asked(record: Record) -> int | None:
    options = record.config.get("options")
    asked = options.get("rounds") if isinstance(options, Mapping) else None
    return asked if isinstance(asked, int) else None


def _figures(record: Record) -> dict[str, float]:
    points = main_evaluation(record)
    return {n: v for n in FIGURES if points and (v := get(points[-1].row, n)) is not None}


def _left(record: Record, rounds: int, of_rounds: int | None, now: Sequence[str]) -> str:
    state = record.state
    if state == "finished":
        return "nothing"
    if state == "waiting":
        return f"{record.wants}: prefine label {record.path}, then the same command goes on"
    parts = [f"the rest of “{name}”" for name in now]
    if of_rounds is not None and of_rounds > rounds:
        parts.append(f"{of_rounds - rounds} of {of_rounds} rounds")
    what = ", ".join(parts) or "what comes after the verbs above"
    return what if state == "running" else f"{what}; the same command goes on with it"


def _named(rows: Sequence[RunRow]) -> list[str]:
    return [name for name in FIGURES if any(name in row.figures for row in rows)]


def _of(done: int, asked: int | None) -> str:
    return f"{done}" if asked is None else f"{done}/{asked}"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0%}" if name in ("win_rate", "pair_accuracy") else f"{value:.3g}"
