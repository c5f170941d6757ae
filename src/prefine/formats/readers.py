"""Rows to slates: streamed, with the file and line of whatever does not fit."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from prefine.errors import InputError
from prefine.formats.lessons import demos_of, labels_of, pairs_of, rankings_of
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
    seen: set[tuple[str, ...]] = field(default_factory=set, compare=False, repr=False)
    """Names of columns that were found to be of this format."""

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
        """Whether the row is of the format; the names of its columns are looked at closely once."""
        names = tuple(row.value)
        if names in self.seen and self.format.detect(row.value):
            return
        fits = self.format.fits(row.value)
        other = None if self.named and fits else detect(row.value)
        strange = other is not None and other is not self.format and self.format.name != "slates"
        if strange and other is not None and (fits or not set(other.needs) <= set(self.format.needs)):
            lacks = "" if fits else f"; {missing(row.value, self.format.needs).message}"
            message = f'this row has the format "{other.name}", the file is "{self.format.name}"{lacks}'
            raise RowError("mixed", message, remedy="split the file, one format each, or complete the row")
        if not fits:
            raise missing(row.value, self.format.needs)
        self.seen.add(names)


def open_reader(path: str | Path, format: str | None = None, columns: Mapping[str, str] | None = None) -> Reader:
    """Open a source and settle its format: the one named, or the one its first rows have."""
    wanted = None if format is None else format_named(format)
    source = open_source(path)
    first = list(itertools.islice(source, LOOK))
    rows = [item for item in first if isinstance(item, Row)]
    if not rows:
        raise _nothing_to_read([item for item in first if isinstance(item, Problem)], path)
    columns = dict(columns or {})
    try:
        _known(rows, columns)
        values = [renamed(row, columns).value for row in rows]
        settled = _unnamed(values) if wanted is None else _named(values, wanted)
    except RowError as error:
        raise InputError(error.message, remedy=error.remedy, file=rows[0].file, line=rows[0].line) from None
    return Reader(source, settled, wanted is not None, columns)


def _nothing_to_read(problems: list[Problem], path: str | Path) -> InputError:
    if problems and len(problems) < LOOK:
        return problems[0].error()
    what = f"none of its first {LOOK} rows can be read" if problems else "holds no rows"
    return InputError(what, remedy="write one JSON object a line", file=path)


def _unnamed(values: list[Mapping[str, Any]]) -> Format:
    """The format of most of the first rows, unless a misspelt column makes it look like a poorer one."""
    found = detect_all(values)
    if found is None:
        message, remedy = no_format(values[0])
        raise RowError("missing", message, remedy=remedy)
    if slip := suspect(values[0], found):
        theirs, ours = slip
        message = f'this reads as "{found.name}" ({found.summary}), but the column "{theirs}" looks like "{ours}"'
        remedy = f"rename it (--columns {ours}={theirs}), or say --format {found.name} if that is what it is"
        raise RowError("missing", message, remedy=remedy)
    return found


def _named(values: list[Mapping[str, Any]], wanted: Format) -> Format:
    """The format the user named, if any of the first rows has its columns."""
    if not any(wanted.fits(value) for value in values):
        error = missing(values[0], wanted.needs)
        raise RowError("missing", f'this is not "{wanted.name}" data: {error.message}', remedy=error.remedy)
    return wanted


def _known(rows: list[Row], columns: Mapping[str, str]) -> None:
    absent = [theirs for theirs in columns.values() if not any(theirs in row.value for row in rows)]
    if absent:
        message = f"there is no column {', '.join(absent)} to rename (columns found: {', '.join(rows[0].value)})"
        raise RowError("missing", message, remedy="--columns takes OURS=YOURS, such as chosen=good")


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

LESSONS: Mapping[str, Callable[..., Iterator[Contrast]]] = {
    "pairs": pairs_of,
    "labels": labels_of,
    "demos": demos_of,
    "lists": rankings_of,
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

    def lessons(self, want: str, column: str | None = None) -> Iterator[Contrast]:
        """Contrasts for a recipe's input: "pairs", "labels" or "demos". None at all is an error."""
        empty = True
        for contrast in LESSONS[want](iter(self), column):
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
