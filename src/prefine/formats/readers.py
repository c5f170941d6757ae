"""Rows to slates: streamed, with the file and line of whatever does not fit."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from prefine.errors import InputError
from prefine.formats.lessons import demos_of, labels_of, pairs_of
from prefine.formats.parts import missing
from prefine.formats.problems import KINDS, Problem, RowError
from prefine.formats.sources import Row, Source, open_source
from prefine.formats.spec import Format, detect, detect_all, format_named, no_format, suspect
from prefine.slate import Contrast, Slate

LOOK = 32
"""Rows looked at to tell the format."""


@dataclass(frozen=True)
class Entry:
    """One slate and where it came from."""

    file: str
    line: int
    slate: Slate


@dataclass(frozen=True)
class Reader:
    """A source with its format; iterating streams entries and problems in the order of the file."""

    source: Source
    format: Format
    named: bool
    """Whether the user named the format (then rows only have to fit it)."""
    columns: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Entry | Problem]:
        for number, item in enumerate(self.source, 1):
            if isinstance(item, Problem):
                yield item
            else:
                yield self._read(item, number)

    def _read(self, item: Row, number: int) -> Entry | Problem:
        try:
            return self.read(item)
        except RowError as error:
            where = f" (row {number})" if self.source.kind.startswith("JSON,") or self.source.kind == "JSON" else ""
            return Problem(error.kind, error.message + where, error.remedy, item.file, item.line)

    def read(self, row: Row) -> Entry:
        """The slate of one row."""
        row = renamed(row, self.columns)
        self._fitting(row)
        return Entry(row.file, row.line, self.format.read(row.value))

    def _fitting(self, row: Row) -> None:
        fits = self.format.fits(row.value)
        other = None if (self.named and fits) or self.format.name == "slates" else detect(row.value)
        if other is not None and other is not self.format and (not fits or not self.named):
            lacks = "" if fits else f"; {missing(row.value, self.format.needs).message}"
            message = f'this row has the format "{other.name}", the file is "{self.format.name}"{lacks}'
            raise RowError("mixed", message, remedy="split the file, one format each, or complete the row")
        if not fits:
            raise missing(row.value, self.format.needs)


def open_reader(path: str | Path, format: str | None = None, columns: Mapping[str, str] | None = None) -> Reader:
    """Open a source and settle its format: the one named, or the one its first rows have."""
    named = None if format is None else format_named(format)
    source = open_source(path)
    first = list(itertools.islice(source, LOOK))
    columns = dict(columns or {})
    rows = [item for item in first if isinstance(item, Row)]
    if not rows:
        broken = next((item for item in first if isinstance(item, Problem)), None)
        if broken is not None and len(first) < LOOK:
            raise broken.error()
        what = "holds no rows" if not first else f"none of its first {LOOK} rows can be read"
        raise InputError(what, remedy="write one JSON object a line", file=path)
    for row in rows[:1]:
        _known(row, columns)
    values = []
    for row in rows:
        try:
            values.append(renamed(row, columns).value)
        except RowError:
            continue
    if not values:
        renamed(rows[0], columns)
    if named is None:
        found = detect_all(values)
        if found is None:
            message, remedy = no_format(values[0])
            raise InputError(message, remedy=remedy, file=rows[0].file, line=rows[0].line)
        if slip := suspect(values[0], found):
            theirs, ours = slip
            raise InputError(
                f'this reads as "{found.name}" ({found.summary}), but the column "{theirs}" looks like "{ours}"',
                remedy=f"rename it (--columns {ours}={theirs}), or say --format {found.name} if that is what it is",
                file=rows[0].file,
                line=rows[0].line,
            )
        return Reader(source, found, False, columns)
    if not any(named.fits(value) for value in values):
        error = missing(values[0], named.needs)
        message = f'this is not "{named.name}" data: {error.message}'
        raise InputError(message, remedy=error.remedy, file=rows[0].file, line=rows[0].line)
    return Reader(source, named, True, columns)


def _known(row: Row, columns: Mapping[str, str]) -> None:
    absent = [theirs for theirs in columns.values() if theirs not in row.value]
    if absent:
        raise InputError(
            f"there is no column {', '.join(absent)} to rename (columns found: {', '.join(row.value)})",
            remedy="--columns takes OURS=YOURS, such as chosen=good",
            file=row.file,
            line=row.line,
        )


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with the user's names of columns replaced by ours (``{"chosen": "good"}``)."""
    if not columns:
        return row
    ours = {theirs: our for our, theirs in columns.items()}
    value = {ours.get(name, name): v for name, v in row.value.items()}
    if len(value) < len(row.value):
        raise RowError("type", "renaming columns makes two of the same name", remedy="rename fewer columns")
    return replace(row, value=value)


def read_slates(
    path: str | Path, format: str | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[Slate]:
    """Stream the slates of a file; the first row that cannot be read is an error with its line."""
    reader = open_reader(path, format, columns)
    return (item.slate for item in _strict(reader))


def _strict(reader: Reader) -> Iterator[Entry]:
    for item in reader:
        if isinstance(item, Problem):
            raise item.error()
        yield item


# --- for training ----------------------------------------------------------------------------------------

LESSONS: Mapping[str, Callable[[Iterator[Slate]], Iterator[Contrast]]] = {
    "pairs": pairs_of,
    "labels": labels_of,
    "demos": demos_of,
}
"""What a recipe asks for by name -> slates to contrasts."""


@dataclass(frozen=True)
class TrainingData:
    """Data that was read through once and found usable; iterating reads it again, so it is never held."""

    reader: Reader
    count: int
    """Slates that can be read."""
    skipped: Mapping[str, int]
    """Rows left out because they cannot be read, by kind (only with ``on_problem="skip"``)."""

    def __iter__(self) -> Iterator[Slate]:
        return (item.slate for item in self.reader if isinstance(item, Entry))

    def prompts(self) -> Iterator[Slate]:
        """The bare prompts, each once in a row."""
        last = None
        for slate in self:
            bare = Slate(slate.prompt, meta=slate.meta)
            if bare.prompt != last and str(bare.prompt).strip():
                yield bare
            last = bare.prompt

    def lessons(self, want: str) -> Iterator[Contrast]:
        """Contrasts for a recipe's input: "pairs", "labels" or "demos". None at all is an error."""
        empty = True
        for contrast in LESSONS[want](iter(self)):
            empty = False
            yield contrast
        if empty:
            raise InputError(
                f'this is "{self.reader.format.name}" data and gives no {want}',
                remedy=f"`prefine data check {self.reader.source.name}` says what it can serve",
                file=self.reader.source.name,
            )


def read_for_training(
    path: str | Path,
    format: str | None = None,
    *,
    on_problem: Literal["stop", "skip"] = "stop",
    columns: Mapping[str, str] | None = None,
) -> TrainingData:
    """Read everything once before anything is trained on it.

    Rows that cannot be read stop here with one message (the first, and how many there are), or are left out
    and counted. Rows that read well but teach nothing (empty responses, identical pairs, ties) never stop a
    run: contrasts are simply not made of them.
    """
    reader = open_reader(path, format, columns)
    skipped: Counter[str] = Counter()
    first: Problem | None = None
    count = 0
    for item in reader:
        if isinstance(item, Entry):
            count += 1
            continue
        skipped[item.kind] += 1
        first = first or item
    if first is not None and (on_problem == "stop" or not count):
        total = skipped.total()
        kinds = ", ".join(f"{n} {KINDS[k].title}" for k, n in skipped.most_common())
        more = f" ({total} rows of {total + count} cannot be read: {kinds})" if total > 1 else ""
        remedy = f"{first.remedy}; `prefine data check {path}` lists every one, --skip-problems leaves them out"
        raise first.error(more, remedy)
    return TrainingData(reader, count, dict(skipped))
