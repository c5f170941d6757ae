"""People as a judge: the run stops for them, goes on with what they said, and nothing is asked twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from prefine import judging
from prefine.artifacts import Slates
from prefine.errors import InputError, RunStopped
from prefine.fingerprint import key_of
from prefine.judging.base import Scored
from prefine.judging.composite import composite
from prefine.judging.people import People, asks_people
from prefine.labelling import FOLDER, LabelQueue
from prefine.run import Run
from prefine.slate import Candidate, Slate
from prefine.store import read_jsonl

SLATES = [Slate(f"p{i}", tuple(map(Candidate, ("good", "bad", "good")))) for i in range(3)]


def answer_all(run: Run, skip: str = "", by: str = "eva") -> int:
    """The honest annotator: "good" over "bad", 5 against 1. Skips questions about the prompt ``skip``."""
    queue = LabelQueue(run.dir / FOLDER)
    pending = queue.pending(by)
    for question in pending:
        if question.prompt == skip:
            said = "skip"
        elif question.form == "pair":
            said = "1" if question.shown[0] == "good" else "2"
        else:
            good = question.shown[0] == "good"
            said = ("1" if good else "2") if question.form == "thumbs" else ("5" if good else "1")
        queue.answer(question.id, said, by=by)
    return len(pending)


def judged(run: Run, judge: judging.Judge) -> Slates:
    return run.judge(run.slates(SLATES), judge)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_a_run_asks_stops_and_goes_on(run: Run) -> None:
    with pytest.raises(RunStopped, match="3 labels wanted") as stopped:
        judged(run, People())
    assert stopped.value.exit_code == 3 and f"prefine label {run.dir}" in stopped.value.remedy
    assert answer_all(run) == 3, "the two that say the same are not compared, and good against bad is one question"
    found = judged(run, People())
    assert found[0].column("preference") == ((0.5, 1.0, 0.5), (0.0, 0.5, 0.0), (0.5, 1.0, 0.5))
    assert found[0].column("annotator") == ("eva", "eva", "eva")
    assert run.labels == 9


def test_the_message_counts_one_label_as_one(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match="1 label wanted"):
        Run(tmp_path / "run").judge(Run(tmp_path / "run").slates(SLATES[:1]), People())


def test_skips_abstain_and_are_counted(run: Run) -> None:
    with pytest.raises(RunStopped):
        judged(run, People("rating"))
    answer_all(run, skip="p1")
    found = judged(run, People("rating"))
    assert found[1].column("score") == (None, None, None)
    assert found[0].column("score") == (5.0, 1.0, 5.0)
    row = [r for r in read_jsonl(run.dir / "journal.jsonl") if r["verb"] == "judge"][-1]
    assert row["figures"] == {"slates": 3, "labels": 6, "abstained": 3}


def test_skipped_comparisons_are_ties_that_count_as_abstentions(run: Run) -> None:
    with pytest.raises(RunStopped):
        judged(run, People())
    answer_all(run, skip="p1")
    assert judged(run, People())[1].column("preference")[0] == (0.5, 0.5, 0.5)
    row = [r for r in read_jsonl(run.dir / "journal.jsonl") if r["verb"] == "judge"][-1]["figures"]
    # of 9 couples 6 are of different texts; those about p1 were skipped, and couples of equal texts were not asked
    assert (row["labels"], row["abstained"], row["comparisons"]) == (4, 5, 9)


def test_thumbs_are_labels_and_several_votes_are_averaged(run: Run) -> None:
    with pytest.raises(RunStopped):
        judged(run, People("thumbs"))
    answer_all(run)
    assert judged(run, People("thumbs"))[0].column("label") == (True, False, True)
    with pytest.raises(RunStopped, match="6 labels wanted"):
        judged(run, People("thumbs", votes=2))
    for question in LabelQueue(run.dir / FOLDER).pending("ben"):
        LabelQueue(run.dir / FOLDER).answer(question.id, "1", by="ben")
    found = judged(run, People("thumbs", votes=2))
    assert found[0].column("score") == (1.0, 0.5, 1.0)
    assert found[0].column("annotator") == ("ben+eva",) * 3


def test_what_comes_out_is_keyed_by_what_was_said(tmp_path: Path) -> None:
    """Moved or not, the same answers are the same artifact; a changed mind is judged anew."""
    runs = [Run(tmp_path / name, store=tmp_path / "store") for name in ("one", "two")]
    keys = []
    for run in runs:
        with pytest.raises(RunStopped):
            judged(run, People())
        answer_all(run)
        keys.append(judged(run, People()).key)
    assert keys[0] == keys[1]
    queue = LabelQueue(runs[1].dir / FOLDER)
    first = next(iter(queue.questions().values()))
    queue.answer(first.id, "=", by="eva")
    changed = judged(runs[1], People())
    assert changed.key != keys[0] and changed[0].column("preference")[0][1] == 0.5


def test_the_seed_of_the_order_changes_nothing_that_was_said(run: Run) -> None:
    with pytest.raises(RunStopped):
        judged(run, People())
    answer_all(run)
    before = [s.column("preference") for s in judged(run, People())]
    assert [s.column("preference") for s in judged(run, People(seed=7))] == before


def test_people_inside_other_judges(run: Run) -> None:
    judge = composite([("people", People("rating"), 1.0), ("length", judging.Length(), 0.0 + 1e-3)])
    assert asks_people(judge) and not asks_people(judging.Length())
    with pytest.raises(RunStopped):
        judged(run, judge)
    answer_all(run)
    assert judged(run, judge)[0].column("score") == pytest.approx((5.004, 1.003, 5.004))
    table = judging.BradleyTerryTable(People("rating"))
    assert judged(Run(run.dir), table)[0].column("preference")[0][1] > 0.9


def test_a_judge_without_people_is_left_as_it_is(run: Run) -> None:
    from prefine.judging.people import answered

    judge = Scored(lambda slate: [1.0] * len(slate))
    assert answered(judge, [], run) is judge
    assert key_of(judge=dataclasses.replace(judge)) == key_of(judge=judge)


def test_people_are_asked_by_runs_alone() -> None:
    with pytest.raises(InputError, match=r"run\.judge"):
        People()(SLATES)


@pytest.mark.parametrize("spec", ["people:poems", "people:pairs,votes=0", "people:pairs,many=2", "people:,votes=x"])
def test_what_cannot_be_asked_is_said(spec: str) -> None:
    with pytest.raises(InputError):
        judging.find(spec)


def test_the_name_on_the_command_line() -> None:
    assert judging.find("people") == People()
    assert judging.find("people:rating") == People("rating")
    assert judging.find("people:pairs,votes=3,seed=1") == People("pairs", 3, 1)
