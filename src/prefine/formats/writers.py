"""Slates to files: whole or not at all. The name says how: .jsonl, .json, each also .gz, or .parquet."""

from __future__ import annotations

import errno
import gzip
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from prefine.errors import InputError, RunStopped
from prefine.formats.spec import Format, format_named
from prefine.formats.tables import BATCH, need
from prefine.slate import Slate, prompt_text

JsonRows = Iterable[Mapping[str, Any]]


def encode(row: Mapping[str, Any]) -> bytes:
    """One row as one line of JSON."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, TypeError) as error:
        raise InputError(
            f"a row cannot be written as JSON ({error})",
            remedy="replace NaN, infinite numbers and binary values in the source (null will do)",
        ) from None


def _lines(rows: JsonRows, file: BinaryIO) -> None:
    for row in rows:
        file.write(encode(row) + b"\n")


def _array(rows: JsonRows, file: BinaryIO) -> None:
    file.write(b"[")
    for i, row in enumerate(rows):
        file.write((b",\n" if i else b"\n") + encode(row))
    file.write(b"\n]\n")


def _gzipped(write: Callable[[JsonRows, BinaryIO], None]) -> Callable[[JsonRows, BinaryIO], None]:
    def zipped(rows: JsonRows, file: BinaryIO) -> None:
        # no name and no time inside: the same rows give the same bytes
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as inner:
            write(rows, inner)  # type: ignore[arg-type]

    return zipped


def _parquet(rows: JsonRows, file: BinaryIO) -> None:
    """Two passes over a spool on disk: the schema has to hold every row, and rows are not held in memory."""
    arrow, pq = need("pyarrow", "Parquet"), need("pyarrow.parquet", "Parquet")
    with tempfile.TemporaryFile() as spool:
        _lines(rows, spool)  # type: ignore[arg-type]
        try:
            spool.seek(0)
            schema = arrow.schema([])
            for batch in _batches(spool):
                names = list(dict.fromkeys(name for row in batch for name in row))
                arrays = [arrow.array([row.get(name) for row in batch]) for name in names]
                found = arrow.schema([(name, a.type) for name, a in zip(names, arrays)])
                schema = arrow.unify_schemas([schema, found], promote_options="permissive")
            spool.seek(0)
            with pq.ParquetWriter(file, schema) as writer:
                for batch in _batches(spool):
                    writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
        except arrow.ArrowException as error:
            what = str(error).split("\n")[0][:160]
            raise InputError(
                f"these rows do not fit into Parquet columns ({what})",
                remedy="write JSON lines (.jsonl), or the format slates, which fits any columns",
            ) from None


def _batches(spool: Any) -> Iterator[list[dict[str, Any]]]:
    while batch := [json.loads(line) for line in itertools.islice(spool, BATCH * 4)]:
        yield batch


CONTAINERS: Mapping[str, Callable[[JsonRows, BinaryIO], None]] = {
    ".jsonl.gz": _gzipped(_lines),
    ".json.gz": _gzipped(_array),
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _array,
    ".parquet": _parquet,
}
"""End of the name -> how rows are written."""


def container_of(path: Path) -> str:
    """Which container the name asks for."""
    for suffix in CONTAINERS:
        if path.name.endswith(suffix):
            return suffix
    raise InputError(
        f"cannot tell how to write {path.name!r}",
        remedy=f"end the name with one of {', '.join(CONTAINERS)}",
        file=path,
    )


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is complete, and not at all otherwise."""
    if not path.parent.is_dir():
        raise InputError("its directory does not exist", remedy=f"mkdir -p {path.parent}", file=path)
    if path.is_dir():
        raise InputError("is a directory", remedy="name a file to write", file=path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunStopped(
                f"no room left to write {path}", remedy="free some space and run the same command again"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError("cannot be written (no permission)", remedy="name another place", file=path) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def for_container(rows: JsonRows, format: Format, suffix: str) -> JsonRows:
    """Slates differ too much from row to row for Parquet columns: there they go whole into one of text."""
    if suffix != ".parquet" or format.name != "slates":
        return rows
    return ({"prompt": prompt_text(Slate.from_json(row).prompt), "slate": encode(row).decode("utf-8")} for row in rows)


def write_slates(path: str | Path, slates: Iterable[Slate], format: str = "slates") -> int:
    """Write slates in a format; the number of rows written.

    A slate that has nothing to say in the format (no pair in it, no good response) is an error: use
    ``convert``, which leaves such slates out and says so.
    """
    path, spec = Path(path), format_named(format)
    suffix = container_of(path)
    count = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count
        for number, slate in enumerate(slates, 1):
            made = spec.write(slate)
            if not made:
                raise InputError(
                    f"slate {number} ({slate.id}) cannot be written as {spec.name} ({spec.summary})",
                    remedy="write the format slates, which holds everything, or leave the slate out",
                )
            count += len(made)
            yield from made

    with atomic(path) as file:
        CONTAINERS[suffix](for_container(rows(), spec, suffix), file)
    return count
