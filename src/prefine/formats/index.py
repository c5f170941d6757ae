"""Random access to rows of JSON lines: where each begins is known, what each holds stays on disk."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

from prefine.errors import InputError
from prefine.formats.problems import Problem, RowError
from prefine.formats.readers import open_reader
from prefine.formats.sources import BOM, Row, parse_line
from prefine.slate import Slate


class RowIndex(Sequence[Row]):
    """The rows of an (uncompressed) JSON lines file by number. Costs 16 bytes a row.

    A row that cannot be parsed is an error when it is asked for, not before.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.starts = array("Q")
        self.lines = array("Q")
        try:
            with open(self.path, "rb") as file:
                if file.peek(2)[:2] == b"\x1f\x8b":
                    raise InputError(
                        "is gzipped, which cannot be read out of order",
                        remedy=f"gunzip {self.path.name}, or read it from the beginning",
                        file=self.path,
                    )
                at = 0
                for line, raw in enumerate(file, 1):
                    if raw.strip().removeprefix(BOM):
                        self.starts.append(at)
                        self.lines.append(line)
                    at += len(raw)
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", remedy="check the path", file=path) from None
        self.file = open(self.path, "rb")  # noqa: SIM115 - kept open for reading at random

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        self.file.seek(self.starts[at])
        row = parse_line(self.file.readline().removeprefix(BOM).strip(), str(self.path), self.lines[at])
        if isinstance(row, Problem):
            raise row.error()
        return row

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    def close(self) -> None:
        self.file.close()


class SlateIndex(Sequence[Slate]):
    """The slates of a JSON lines file by number, each read when it is asked for."""

    def __init__(self, path: str | Path, format: str | None = None, columns: Mapping[str, str] | None = None) -> None:
        self.reader = open_reader(path, format, columns)
        self.rows = RowIndex(path)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Slate: ...
    @overload
    def __getitem__(self, at: slice) -> list[Slate]: ...
    def __getitem__(self, at: int | slice) -> Slate | list[Slate]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        row = self.rows[at]
        try:
            return self.reader.read(row).slate
        except RowError as error:
            raise InputError(error.message, remedy=error.remedy, file=row.file, line=row.line) from None
