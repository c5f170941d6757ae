"""Figures: places on the round axis, changes told from noise, costs added up once."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefine.report.figures import (
    Estimate,
    Segment,
    change,
    cost,
    evaluations,
    main_evaluation,
    rounds_done,
    segments,
)
from prefine.report.record import Record, read_record

Write = Callable[..., Path]


def row(round: int | None, key: str, **figures: float) -> dict[str, Any]:
    return {"name": "held-out", "round": round, "key": key, "figures": {"reward": 1.0, **figures}}


def labels(*rows: dict[str, Any]) -> list[str]:
    return [e.label for e in main_evaluation(Record(Path(), evaluations=rows))]


def test_the_start_comes_first_then_each_round() -> None:
    assert labels(row(None, "a"), row(0, "b"), row(1, "c")) == ["start", "round 1", "round 2"]


def test_a_run_without_rounds_has_a_start_and_an_end() -> None:
    assert labels(row(None, "a"), row(None, "b")) == ["start", "end"]


def test_the_last_round_measured_once_more_is_one_point() -> None:
    assert labels(row(None, "a"), row(0, "b"), row(None, "b")) == ["start", "round 1"]


def test_a_merge_after_the_rounds_is_the_end() -> None:
    assert labels(row(None, "a"), row(0, "b"), row(None, "m")) == ["start", "round 1", "end"]


def test_evaluations_are_kept_apart_by_name() -> None:
    rows = ({**row(0, "a"), "name": "easy"}, {**row(0, "a"), "name": "hard"})
    assert set(evaluations(Record(Path(), evaluations=rows))) == {"easy", "hard"}


def test_a_difference_adds_the_errors() -> None:
    difference = Estimate(5.0, 3.0) - Estimate(1.0, 4.0)
    assert (difference.value, difference.se) == (4.0, 5.0)
    assert not difference.clear and (Estimate(50.0, 3.0) - Estimate(1.0, 4.0)).clear
    assert not (Estimate(50.0) - Estimate(1.0)).clear  # without errors nothing is known


def training(slope: float, noise: float, seed: int = 0, steps: int = 100) -> Segment:
    rng = random.Random(seed)
    rows = tuple({"x": slope * i / steps + rng.gauss(0, noise)} for i in range(steps))
    return Segment("k", "train", 0, rows)


def test_a_change_is_told_from_noise() -> None:
    rises, falls = change([training(5.0, 1.0)], "x"), change([training(-5.0, 1.0)], "x")
    assert rises is not None and rises.direction == 1 and rises.amount == pytest.approx(4.0, abs=1.0)
    assert falls is not None and falls.direction == -1


def test_noise_alone_is_seldom_a_change() -> None:
    found = [change([training(0.0, 1.0, seed)], "x") for seed in range(200)]
    assert sum(c is not None and c.direction != 0 for c in found) < 30  # two standard errors: about one in twenty


def test_too_short_a_training_says_nothing() -> None:
    assert change([training(1.0, 0.0, steps=3)], "x") is None and change([], "x") is None


def test_reward_models_are_told_from_policies() -> None:
    rows = ({"key": "a", "label": "fit a reward model", "step": 1}, {"key": "b", "label": "train dpo", "step": 1})
    assert [s.rewards for s in segments(Record(Path(), metrics=rows))] == [True, False]


def test_costs_are_what_was_computed_and_reuse_is_free(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", rounds=2)
    before = cost(read_record(run))
    assert before.trained_tokens == 2 * 61_000
    assert before.labels == 2 * 1280 and before.responses == 2 * 1280
    assert before.sampled_tokens == 2 * 31_000
    assert (before.made, before.reused) == (10, 0)
    assert before.seconds == pytest.approx(sum(v.seconds for v in before.by_verb))
    done = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    again = [{"event": "start", "verb": "run"}]
    again += [{**e, "event": "reused", "seconds": None} for e in done if e["event"] == "done" and e["verb"] != "run"]
    with (run / "journal.jsonl").open("a") as file:
        file.writelines(json.dumps(e) + "\n" for e in again)
    after = cost(read_record(run))
    assert (after.seconds, after.trained_tokens, after.made) == (before.seconds, before.trained_tokens, 10)
    assert after.reused == 10


def test_rounds_count_when_their_training_ended(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", rounds=3)
    assert rounds_done(read_record(run)) == 3
    lines = (run / "journal.jsonl").read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if '"verb": "train"' in line)
    (run / "journal.jsonl").write_text("\n".join(lines[:last]))
    assert rounds_done(read_record(run)) == 2
