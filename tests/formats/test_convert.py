"""Conversion: nothing is lost without being named, and what is kept comes back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prefine.errors import InputError
from prefine.formats import FORMATS, convert, read_slates, render_conversion
from prefine.formats.convert import WHOLE

PAIRS = [{"prompt": f"p{i}", "chosen": f"a{i}", "rejected": f"b{i}", "id": i, "tag": "x"} for i in range(3)]
RATINGS = [
    {
        "prompt": f"p{i}",
        "candidates": [{"text": t + str(i), "score": s, "model": "m"} for t, s in zip("abc", (3.0, 1.0, 2.0))],
    }
    for i in range(3)
]


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", FORMATS)
def test_to_slates_and_back(tmp_path: Path, name: str) -> None:
    source = written(tmp_path / "d.jsonl", [dict(FORMATS[name].example)])
    there = convert(source, tmp_path / "s.jsonl", to="slates")
    back = convert(tmp_path / "s.jsonl", tmp_path / "b.jsonl", to=name)
    assert rows_of(tmp_path / "b.jsonl") == rows_of(source)
    assert not there.lost and not there.skipped and (back.slates, back.rows) == (1, 1)


@pytest.mark.parametrize("container", [".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet"])
def test_through_any_container(tmp_path: Path, container: str) -> None:
    if container == ".parquet":
        pytest.importorskip("pyarrow")
    source = written(tmp_path / "d.jsonl", RATINGS)
    for to in ("slates", "ratings"):
        convert(source, tmp_path / f"s{container}", to=to, overwrite=True)
        convert(tmp_path / f"s{container}", tmp_path / "b.jsonl", to="ratings", overwrite=True)
        assert rows_of(tmp_path / "b.jsonl") == RATINGS


@pytest.mark.parametrize("by", ["pairs-implicit", "labels", "rankings", "ratings"])
def test_pairs_survive_every_format_with_two_responses(tmp_path: Path, by: str) -> None:
    talk = [{**row, "prompt": f"\n\nHuman: {row['prompt']}\n\nAssistant:"} for row in PAIRS]
    source = written(tmp_path / "d.jsonl", talk)
    assert convert(source, tmp_path / "o.jsonl", to=by).lost == {}
    convert(tmp_path / "o.jsonl", tmp_path / "b.jsonl", to="pairs")
    kept = [{k: row[k] for k in ("prompt", "chosen", "rejected", "id", "tag")} for row in rows_of(tmp_path / "b.jsonl")]
    assert kept == talk


def test_what_has_no_room_is_named(tmp_path: Path) -> None:
    done = convert(written(tmp_path / "d.jsonl", RATINGS), tmp_path / "o.jsonl", to="pairs")
    assert done.lost == {"responses": 3, "feedback score": 3, "origin model": 3}
    row = rows_of(tmp_path / "o.jsonl")[0]
    assert row == {"prompt": "p0", "chosen": "a0", "rejected": "b0", "score_chosen": 3.0, "score_rejected": 1.0}
    done = convert(written(tmp_path / "e.jsonl", PAIRS), tmp_path / "m.jsonl", to="messages")
    assert "responses" in done.lost and "feedback preferred" in done.lost
    assert any(name.startswith("prompt as plain text") for name in done.lost)
    assert rows_of(tmp_path / "m.jsonl")[0]["messages"][-1] == {"role": "assistant", "content": "a0"}


@pytest.mark.parametrize(
    ("to", "every"), [("pairs", False), ("pairs", True), ("labels", False), ("messages", False), ("prompts", False)]
)
def test_keep_brings_everything_back(tmp_path: Path, to: str, every: bool) -> None:
    source = written(tmp_path / "d.jsonl", RATINGS)
    done = convert(source, tmp_path / "o.jsonl", to=to, keep=True, every_pair=every)
    assert done.lost and WHOLE in rows_of(tmp_path / "o.jsonl")[0]
    back = convert(tmp_path / "o.jsonl", tmp_path / "b.jsonl", to="ratings", format=to)
    assert rows_of(tmp_path / "b.jsonl") == RATINGS and back.slates == 3


def test_an_edited_row_wins_over_what_was_kept(tmp_path: Path) -> None:
    convert(written(tmp_path / "d.jsonl", RATINGS), tmp_path / "o.jsonl", to="pairs", keep=True)
    rows = rows_of(tmp_path / "o.jsonl")
    rows[1]["chosen"] = "corrected"
    convert(written(tmp_path / "o.jsonl", rows), tmp_path / "b.jsonl", to="slates")
    assert [len(s) for s in read_slates(tmp_path / "b.jsonl")] == [3, 2, 3]
    assert list(read_slates(tmp_path / "b.jsonl"))[1].response(0) == "corrected"


def test_every_pair(tmp_path: Path) -> None:
    convert(written(tmp_path / "d.jsonl", RATINGS[:1]), tmp_path / "o.jsonl", to="pairs", every_pair=True)
    assert [r["chosen"] + r["rejected"] for r in rows_of(tmp_path / "o.jsonl")] == ["a0c0", "a0b0", "c0b0"]


def test_rows_with_nothing_to_say_are_left_out_and_named(tmp_path: Path) -> None:
    same = {"prompt": "p", "candidates": [{"text": "a", "score": 1}, {"text": "b", "score": 1}]}
    done = convert(written(tmp_path / "d.jsonl", [*RATINGS, same]), tmp_path / "o.jsonl", to="pairs")
    assert (done.rows, done.skipped) == (3, 1) and done.examples[0].line == 4
    out = io.StringIO()
    Console(file=out, width=200).print(render_conversion(done))
    assert "d.jsonl:4: nothing in this row can be written as pairs" in out.getvalue()
    assert json.loads(json.dumps(done.to_json()))["skipped"] == 1


def test_a_conversion_that_gives_nothing_is_an_error(tmp_path: Path) -> None:
    source = written(tmp_path / "d.jsonl", [{"prompt": "p"}])
    with pytest.raises(InputError, match='nothing in it can be written as "pairs"'):
        convert(source, tmp_path / "o.jsonl", to="pairs")
    assert not (tmp_path / "o.jsonl").exists()


def test_problems_stop_or_are_left_out(tmp_path: Path) -> None:
    source = written(tmp_path / "d.jsonl", [PAIRS[0], {"prompt": 1, "chosen": "a", "rejected": "b"}, PAIRS[1]])
    with pytest.raises(InputError, match=r"d\.jsonl:2: .*text is needed"):
        convert(source, tmp_path / "o.jsonl", to="slates")
    assert not (tmp_path / "o.jsonl").exists()
    done = convert(source, tmp_path / "o.jsonl", to="slates", on_problem="skip")
    assert (done.slates, done.skipped) == (2, 1)


def test_a_file_that_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    source = written(tmp_path / "d.jsonl", PAIRS)
    with pytest.raises(InputError, match="exists already"):
        convert(source, source, to="slates")
    assert convert(source, source, to="slates", overwrite=True).rows == 3
    assert [s.response(0) for s in read_slates(source)] == ["a0", "a1", "a2"]


def test_columns_may_be_renamed_on_the_way(tmp_path: Path) -> None:
    source = written(tmp_path / "d.jsonl", [{"q": "p", "good": "a", "bad": "b"}])
    convert(source, tmp_path / "o.jsonl", to="pairs", columns={"prompt": "q", "chosen": "good", "rejected": "bad"})
    assert rows_of(tmp_path / "o.jsonl") == [{"prompt": "p", "chosen": "a", "rejected": "b"}]


def test_parquet_that_cannot_hold_the_rows_says_so(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    source = written(tmp_path / "d.jsonl", [{**PAIRS[0], "tag": 1}, {**PAIRS[1], "tag": "x"}, {**PAIRS[2], "tag": [1]}])
    with pytest.raises(InputError, match="do not fit into Parquet columns"):
        convert(source, tmp_path / "o.parquet", to="pairs")
    assert not list(tmp_path.glob("*o.parquet*"))
    convert(source, tmp_path / "o.parquet", to="slates")
    convert(tmp_path / "o.parquet", tmp_path / "b.jsonl", to="pairs")
    assert rows_of(tmp_path / "b.jsonl") == rows_of(source)
