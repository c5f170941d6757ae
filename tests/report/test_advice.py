"""What to try next: each rule speaks when its sign is there, and keeps quiet when it is not."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefine.catalogue import find
from prefine.report import advice as rules
from prefine.report.advice import advice
from prefine.report.record import read_record

Write = Callable[..., Path]

CALM = {"chosen_slope": 5.0, "rejected_slope": -5.0, "growth": 0.0}


def titles(run: Path) -> set[str]:
    return {a.title for a in advice(read_record(run))}


def edit(run: Path, name: str, change: Callable[[int, dict[str, Any]], None]) -> Path:
    rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
    for i, row in enumerate(rows):
        change(i, row)
    (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def figures(**by_position: list[float]) -> Callable[[int, dict[str, Any]], None]:
    def change(i: int, row: dict[str, Any]) -> None:
        row["figures"] |= {name: values[i] for name, values in by_position.items()}

    return change


def metric(name: str, value: Callable[[dict[str, Any]], float]) -> Callable[[int, dict[str, Any]], None]:
    def change(i: int, row: dict[str, Any]) -> None:
        row[name] = value(row)

    return change


def test_a_good_run_is_only_told_to_make_sure(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", **CALM)
    edit(run, "evaluations.jsonl", figures(reward=[0.4, 0.7, 0.75, 0.76], kl=[0.0, 1.0, 1.6, 1.8]))
    assert titles(run) == {"Make sure of it"}


def test_both_log_probabilities_falling(tmp_path: Path, write_run: Write) -> None:
    said = "Hold the chosen responses up"
    assert said in titles(write_run(tmp_path / "a", chosen_slope=-5.0, rejected_slope=-15.0))
    assert said not in titles(write_run(tmp_path / "b", chosen_slope=3.0, rejected_slope=-15.0))


def test_held_out_pairs_are_believed_before_training_batches(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", **CALM)
    error = [1.0] * 4
    falls = figures(pair_chosen_logp=[-20.0, -22.0, -24.0, -26.0], pair_chosen_logp_se=error,
                    pair_rejected_logp=[-20.0, -30.0, -40.0, -50.0], pair_rejected_logp_se=error)  # fmt: skip
    said = [a.seen for a in advice(read_record(edit(run, "evaluations.jsonl", falls)))]
    assert any("on held-out pairs (chosen -6.00, rejected -30.00)" in text for text in said)


def test_growing_longer(tmp_path: Path, write_run: Write) -> None:
    said = "Take length out of the preference"
    assert said in titles(write_run(tmp_path / "a", growth=0.2))
    assert said not in titles(write_run(tmp_path / "b", growth=0.05))


def test_reward_that_turned_down(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", **CALM)
    edit(run, "evaluations.jsonl", figures(reward=[0.4, 0.8, 0.6, 0.5]))
    assert "Stop at the best round" in titles(run)


def test_distance_that_bought_nothing(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", **CALM)
    edit(run, "evaluations.jsonl", figures(reward=[0.4, 0.6, 0.7, 0.7], kl=[0.0, 4.0, 8.0, 16.0]))
    assert "Spend less KL" in titles(run)
    edit(run, "evaluations.jsonl", figures(reward=[0.4, 0.6, 0.7, 0.9]))
    assert titles(run).isdisjoint({"Spend less KL"}) and "Go on" in titles(run)


def test_an_end_that_cannot_be_told_from_the_start(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", **CALM)
    edit(run, "evaluations.jsonl", figures(reward=[0.4, 0.41, 0.4, 0.41], win_rate=[0.5, 0.51, 0.5, 0.51]))
    assert "Tell the end from the start" in titles(run)
    assert "Make sure of it" not in titles(run)


def test_pairs_alone_can_tell_or_not(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", rounds=1, **CALM)

    def only_pairs(accuracy: float) -> Callable[[int, dict[str, Any]], None]:
        def change(i: int, row: dict[str, Any]) -> None:
            row["figures"] = {"length": 20.0}
            if i:
                row["figures"] |= {"kl": 50.0, "pair_accuracy": accuracy, "pair_accuracy_se": 0.08}

        return change

    assert {"Tell the end from the start", "Spend less KL"} <= titles(edit(run, "evaluations.jsonl", only_pairs(0.55)))
    assert titles(edit(run, "evaluations.jsonl", only_pairs(0.9))).isdisjoint({"Tell the end from the start"})


def test_a_paired_measure_of_displacement_is_preferred(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", **CALM)
    wide = {f"pair_{s}_logp": [-500.0] * 4 for s in ("chosen", "rejected")}
    wide |= {f"pair_{s}_logp_se": [60.0] * 4 for s in ("chosen", "rejected")}
    assert "Hold the chosen responses up" not in titles(edit(run, "evaluations.jsonl", figures(**wide)))
    paired = {f"pair_{s}_ratio": [0.0, -2.0, -3.0, -4.0] for s in ("chosen", "rejected")}
    paired |= {f"pair_{s}_ratio_se": [0.5] * 4 for s in ("chosen", "rejected")}
    assert "Hold the chosen responses up" in titles(edit(run, "evaluations.jsonl", figures(**paired)))


@pytest.mark.parametrize(
    ("said", "name", "value"),
    [
        ("Make the pairs harder", "accuracy", lambda row: 1.0 if row["step"] > 3 else 0.6),
        ("Check the preferences", "accuracy", lambda row: 0.5),
        ("Calm the gradient", "grad_norm", lambda row: 90.0 if row["step"] == 30 else 1.0),
        ("Stop the divergence", "loss", lambda row: float("nan") if row["step"] == 40 else 0.5),
    ],
)
def test_signs_in_training(
    tmp_path: Path, write_run: Write, said: str, name: str, value: Callable[[dict[str, Any]], float]
) -> None:
    run = write_run(tmp_path / "run", **CALM)
    assert said not in titles(run)
    assert said in titles(edit(run, "metrics.jsonl", metric(name, value)))


def test_signs_in_the_journal(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", **CALM)
    assert titles(run).isdisjoint({"Get a lesson from more prompts", "Look at what the judge would not judge"})

    def change(i: int, row: dict[str, Any]) -> None:
        if row["event"] == "done" and row["verb"] == "curate":
            row["figures"]["without"] = 200
        if row["event"] == "done" and row["verb"] == "judge":
            row["figures"]["abstained"] = 640

    said = titles(edit(run, "journal.jsonl", change))
    assert {"Get a lesson from more prompts", "Look at what the judge would not judge"} <= said


def test_responses_cut_by_the_limit(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", **CALM)
    assert "Let it finish" not in titles(run)
    assert "Let it finish" in titles(edit(run, "evaluations.jsonl", figures(finished=[0.9, 0.7, 0.5, 0.4])))


def test_a_run_in_the_middle_is_told_to_go_on(tmp_path: Path, write_run: Write) -> None:
    assert "Finish it" in titles(write_run(tmp_path / "run", finished=False))


def test_every_system_that_advice_names_exists() -> None:
    named = set(re.findall(r"`([a-z0-9-]+)`", inspect.getsource(rules)))
    assert {"sppo", "ilr-dpo"} <= named
    for key in named:
        assert find(key).key == key
