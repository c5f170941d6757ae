"""The real thing: pairs, scored slates and problems with answers, where they lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefine.formats import FORMATS, check, convert, read_for_training, read_slates, serves
from prefine.formats.sources import Row, open_source

SHARED = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.shared

FILES = {"hh_harmless_pairs": "pairs", "alpaca_eval_slates": "ratings", "gsm8k_train_2000": "prompts"}


def shared(name: str) -> Path:
    path = SHARED / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.parametrize("name", FILES)
def test_read_whole_and_written_again_row_by_row(name: str) -> None:
    path = shared(name)
    report = check(path)
    assert report.format == FILES[name] and report.ok and report.slates == report.rows
    spec = FORMATS[FILES[name]]
    rows = [item.value for item in open_source(path) if isinstance(item, Row)]
    assert [spec.write(slate) for slate in read_slates(path)] == [[row] for row in rows]


def test_harmless_pairs_train_although_some_responses_are_empty() -> None:
    data = read_for_training(shared("hh_harmless_pairs"))
    rows = [item.value for item in open_source(shared("hh_harmless_pairs")) if isinstance(item, Row)]
    usable = sum(bool(r["chosen"].strip() and r["rejected"].strip() and r["chosen"] != r["rejected"]) for r in rows)
    assert sum(1 for _ in data.lessons("pairs")) == usable < len(rows)


def test_every_implicit_prompt_is_found_again(tmp_path: Path) -> None:
    path = shared("hh_harmless_pairs")
    convert(path, tmp_path / "o.jsonl", to="pairs-implicit")
    for before, after in zip(read_slates(path), read_slates(tmp_path / "o.jsonl"), strict=True):
        assert before.prompt == after.prompt
        assert [c.text for c in before.candidates] == [c.text for c in after.candidates]


def test_scored_slates_give_pairs_with_the_best_first() -> None:
    data = read_for_training(shared("alpaca_eval_slates"))
    for contrast in data.lessons("pairs"):
        score = contrast.slate.column("score")
        said = [i for i in range(len(contrast.slate)) if contrast.slate.response(i).strip()]
        best, worst = (contrast.members[k] for k in (0, 1))
        assert score[best] == max(score[i] for i in said) > score[worst] == min(score[i] for i in said)


def test_problems_have_gold_answers() -> None:
    report = check(shared("gsm8k_train_2000"))
    assert report.answers == report.rows and serves(report) == {"prompts", "demos", "verifier"}
    answers = [slate.meta["answer"] for slate in read_slates(shared("gsm8k_train_2000"))]
    assert all(float(a) == float(a) for a in answers)
