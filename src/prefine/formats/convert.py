"""From one format to another, saying what the target has no room for.

What is lost is not declared anywhere: every slate is written, read back and compared (``losses``).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from prefine.errors import InputError
from prefine.formats.lessons import pairs_of
from prefine.formats.losses import losses
from prefine.formats.problems import Problem
from prefine.formats.readers import Entry, open_reader
from prefine.formats.spec import FORMATS, Format, format_named
from prefine.formats.writers import CONTAINERS, atomic, container_of, encode, for_container
from prefine.slate import Feedback, Slate

NAMED = 10
"""Left-out rows that are named one by one."""

WHOLE = "prefine_slate"
"""The column that holds a whole slate beside a row that cannot say everything (``keep=True``)."""


@dataclass(frozen=True)
class Conversion:
    """What was converted, and what that cost."""

    source: str
    target: str
    source_format: str
    target_format: str
    slates: int
    rows: int
    lost: Mapping[str, int]
    """What the target has no room for -> on how many slates."""
    skipped: int
    """Slates and rows left out: unreadable ones (if asked for), and those with nothing to say in the target."""
    examples: tuple[Problem, ...]
    """The first of them."""

    def to_json(self) -> dict[str, Any]:
        row = {k: getattr(self, k) for k in self.__dataclass_fields__ if k not in ("lost", "examples")}
        return {**row, "lost": dict(self.lost), "examples": [p.to_json() for p in self.examples]}


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_problem: Literal["stop", "skip"] = "stop",
    every_pair: bool = False,
    keep: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Convert a file.

    ``every_pair``: all pairs of a list rather than best against worst. ``keep``: what the target has no room
    for goes into a column of its own, from which converting back restores it (rows edited since then win).
    """
    target, spec = Path(target), format_named(to)
    suffix = container_of(target)
    reader = open_reader(source, format, columns)
    if target.exists() and not overwrite:
        raise InputError("exists already", remedy="name another file, or overwrite it (--overwrite)", file=target)
    lost: Counter[str] = Counter()
    left_out: list[Problem] = []
    counts = Counter[str]()

    def leave_out(problem: Problem) -> None:
        counts["skipped"] += 1
        if len(left_out) < NAMED:
            left_out.append(problem)

    def readable() -> Iterator[Entry]:
        for item in reader:
            if isinstance(item, Entry):
                yield item
            elif on_problem == "skip":
                leave_out(item)
            else:
                remedy = f"{item.remedy}; `prefine data check {source}` lists every problem"
                raise item.error(remedy=remedy)

    def rows() -> Iterator[dict[str, Any]]:
        grouped = reader.format.name == "labels" and spec.name in SEVERAL
        entries = restored(readable(), reader.format)
        for entry in merged(entries) if grouped else entries:
            counts["slates"] += 1
            made = _rows(entry.slate, spec, every_pair)
            if not made:
                message = f"nothing in this row can be written as {spec.name} ({spec.summary})"
                leave_out(Problem("missing", message, "convert to slates instead", entry.file, entry.line))
            elif spec.name != "slates" and (gone := losses(entry.slate, [spec.read(row) for row in made])):
                lost.update(gone)
                made = _with_whole(made, entry.slate) if keep else made
            counts["rows"] += len(made)
            yield from made
        if not counts["rows"]:
            message = f'this is "{reader.format.name}" data: nothing in it can be written as "{spec.name}"'
            raise InputError(message, remedy=f"{spec.name} is: {spec.summary}", file=source)

    with atomic(target) as file:
        CONTAINERS[suffix](for_container(rows(), spec, suffix), file)
    return Conversion(
        str(source),
        str(target),
        reader.format.name,
        spec.name,
        counts["slates"],
        counts["rows"],
        dict(sorted(lost.items())),
        counts["skipped"],
        tuple(left_out),
    )


def _with_whole(rows: list[dict[str, Any]], slate: Slate) -> list[dict[str, Any]]:
    """The first row carries the slate; those after it say that it does."""
    whole = encode(slate.to_json()).decode("utf-8")
    return [{**row, WHOLE: "" if i else whole} for i, row in enumerate(rows)]


def restored(entries: Iterable[Entry], spec: Format) -> Iterator[Entry]:
    """Slates that an earlier conversion kept whole, where the rows still are what it wrote."""
    waiting: list[dict[str, Any]] = []
    for entry in entries:
        extra = dict(entry.slate.meta.get("extra", {}))
        if WHOLE not in extra:
            yield entry
            continue
        text = extra.pop(WHOLE)
        meta = (
            {**entry.slate.meta, "extra": extra}
            if extra
            else {k: v for k, v in entry.slate.meta.items() if k != "extra"}
        )
        bare = replace(entry, slate=replace(entry.slate, meta=meta))
        row = spec.write(bare.slate)
        if text == "" and waiting and row == [waiting[0]]:
            waiting.pop(0)  # said already, by the slate that its first row held
            continue
        whole = _slate(text)
        ways = [] if whole is None else [_rows(whole, spec, every) for every in (False, True)]
        waiting = next((rows[1:] for rows in ways if rows[:1] == row), [])
        unchanged = whole is not None and any(rows[:1] == row for rows in ways)
        yield replace(entry, slate=whole) if whole is not None and unchanged else bare


def _slate(text: object) -> Slate | None:
    try:
        return FORMATS["slates"].read({"prompt": "", "slate": text}) if text and isinstance(text, str) else None
    except InputError:
        return None


SEVERAL = ("pairs", "pairs-implicit", "rankings", "ratings")


def merged(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Labelled responses that follow each other and answer the same prompt, as one slate."""

    def group(entry: Entry) -> Any:
        single = len(entry.slate) == 1 and "label" in entry.slate.feedback
        return (entry.slate.prompt, entry.slate.meta) if single else entry.line

    return (_merge(list(run)) for _, run in itertools.groupby(entries, group))


def _merge(run: Sequence[Entry]) -> Entry:
    if len(run) == 1:
        return run[0]
    first = run[0].slate
    candidates = tuple(c for e in run for c in e.slate.candidates)
    values = tuple(v for e in run for v in e.slate.feedback["label"].values)
    return replace(run[0], slate=Slate(first.prompt, candidates, {"label": Feedback("label", values)}, first.meta))


def _rows(slate: Slate, spec: Format, every_pair: bool) -> list[dict[str, Any]]:
    """The rows of a slate, or one a pair when all pairs of a list are asked for."""
    if not every_pair or not spec.name.startswith("pairs") or "preferred" in slate.feedback:
        return spec.write(slate)
    return [row for c in pairs_of([slate], every=True) for row in spec.write(slate.take(c.members))]
