"""The data report: it says what a file is, counts exactly, and finds every problem with its line."""

from __future__ import annotations

import io
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prefine.catalogue import INPUTS
from prefine.errors import InputError
from prefine.formats import FORMATS, check, render, serves
from prefine.formats.stats import SAMPLE, Numbers


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def found(report: Any) -> dict[str, list[int | None]]:
    """Kind of finding -> lines."""
    return {f.kind: [p.line for p in f.examples] for f in report.findings}


PAIR = {"prompt": "p", "chosen": "aaa", "rejected": "b"}


def test_counts_and_lengths(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * n, "chosen": "a b " * n, "rejected": "c"} for n in (1, 2, 3, 4, 10)]
    report = check(written(tmp_path / "d.jsonl", *rows))
    assert (report.format, report.container, report.rows, report.slates, report.responses) == (
        "pairs",
        "JSON lines",
        5,
        5,
        10,
    )
    chars = report.lengths["prompt"]["chars"]
    assert (chars["mean"], chars["min"], chars["median"], chars["max"]) == (4, 1, 3, 10)
    assert chars["sd"] == pytest.approx(statistics.stdev([1, 2, 3, 4, 10]))
    assert report.lengths["chosen"]["words"]["max"] == 20
    assert report.chosen_longer == 1.0
    assert report.ok and report.findings == ()


def test_every_problem_with_its_line(tmp_path: Path) -> None:
    path = written(
        tmp_path / "d.jsonl",
        PAIR,  # 1
        "{broken",  # 2
        {**PAIR, "chosen": ""},  # 3
        {**PAIR, "prompt": "p4", "rejected": "aaa"},  # 4
        {**PAIR, "prompt": ""},  # 5
        {**PAIR, "prompt": 6},  # 6
        {"prompt": "p7", "chosen": "c"},  # 7
        PAIR,  # 8: the same as 1
        {**PAIR, "chosen": "other"},  # 9: the prompt of 1
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]},  # 10
        {"prompt": "p11", "chosen": "c", "rejected": "r", "score_chosen": 1, "score_rejected": 2},  # 11
        '{"prompt": "p12", "chosen": "c", "rejected": "r", "score_chosen": NaN, "score_rejected": 2}',  # 12
        "[]",  # 13
    )
    report = check(path)
    assert found(report) == {
        "json": [2],
        "object": [13],
        "missing": [7],
        "mixed": [10],
        "type": [6],
        "finite": [12],
        "empty-prompt": [5],
        "empty-response": [3],
        "identical": [4],
        "against": [11],
        "duplicate-prompt": [3, 9],
        "duplicate-row": [8],
    }
    assert report.rows == 13 and report.broken == 6 and report.slates == 7 and not report.ok
    assert all(p.remedy and p.file == str(path) for f in report.findings for p in f.examples)


def test_at_most_so_many_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    report = check(written(tmp_path / "d.jsonl", PAIR, *["oops"] * 30), limit=3)
    (finding,) = report.findings
    assert finding.count == 30 and [p.line for p in finding.examples] == [2, 3, 4]


def test_scores_and_labels(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{i}", "candidates": [{"text": "a", "score": i}, {"text": "b", "score": -i}]} for i in range(1, 5)
    ]
    report = check(written(tmp_path / "d.jsonl", *rows))
    assert report.scores["score"]["mean"] == 0 and report.scores["score"]["max"] == 4
    rows = [{"prompt": f"p{i}", "completion": "c", "label": i < 3} for i in range(5)]
    report = check(written(tmp_path / "e.jsonl", *rows))
    assert report.labels == {"label": {"true": 3, "false": 2}}


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    report = check(written(tmp_path / "d.jsonl", {**PAIR, "system": "be kind", "id": 1}))
    assert report.unread == {"system": 1}


SERVES = {
    "slates": {"prompts", "pairs", "labels", "demos"},
    "steps": {"prompts", "labels"},
    "rankings": {"prompts", "pairs", "labels", "demos", "lists"},
    "ratings": {"prompts", "pairs", "labels", "demos"},
    "pairs": {"prompts", "pairs", "labels", "demos"},
    "pairs-implicit": {"prompts", "pairs", "labels", "demos"},
    "labels": {"prompts", "labels", "demos"},
    "messages": {"prompts", "demos"},
    "demos": {"prompts", "demos"},
    "prompts": {"prompts", "verifier"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_what_each_format_serves(tmp_path: Path, name: str) -> None:
    report = check(written(tmp_path / "d.jsonl", FORMATS[name].example))
    assert report.format == name
    assert serves(report) == SERVES[name] <= INPUTS.keys()


def test_what_holds_no_usable_row_serves_nothing(tmp_path: Path) -> None:
    report = check(written(tmp_path / "d.jsonl", {"prompt": "p", "chosen": "a", "rejected": "a"}))
    assert "pairs" not in serves(report)
    report = check(written(tmp_path / "e.jsonl", "oops", "more"))
    assert serves(report) == set() and report.format is None and found(report) == {"json": [1, 2]}


def test_report_is_json(tmp_path: Path) -> None:
    report = check(written(tmp_path / "d.jsonl", PAIR, "oops", {**PAIR, "chosen": ""}))
    row = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert row["serves"] == ["demos", "labels", "pairs", "prompts"] and row["broken"] == 1 and row["ok"] is False


def shown(report: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=100, force_terminal=False).print(render(report))
    return out.getvalue()


def test_rendering_says_it_all_and_takes_no_markup_from_data(tmp_path: Path) -> None:
    odd = "[red]\x1b[31m[/bold]"
    text = shown(
        check(
            written(tmp_path / "d.jsonl", PAIR, {**PAIR, "prompt": "p2", odd: 1}, "oops", *[{**PAIR, "prompt": 5}] * 12)
        )
    )
    assert "pairs: a prompt with a chosen and a rejected response" in text
    assert "2 of 15 rows can be read" in text
    assert "d.jsonl:3: not JSON" in " ".join(text.split()).replace("d. jsonl", "d.jsonl")
    assert "... and 2 more" in text and "remedy" in text
    assert "serves as: demos, labels, pairs, prompts" in text
    assert "[red]" in text and "\x1b" not in text


def test_tokens_with_a_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(tmp_path / "t")
    path = written(tmp_path / "d.jsonl", {"prompt": "a a a", "chosen": "a", "rejected": "a b"})
    report = check(path, tokenizer=tmp_path / "t")
    assert report.lengths["prompt"]["tokens"]["mean"] == 3 and report.lengths["rejected"]["tokens"]["max"] == 2
    with pytest.raises(InputError, match="no directory"):
        check(path, tokenizer=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no tokenizer that can be loaded"):
        check(path, tokenizer=tmp_path / "empty")


def test_numbers_over_a_long_stream() -> None:
    numbers = Numbers()
    for i in range(2 * SAMPLE):
        numbers.add(1e9 + i % 100)
    summary = numbers.summary()
    assert summary["mean"] == pytest.approx(1e9 + 49.5, rel=1e-12)
    assert summary["sd"] == pytest.approx(statistics.pstdev(range(100)), rel=1e-3)
    assert summary["median"] == pytest.approx(1e9 + 49.5, abs=2)
    assert len(numbers.sample) == SAMPLE
