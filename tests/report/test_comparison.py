"""The numbers of a comparison's report, worked out from made-up metrics whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prefine.report.compare import _displacement, _from_start, _took, spent
from prefine.report.figures import Segment
from prefine.report.record import Record

START = [-30.0, -50.0, -20.0, -41.0]
"""The start's log-probability of each step's batch: batches differ more than policies do."""


def training(
    moved: Sequence[float], ratio: Sequence[float] | None = None, *, batch: int = 0, round: Any = None
) -> Segment:
    rows = [
        {"step": i + 1, "chosen_length": 10.0 + i + batch, "rejected_length": 12.0 - i, "chosen_logp": START[i] + moved[i],
         **({} if ratio is None else {"chosen_ratio": ratio[i]})}
        for i in range(len(moved))
    ]  # fmt: skip
    return Segment("k", "train", round, tuple(rows))


A, B = [0.0, -1.0, -2.0, -3.0], [0.0, 1.0, 2.5, 4.0]


def test_displacement_is_from_the_start_for_every_kind_of_reference() -> None:
    fixed = training(A, A)
    assert _from_start([fixed], "chosen")
    assert _displacement([fixed], True, fixed, "chosen") == pytest.approx(A)
    free = training(B)
    assert not _from_start([free], "chosen")
    assert _displacement([free], False, fixed, "chosen") == pytest.approx(B)
    trailing = training(B, [0.0, 1.0, 1.5, 1.5])  # the reference has gone half the way: not where it is from the start
    assert _displacement([trailing], False, fixed, "chosen") == pytest.approx(B)
    guided = training(B, [3.0, 5.0, 4.0, 6.5])
    assert not _from_start([guided], "chosen")
    assert _displacement([guided], True, fixed, "chosen") == pytest.approx(B)


def test_without_a_method_on_the_same_batches_it_is_what_its_own_reference_says() -> None:
    other = training(A, A, batch=1)
    assert _displacement([training(B, B)], True, other, "chosen") == pytest.approx(B)
    assert _displacement([training(B, B)], True, None, "chosen") == pytest.approx(B)


def test_rounds_go_on_from_each_other_whether_the_reference_moves_along_or_not() -> None:
    along = [training(B, B, round=0), training(B, B, round=1)]
    stays = [training(B, B, round=0), training([4 + b for b in B], [4 + b for b in B], round=1)]
    for rounds in (along, stays):
        assert _displacement(rounds, True, None, "chosen") == pytest.approx([*B, *(4 + b for b in B)])


def event(event: str, key: str, verb: str, label: str, **more: Any) -> dict[str, Any]:
    return {"event": event, "key": key, "verb": verb, "label": label, **more}


RUN = {"event": "start", "verb": "run"}


def test_cost_is_what_a_method_needs_whoever_made_it() -> None:
    base = event("done", "s", "sample", "responses to label", seconds=3.0, figures={"tokens": 100})
    judged = event("done", "j", "judge", "judge perfect", seconds=1.0, figures={"labels": 40})
    held = event("done", "h", "judge", "held-out judgement", seconds=9.0, figures={"labels": 999})
    own = event("done", "t", "train", "train", seconds=5.0, figures={"tokens": 700})
    first = Record(Path("a"), journal=(RUN, base, judged, held, own))
    again = Record(Path("b"), journal=(RUN, *({**e, "event": "reused", "seconds": None} for e in (base, judged, own))))
    took = _took(Path("nowhere/at/all"), [first, again])
    for record in (first, again):
        cost = spent(record, took)
        assert (cost.seconds, cost.trained, cost.sampled, cost.labels, cost.more) == (9.0, 700.0, 100.0, 40.0, False)
    assert spent(again, {"t": 5.0}).more, "who made the samples is gone, and how long that took with it"


def test_what_a_run_beside_it_made_counts_too(tmp_path: Path, write_run: Any) -> None:
    write_run(tmp_path / "earlier", rounds=1)
    needed = event("reused", "sample0" + "0" * 20, "sample", "sample 5 a prompt", figures={})
    record = Record(tmp_path / "compare" / "dpo", journal=(RUN, needed))
    assert spent(record, _took(tmp_path / "compare", [record])).seconds == pytest.approx(9.0, rel=0.11)
