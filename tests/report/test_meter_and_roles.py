"""The annotation meter and the table of roles: what a run's journal comes to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from prefine import judging
from prefine.artifacts import PolicyHandle
from prefine.engine.settings import TrainSettings
from prefine.judging.base import Compared, Scored
from prefine.objectives import dpo
from prefine.policies.tabular import Tabular
from prefine.report.html import write_report
from prefine.report.meter import Asked, meter, panel
from prefine.report.record import read_record
from prefine.report.roles import who_did_what
from prefine.report.runs import as_json, status_of
from prefine.roles import judges
from prefine.run import Run
from prefine.slate import Feedback, Slate, pair, scores

VALUE = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0}


def score(slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
    return [{"score": scores([VALUE[c.text] for c in s.candidates])} for s in slates]


def half(slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
    return [{"shy": scores([None, *[1.0] * (len(s) - 1)])} for s in slates]


def extremes(slates, rng):  # type: ignore[no-untyped-def]
    for slate in slates:
        values = slate.column("score")
        if max(values) > min(values):
            yield pair(slate, values.index(max(values)), values.index(min(values)))


def loop(folder: Path) -> Run:
    """Two rounds of a current, a past and a teacher policy with four judges; the yardstick asks nobody."""
    for name in ("base", "teacher"):
        Tabular(["x", "y"], list("abcd"), torch.full((2, 4), float(name == "base"))).save(folder / name)
    run = Run(folder / "run", settings=TrainSettings.of({"lr": 0.05, "batch_size": 16, "max_steps": 2}))
    with run:
        start, teacher = run.policy(folder / "base"), run.policy(folder / "teacher")
        prompts = run.slates([Slate("xy"[i % 2], meta={"id": str(i)}) for i in range(40)])
        current = before = start
        run.evaluate(start, prompts, judge=score, start=start)
        for t in run.rounds(2):
            slates = run.sample(current, run.slice(prompts, t, 2), n=2)
            slates = run.sample(before, slates, n=1, role="past")
            slates = run.sample(teacher, slates, n=1, role="teacher")
            judged = run.judge(slates, half)
            judged = run.judge(judged, Compared(lambda slate: [[0.5] * len(slate) for _ in range(len(slate))]))
            judged = run.judge(judged, judging.implicit_reward(current, before), role="view")
            judged = run.judge(judged, score)
            pairs = run.curate(judged, extremes)
            current, before = run.train(current, pairs, objective=dpo(), reference=before), current
            run.evaluate(current, prompts, judge=score, start=start)
        run.finish(current)
    return run


def test_labels_are_counted_by_judge_and_round(tmp_path: Path) -> None:
    run = loop(tmp_path)
    found = meter(read_record(run.dir))
    rows = {(r.judge, r.round): (r.labels, r.abstained, r.comparisons) for r in found.rows}
    # 20 prompts a round, 4 candidates: 80 grades, or 20 * 6 comparisons
    assert rows == {
        ("half", 0): (80, 20, 0), ("half", 1): (80, 20, 0), ("compared", 0): (120, 0, 120),
        ("compared", 1): (120, 0, 120), ("score", 0): (80, 0, 0), ("score", 1): (80, 0, 0),
    }  # fmt: skip
    assert found.total.labels == run.labels == 560
    assert [found.until(position) for position in (0, 1, 2)] == [0, 280, 560]
    assert found.said() == "560 labels asked for (240 comparisons, 40 abstained)"
    chart = panel(read_record(run.dir))
    assert chart is not None and "labels asked for" in chart.chart


def test_running_again_counts_nothing_twice(tmp_path: Path) -> None:
    first, again = loop(tmp_path), loop(tmp_path)
    assert again.labels == first.labels == meter(read_record(again.dir)).total.labels


def test_who_did_what(tmp_path: Path) -> None:
    run = loop(tmp_path)
    parts = who_did_what(read_record(run.dir))
    told = [(p.role, p.who.split(" (")[0], p.did, p.when) for p in parts]
    assert ("start", "the start", "where the run began", "") in told
    assert ("current", "the start", "40 responses, trained from", "round 1") in told
    assert ("current", "round 1: train", "40 responses, trained from", "round 2") in told
    assert ("past", "the start", "20 responses, 20 responses", "rounds 1-2") not in told
    assert ("past", "the start", "40 responses", "rounds 1-2") in told
    assert ("teacher", "given", "40 responses", "rounds 1-2") in told
    assert ("training reference", "the start", "compared with in training", "rounds 1-2") in told
    assert ("scoring reference", "the start", "160 opinions", "rounds 1-2") in told
    assert {p.who for p in parts if p.role == "judge"} >= {"half", "compared", "score"}
    assert [p.role for p in parts] == sorted((p.role for p in parts), key=_order), "in the order of the page"


def _order(role: str) -> int:
    from prefine.report.roles import _place

    return _place(role)


def test_report_and_status_tell_it(tmp_path: Path) -> None:
    run = loop(tmp_path)
    text = write_report(run.dir).read_text()
    assert "What the labels bought" in text and "Who did what" in text and "560 labels asked for" in text
    assert as_json(status_of(run.dir))["labels"]["comparisons"] == 240
    json.dumps(as_json(status_of(run.dir)))


def test_roles_of_judges_are_their_models_by_field() -> None:
    a, b = (PolicyHandle(letter * 32, Path("x")) for letter in "ab")
    mixed = judging.composite([("i", judging.implicit_reward(a, b), 1.0), ("l", judging.language_judge(b), 1.0)])
    assert judges(mixed) == {"judge": "a" * 12, "scoring reference": "b" * 12, "judge'": "b" * 12}
    assert judges(Scored(lambda slate: [])) == {}


def test_old_journals_have_a_meter_and_no_roles(tmp_path: Path, write_run) -> None:  # type: ignore[no-untyped-def]
    record = read_record(write_run(tmp_path / "run"))
    assert meter(record).rows[0] == Asked("perfect", 0, 1280)
    assert [p.role for p in who_did_what(record)] == ["judge"]
