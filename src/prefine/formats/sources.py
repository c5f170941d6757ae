"""Opening what people have: rows with their file and line, streamed, from a path or a dataset name.

What a file is follows from its content (its first bytes), not from its name: JSON lines, a JSON array, an
object with a list inside, each also gzipped, or Parquet. A directory is a `datasets` directory or a folder of
such files. A name that is no path is a dataset on the hub. Rows that cannot be read come out as problems in
their place, so that one bad line does not hide the next.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

from prefine.errors import InputError
from prefine.formats.jsonstream import WRAPPED, WRAPPERS, BrokenStream, JsonStream
from prefine.formats.problems import Problem, shown, type_name

MAX_LINE = 1 << 26
"""64 MiB: a longer line is not a row (most often a file without line ends)."""

HEAD = 1 << 16
"""Bytes looked at to tell the layout."""

BOM = b"\xef\xbb\xbf"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.\[\]%-]+)?")
DATA_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Row:
    """One row and where it stands. For Parquet and datasets, ``line`` is the number of the row, from 1."""

    file: str
    line: int
    value: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A file (or dataset) with its kind in words and a function that streams it anew each time."""

    name: str
    kind: str
    stream: Callable[[], Iterator[Row | Problem]]

    def __iter__(self) -> Iterator[Row | Problem]:
        return self.stream()


Layout = Callable[[BinaryIO, str], Iterator[Row | Problem]]
"""How rows lie in a file: (stream, name) -> rows."""


def open_source(path: str | Path) -> Source:
    """Find out what it is, or say clearly why it cannot be used."""
    from prefine.formats import tables

    path = Path(os.path.expanduser(path))
    try:
        if path.is_dir():
            return tables.directory(path)
        if path.is_file():
            return _file(path)
        if path.exists():
            raise InputError("is neither a file nor a directory", remedy="name a data file", file=path)
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", remedy="check the path and its permissions", file=path
        ) from None
    name = str(path)
    place, _, split = name.rpartition(":")
    if place and Path(place).is_dir():
        return tables.directory(Path(place), split)
    if HUB_NAME.fullmatch(name) and not name.endswith(DATA_SUFFIXES) and not path.parent.is_dir():
        return tables.hub(name)
    raise _no_such_file(path)


def _no_such_file(path: Path) -> InputError:
    near: list[str] = []
    if path.parent.is_dir():
        near = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(str(path.parent / n) for n in near)}?" if near else "check the path"
    return InputError("there is no such file", remedy=hint, file=path)


# --- files -----------------------------------------------------------------------------------------------

REFUSED: Mapping[bytes, tuple[str, str]] = {
    b"PK\x03\x04": ("a zip archive (or a spreadsheet)", "unpack it, and save rows as JSON lines"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it: zstd -d FILE"),
    b"BZh": ("compressed with bzip2", "unpack it: bunzip2 FILE"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it: unxz FILE"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    b"\x80\x02": ("a pickle, which can run code when it is opened", "save the rows as JSON lines"),
    b"\x80\x03": ("a pickle, which can run code when it is opened", "save the rows as JSON lines"),
    b"\x80\x04": ("a pickle, which can run code when it is opened", "save the rows as JSON lines"),
    b"\x80\x05": ("a pickle, which can run code when it is opened", "save the rows as JSON lines"),
    b"ARROW1": ("an Arrow file", "give the directory made by `save_to_disk`, or a Parquet file"),
    b"SQLite": ("an SQLite database", "export the table as JSON lines"),
    b"version https://git-lfs": ("a git-lfs pointer, not the data", "fetch the data: git lfs pull"),
    b"<!DOCTYPE": ("a web page, not the data", "download the raw file"),
    b"<html": ("a web page, not the data", "download the raw file"),
}
"""First bytes of what is not data here, with what to do about it."""


def _file(path: Path) -> Source:
    with open(path, "rb") as raw:
        head = raw.read(64)
    if head.startswith(b"PAR1"):
        from prefine.formats import tables

        return tables.parquet(path)
    zipped = head.startswith(b"\x1f\x8b")
    if path.suffix == ".parquet" and head:
        raise InputError(
            "is not a Parquet file (its first bytes are wrong)", remedy="write or fetch it again", file=path
        )
    if path.suffix == ".gz" and head and not zipped:
        raise InputError("is named .gz but is not gzipped", remedy=f"rename it to {path.name[:-3]}", file=path)
    try:
        with _opened(path) as stream:
            layout = _sniff(stream, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"is damaged gzip ({error})", remedy="fetch or write it again", file=path) from None
    kind = "JSON lines" if layout is _json_lines else "JSON"
    return Source(str(path), kind + (", gzipped" if zipped else ""), lambda: _guarded(layout, path))


def _opened(path: Path) -> BinaryIO:
    raw = open(path, "rb")  # noqa: SIM115 - closed by whoever takes it
    if raw.peek(2)[:2] == b"\x1f\x8b":
        raw.close()
        return io.BufferedReader(gzip.GzipFile(path, "rb"))  # type: ignore[arg-type]
    return raw


def _sniff(stream: BinaryIO, path: Path) -> Layout:
    """JSON lines or one JSON text? Looks at the beginning; reads no long line whole."""
    head = stream.read(HEAD)
    while head and not head.removeprefix(BOM).strip():
        head = stream.read(HEAD)
    head = head.removeprefix(BOM).lstrip()
    for magic, (what, remedy) in REFUSED.items():
        if head[: len(magic)].lower() == magic.lower():
            raise InputError(f"is {what}", remedy=remedy, file=path)
    if head.startswith(b"["):
        return _json_stream
    if not head.startswith(b"{"):
        return _json_lines
    first, end, rest = head.partition(b"\n")
    if not end and len(head) >= HEAD:  # a long first line: a row, or everything on one line
        return _json_stream if WRAPPED.match(head.decode("utf-8", "replace")) else _json_lines
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        # a row spread over lines ends its first line early; anything else is a broken line of JSON lines
        return _json_stream if first.rstrip().endswith((b"{", b"[", b",", b":")) else _json_lines
    wrapped = any(isinstance(row.get(key), list) for key in WRAPPERS) and not set(row) & {"prompt", "messages"}
    return _json_stream if wrapped and not rest.strip() else _json_lines


def _guarded(layout: Layout, path: Path) -> Iterator[Row | Problem]:
    """A gzip stream that breaks off becomes a problem at the line it reached."""
    line = 0
    try:
        with _opened(path) as stream:
            for item in layout(stream, str(path)):
                line = item.line or line
                yield item
    except (EOFError, gzip.BadGzipFile, zlib.error):
        message = "the gzip stream is damaged or cut off; what follows could not be read"
        yield Problem("damaged", message, "fetch or write the file again", str(path), line + 1)


def _json_lines(stream: BinaryIO, file: str) -> Iterator[Row | Problem]:
    line = 0
    while raw := stream.readline(MAX_LINE):
        line += 1
        if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(MAX_LINE)
            message = f"line longer than {MAX_LINE >> 20} MiB"
            yield Problem("too-long", message, "write one row a line", file, line)
            continue
        if line == 1:
            raw = raw.removeprefix(BOM)
        raw = raw.strip()
        if raw:
            yield parse_line(raw, file, line)


def parse_line(raw: bytes, file: str, line: int) -> Row | Problem:
    """One line of JSON lines."""
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        return Problem("encoding", message, "save the file as UTF-8 (iconv -f LATIN1 -t UTF-8)", file, line)
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} at character {error.pos + 1}"
        return Problem("json", message, _json_remedy(raw), file, line)
    except RecursionError:
        return Problem("json", "not JSON that can be read: nested too deeply", "flatten the row", file, line)
    except ValueError as error:
        return Problem("json", f"not JSON that can be read: {error}"[:120], "correct the number", file, line)
    return checked(value, file, line, surrogates=b"\\ud" in raw or b"\\uD" in raw)


def checked(value: object, file: str, line: int, *, surrogates: bool = True) -> Row | Problem:
    """A row is an object of text that can be written again."""
    if not isinstance(value, dict):
        message = f"a row must be an object with named columns, this is {type_name(value)}: {shown(value)}"
        return Problem("object", message, 'write rows as {"prompt": "...", ...}', file, line)
    if surrogates and _lone_surrogate(value):
        message = "half a character (a lone surrogate such as \\ud83d) in the text"
        return Problem("encoding", message, "cut text at whole characters, then write it again", file, line)
    return Row(file, line, value)


def _lone_surrogate(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _json_remedy(raw: bytes) -> str:
    if raw.startswith((b"{'", b"{ '")):
        return "this is a printed Python dict: write rows with json.dumps"
    if raw.endswith((b",}", b", }", b",]")):
        return "remove the comma before the closing bracket"
    if raw.startswith(b"{") and not raw.endswith(b"}"):
        return "the line is cut off: write the file again (a line break inside text is \\n in JSON)"
    if not raw.startswith((b"{", b"[", b'"')):
        return "this looks like CSV or plain text: save rows as JSON lines, one object a line"
    return "correct the line: one JSON object a line"


def _json_stream(stream: BinaryIO, file: str) -> Iterator[Row | Problem]:
    reader = JsonStream(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
    try:
        for line, value in reader.rows():
            yield checked(value, file, line)
    except BrokenStream as error:
        message = f"not JSON: {error}; what follows could not be read"
        remedy = "correct it, or write one object a line (JSON lines), where one bad row does not hide the rest"
        yield Problem("json", message, remedy, file, error.line)
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte 0x{error.object[error.start]:02x}; what follows could not be read"
        yield Problem("encoding", message, "save the file as UTF-8", file, reader.line)
