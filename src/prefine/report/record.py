"""What a run directory says, read without trusting it: every file may be missing, cut short or from a crash.

Nothing here imports the engine: a report is made from files alone, on any machine, for runs that ended,
runs that failed and runs that are going on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prefine.errors import InputError
from prefine.store import holder

Row = Mapping[str, Any]

STATES = ("running", "finished", "failed", "stopped", "waiting")

ENDS = {"done": "finished", "waiting": "waiting"}
"""What a launch's last word makes of the run."""


@dataclass(frozen=True)
class Record:
    """One run as its directory tells it. Rows are deduplicated: a run that was killed and went on may have
    written some of them twice."""

    path: Path
    config: Row = field(default_factory=dict)
    journal: tuple[Row, ...] = ()
    metrics: tuple[Row, ...] = ()
    evaluations: tuple[Row, ...] = ()
    samples: tuple[Row, ...] = ()
    notes: tuple[Row, ...] = ()
    holder: str | None = None
    """Who works in the directory now."""
    unreadable: int = 0
    """Lines that could not be read (a crash in the middle of a write leaves one)."""

    @property
    def verbs(self) -> tuple[Row, ...]:
        """What happened to single verbs (the run as a whole is left out)."""
        return tuple(e for e in self.journal if e.get("verb") != "run")

    @property
    def done(self) -> tuple[Row, ...]:
        """Verbs that were computed, in order."""
        return tuple(e for e in self.verbs if e.get("event") == "done")

    @property
    def reused(self) -> tuple[Row, ...]:
        """Verbs whose artifact was there already, when the command was given last."""
        return tuple(e for e in self.last_launch if e.get("event") == "reused")

    @property
    def launches(self) -> int:
        """How often the command was given."""
        return sum(e.get("verb") == "run" and e.get("event") == "start" for e in self.journal)

    @property
    def last_launch(self) -> tuple[Row, ...]:
        """The verbs since the command was given last."""
        starts = [i for i, e in enumerate(self.journal) if e.get("verb") == "run" and e.get("event") == "start"]
        return tuple(e for e in self.journal[starts[-1] if starts else 0 :] if e.get("verb") != "run")

    @property
    def failure(self) -> str:
        """Why the run ended, when it ended with an error after which nothing was done."""
        for event in reversed(self.journal):
            if event.get("event") != "failed":
                return ""
            if event.get("error"):
                return str(event["error"])
        return ""

    @property
    def state(self) -> str:
        """One of STATES. "stopped" is in the middle, by a kill or Ctrl-C: the same command goes on with it.
        "waiting" is for people's labels."""
        if self.holder is not None:
            return "running"
        last = self.journal[-1] if self.journal else {}
        if last.get("verb") == "run" and last.get("event") in ENDS:
            return ENDS[last["event"]]
        return "failed" if self.failure else "stopped"

    @property
    def final(self) -> str:
        """The key of the final policy, "" where there is none yet."""
        said = [e.get("policy") for e in self.journal if e.get("verb") == "run" and e.get("policy")]
        return str(said[-1]) if said else ""

    @property
    def wants(self) -> str:
        """What a waiting run waits for, in one line."""
        return str(self.journal[-1].get("error") or "labels").split("\n")[0] if self.state == "waiting" else ""

    @property
    def unfinished(self) -> tuple[Row, ...]:
        """Verbs that started and never came to an end: what runs now, or what a kill interrupted."""
        open_verbs: dict[Any, Row] = {}
        for event in self.verbs:
            name = event.get("key") or event.get("label")
            if event.get("event") == "start":
                open_verbs[name] = event
            else:
                open_verbs.pop(name, None)
        return tuple(open_verbs.values())


def read_record(run_dir: str | Path) -> Record:
    """Read a run directory. Only a path that is no run directory at all is an error."""
    path = Path(run_dir)
    names = ("run.yaml", "journal.jsonl", "metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "notes.jsonl")
    if not path.is_dir():
        raise InputError("there is no run directory here", remedy="`prefine runs` lists the runs there are", file=path)
    if not any((path / name).exists() for name in names):
        raise InputError(
            "this directory holds no run (no run.yaml and no journal)",
            remedy="give the directory of a run; `prefine runs` lists them",
            file=path,
        )
    bad = 0
    tables: dict[str, tuple[Row, ...]] = {}
    for name in names[1:]:
        rows, unreadable = _read_jsonl(path / name)
        tables[name] = rows
        bad += unreadable
    return Record(
        path=path,
        config=_read_yaml(path / "run.yaml"),
        journal=tables["journal.jsonl"],
        metrics=_last(map(_flat, tables["metrics.jsonl"]), lambda r: [r.get("key") or r.get("label"), r.get("step")]),
        evaluations=_last(
            tables["evaluations.jsonl"],
            lambda r: [r.get("name"), r.get("round"), r.get("role") or r.get("label"), r.get("key")],
        ),
        samples=_last(tables["samples.jsonl"], lambda r: [r.get("prompt"), r.get("round")]),
        notes=tables["notes.jsonl"],
        holder=_holder(path),
        unreadable=bad,
    )


def number(value: Any) -> float | None:
    """A finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def figures_of(row: Row) -> Row:
    """The figures of an evaluation or an event, an empty mapping when there are none."""
    figures = row.get("figures")
    return figures if isinstance(figures, Mapping) else {}


def get(row: Row, name: str) -> float | None:
    """A finite figure of a row by name, looked for in its figures first."""
    value = number(figures_of(row).get(name))
    return number(row.get(name)) if value is None else value


def _holder(path: Path) -> str | None:
    try:
        return holder(path)
    except OSError:  # a directory that may be read but not locked
        return None


def _read_jsonl(path: Path) -> tuple[tuple[Row, ...], int]:
    rows: list[Row] = []
    bad = 0
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return (), 0
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            bad += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad += 1
    return tuple(rows), bad


def _read_yaml(path: Path) -> Row:
    try:
        value = yaml.safe_load(path.read_text(errors="replace"))
    except (OSError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _flat(row: Row) -> Row:
    """Names of figures without slashes: chosen/logp is chosen_logp here."""
    return {name.replace("/", "_"): value for name, value in row.items()}


def _last(rows: Iterable[Row], name: Callable[[Row], Any]) -> tuple[Row, ...]:
    """The last row of every name, where the first one stood."""
    kept: dict[str, Row] = {}
    for row in rows:
        kept[repr(name(row))] = row
    return tuple(kept.values())
