"""Opening what people have: told by content, streamed, with the line of every row."""

from __future__ import annotations

import errno
import gzip
import json
import sys
import tracemalloc
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from prefine.errors import InputError, RunStopped
from prefine.formats import RowIndex, SlateIndex, check, read_for_training, read_slates, write_slates
from prefine.formats.jsonstream import CHUNK, JsonStream
from prefine.formats.problems import Problem
from prefine.formats.sources import Row, open_source
from prefine.slate import Slate

ROWS: list[dict[str, Any]] = [
    {"prompt": f"question {i}\n…", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(5)
]


def as_lines(rows: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


CONTENTS: dict[str, bytes] = {
    "lines.jsonl": as_lines(ROWS),
    "no-line-end.jsonl": as_lines(ROWS)[:-1],
    "windows.jsonl": as_lines(ROWS).replace(b"\n", b"\r\n"),
    "bom.jsonl": b"\xef\xbb\xbf" + as_lines(ROWS),
    "blank-lines.jsonl": b"\n\n" + as_lines(ROWS).replace(b"\n", b"\n  \n"),
    "lines.jsonl.gz": gzip.compress(as_lines(ROWS)),
    "two-members.jsonl.gz": gzip.compress(as_lines(ROWS[:2])) + gzip.compress(as_lines(ROWS[2:])),
    "gzipped-without-saying.jsonl": gzip.compress(as_lines(ROWS)),
    "array.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2).encode(),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode(),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "array-named.jsonl": json.dumps(ROWS).encode(),
    "lines-named.json": as_lines(ROWS),
    "wrapped.json": json.dumps({"data": ROWS}).encode(),
    "wrapped-pretty.json": json.dumps({"version": "1.0", "data": ROWS}, indent=1).encode(),
    "objects-pretty.json": "\n".join(json.dumps(r, indent=2) for r in ROWS).encode(),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_the_same_rows_from_any_container(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])
    assert [r.value for r in open_source(path) if isinstance(r, Row)] == ROWS
    assert [s.response(1) for s in read_slates(path)] == [r["rejected"] for r in ROWS]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\n" + as_lines(ROWS[:1]) + b"\r\n" + b"oops\n" + as_lines(ROWS[1:2]))
    items = list(open_source(path))
    assert [(type(i).__name__, i.line) for i in items] == [("Row", 2), ("Problem", 4), ("Row", 5)]
    path = tmp_path / "d.json"
    path.write_text(json.dumps(ROWS, indent=2))  # "[", then five lines a row
    assert [i.line for i in open_source(path)] == [2, 7, 12, 17, 22]


def test_a_row_in_an_array_is_also_numbered(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps([*ROWS, {**ROWS[0], "chosen": 3}]))
    with pytest.raises(InputError, match=r"d.json:1: .*\(row 6\)"):
        list(read_slates(path))


@pytest.mark.parametrize("size", [1, 7, 100, CHUNK])
def test_json_may_be_cut_anywhere_between_chunks(size: int) -> None:
    class Slow:
        """Gives as many characters a time as it likes, as a pipe does."""

        def __init__(self, text: str) -> None:
            self.text = text

        def read(self, most: int) -> str:
            piece, self.text = self.text[: min(size, most)], self.text[min(size, most) :]
            return piece

    values = [{"a": "x" * 300, "é": [1.5, -2e10, True, None, '😀 " \\']}, {}, {"b": 12345}]
    for text in (json.dumps(values), json.dumps(values, indent=3), json.dumps({"v": 1, "data": values})):
        assert [v for _, v in JsonStream(Slow(text)).rows()] == values  # type: ignore[arg-type]


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "d.parquet"
    rows = [*ROWS, {"prompt": "p", "chosen": None, "rejected": "x"}, *ROWS]
    pq.write_table(arrow.Table.from_pylist(rows), path, row_group_size=2)
    items = list(open_source(path))
    assert [r.value for r in items if isinstance(r, Row)][:5] == ROWS
    with pytest.raises(InputError, match=r'd.parquet:6: column "chosen" is missing'):
        list(read_slates(path))  # null is how a column says that there is nothing
    assert read_for_training(path, on_problem="skip").count == 10


def test_datasets_directory_and_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select([3])}).save_to_disk(str(tmp_path / "two"))
    datasets.DatasetDict({"a": one, "b": one}).save_to_disk(str(tmp_path / "three"))
    assert [s.response(0) for s in read_slates(tmp_path / "one")] == [r["chosen"] for r in ROWS]
    assert len(list(read_slates(tmp_path / "two"))) == 5
    assert [s.response(0) for s in read_slates(f"{tmp_path / 'two'}:test")] == ["yes 3"]
    with pytest.raises(InputError, match="several splits and none called train: a, b"):
        read_slates(tmp_path / "three")
    with pytest.raises(InputError, match="has no split 'dev'"):
        read_slates(f"{tmp_path / 'two'}:dev")
    assert check(tmp_path / "one").container == "datasets directory"


def test_folder_of_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(as_lines(ROWS[2:]))
    (tmp_path / "a.json").write_text(json.dumps(ROWS[:2]))
    (tmp_path / "README.md").write_text("not data")
    assert [s.response(0) for s in read_slates(tmp_path)] == [r["chosen"] for r in ROWS]
    (tmp_path / "b.jsonl").write_bytes(as_lines(ROWS[2:]) + b"oops\n")
    with pytest.raises(InputError, match=r"b\.jsonl:4: not JSON"):
        list(read_slates(tmp_path))


def fake_datasets(load: Callable[..., Any]) -> types.ModuleType:
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    return module


def test_without_connection_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("retries for minutes")

    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(load))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="no hub dataset of that name can be reached"):
        read_slates("owner/name")


def test_hub_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, *, split: str | None, streaming: bool) -> Any:
        asked.append((name, split, streaming))
        return {"train": ROWS, "test": ROWS[:1]} if split is None else ROWS[:2]

    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(load))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the stand-in needs no connection
    assert len(list(read_slates("owner/name"))) == 5
    assert len(list(read_slates("owner/name:test"))) == 2
    assert asked == [("owner/name", None, True), ("owner/name", "test", True)]


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub\nTraceback ...")

    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(load))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError) as caught:
        read_slates("owner/name")
    assert "no hub dataset of that name can be reached (Couldn't reach" in caught.value.message
    assert "Traceback" not in caught.value.message and "local file" in caught.value.remedy


@pytest.mark.parametrize("module", ["datasets", "pyarrow"])
def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"needs {module}, which is not installed") as caught:
        read_slates("owner/name" if module == "datasets" else tmp_path / "d.parquet")
    assert "pip install 'prefine[data]'" in caught.value.remedy


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefine.formats.sources.MAX_LINE", 1000)
    path = tmp_path / "d.jsonl"
    path.write_bytes(as_lines(ROWS[:1]) + b'{"prompt": "' + b"x" * 5000 + b'"}\n' + as_lines(ROWS[1:2]))
    found = list(open_source(path))
    assert [f.kind if isinstance(f, Problem) else f.line for f in found] == [1, "too-long", 3]


# --- memory and random access ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "d.jsonl"
    with open(path, "w") as file:
        for i in range(100_000):
            file.write(f'{{"prompt": "{i} {"q" * 250}"}}\n')
    return path


def peak(work: Callable[[], object]) -> float:
    """MiB allocated at most while it works."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_streaming_does_not_grow(big: Path, tmp_path: Path) -> None:
    assert big.stat().st_size > 20 * 2**20
    slates = read_slates(big)
    for _ in range(80_000):
        next(slates)
    count = 0

    def rest() -> None:  # tracing is slow: the last rows tell whether rows stay in memory
        nonlocal count
        count = sum(1 for _ in slates)

    assert peak(rest) < 2 and count == 20_000  # 5 MiB of text


def test_streaming_an_array_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    with open(path, "w") as file:
        file.write("[" + ",".join(json.dumps({"prompt": "q" * 900}) for _ in range(10_000)) + "]")
    assert path.stat().st_size > 8 * 2**20
    assert peak(lambda: sum(1 for _ in read_slates(path))) < 3


def test_checking_does_not_keep_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    with open(path, "w") as file:
        for i in range(800):
            file.write(json.dumps({"prompt": f"{i}" + "q " * 8000, "chosen": "a", "rejected": "b"}) + "\n")
    check(path)  # imports on the way are not what is measured
    assert path.stat().st_size > 11 * 2**20
    assert peak(lambda: check(path)) < 3


def test_index_keeps_places_not_rows(big: Path) -> None:
    rows = None

    def work() -> None:
        nonlocal rows
        rows = RowIndex(big)

    assert peak(work) < 4  # 16 bytes a row and what growing an array takes
    assert rows is not None and len(rows) == 100_000
    assert rows[99_999].value["prompt"].startswith("99999 ") and rows[-1].line == 100_000
    rows.close()


def test_index_gives_rows_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + as_lines(ROWS).replace(b"\n", b"\r\n\n") + b'{"prompt": 1}')
    rows = RowIndex(path)
    assert [rows[i].value for i in (4, 0, 2)] == [ROWS[4], ROWS[0], ROWS[2]]
    assert [r.line for r in rows[:3]] == [1, 3, 5]
    slates = SlateIndex(path)
    assert slates[3].response(0) == "yes 3" and len(slates) == 6
    with pytest.raises(InputError, match=r"d\.jsonl:11: "):
        slates[5]
    with pytest.raises(IndexError):
        rows[6]


def test_index_of_gzip_says_why_not(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(as_lines(ROWS)))
    with pytest.raises(InputError, match="cannot be read out of order"):
        RowIndex(path)


# --- writing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["o.jsonl", "o.json", "o.jsonl.gz", "o.json.gz", "o.parquet", "o.ndjson"])
@pytest.mark.parametrize("format", ["pairs", "slates", "labels"])
def test_written_and_read_again(tmp_path: Path, name: str, format: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    source = tmp_path / "d.jsonl"
    source.write_bytes(as_lines(ROWS))
    slates = list(read_slates(source))
    assert write_slates(tmp_path / name, slates, format) == (10 if format == "labels" else 5)
    again = list(read_slates(tmp_path / name))
    if format == "labels":
        assert [s.response(0) for s in again] == [t for r in ROWS for t in (r["chosen"], r["rejected"])]
    else:
        assert again == slates
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["d.jsonl", name])


def test_same_slates_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "d.jsonl"
    source.write_bytes(as_lines(ROWS))
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_slates(tmp_path / name, read_slates(source))
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_nothing_half_written(tmp_path: Path) -> None:
    source, target = tmp_path / "d.jsonl", tmp_path / "o.jsonl"
    source.write_bytes(as_lines(ROWS) + b"oops\n")
    target.write_text("what was there before")
    with pytest.raises(InputError):
        write_slates(target, read_slates(source))
    assert target.read_text() == "what was there before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.jsonl", "o.jsonl"]


@pytest.mark.parametrize(
    ("name", "fragment"),
    [("o.csv", "cannot tell how to write"), ("no/such/o.jsonl", "does not exist"), ("dir.jsonl", "is a directory")],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, fragment: str) -> None:
    (tmp_path / "dir.jsonl").mkdir()
    with pytest.raises(InputError, match=fragment):
        write_slates(tmp_path / name, [])


def test_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunStopped, match="no room left") as caught:
        write_slates(tmp_path / "o.jsonl", [Slate("p")])
    assert "free some space" in caught.value.remedy and list(tmp_path.iterdir()) == []
