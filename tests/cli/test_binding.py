"""Inputs: what is held out, judges in their roles, rehearsals, optional inputs, worlds."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefine.binding.held_out import held_out, place
from prefine.binding.rehearsal import rehearse, wanted
from prefine.binding.roles import InRole
from prefine.catalogue import System, find
from prefine.errors import InputError
from prefine.options import of_function
from prefine.slate import Candidate, Feedback, Slate, scores, table

PROMPTS = [Slate(f"prompt {i}") for i in range(300)]


# --- held out ---------------------------------------------------------------------------------------------


def test_what_is_held_out_depends_on_the_prompts_alone() -> None:
    shuffled = random.Random(1).sample(PROMPTS, len(PROMPTS))
    assert held_out(PROMPTS) == held_out(shuffled) == held_out([*PROMPTS, *PROMPTS])


def test_the_same_prompt_under_two_ids_is_on_one_side() -> None:
    assert place(Slate("a", meta={"id": 1})) == place(Slate("a", meta={"id": 2})) != place(Slate("b"))


@pytest.mark.parametrize(("there", "held"), [(2, 0), (3, 1), (24, 8), (30, 8), (100, 10), (3000, 200)])
def test_a_tenth_within_bounds(there: int, held: int) -> None:
    """At least 8, at most 200, never more than a third."""
    assert len(held_out(Slate(str(i)) for i in range(there))) == held


def test_adding_data_keeps_most_of_what_was_held_out() -> None:
    """A hash decides, so the same prompts are small whatever else is there."""
    before, after = held_out(PROMPTS[:200]), held_out(PROMPTS)
    assert len(before & after) >= len(before) // 2


# --- judges in their roles ----------------------------------------------------------------------------------


def judged(role: str, **columns: Feedback) -> Mapping[str, Feedback]:
    def judge(slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [columns for _ in slates]

    return InRole(judge, role)([Slate("p", (Candidate("a"), Candidate("b")))])[0]


def test_scores_under_another_name_are_scores() -> None:
    assert judged("score", votes=scores([3, 1]))["score"].values == (3.0, 1.0)


def test_labels_are_scores() -> None:
    assert judged("score", good=Feedback("label", (True, None)))["score"].values == (1.0, None)


def test_a_table_gives_win_rates_as_scores() -> None:
    assert judged("score", wins=table([[0.5, 0.9], [0.1, 0.5]]))["score"].values == pytest.approx((0.7, 0.3))


def test_scores_become_bradley_terry_preferences() -> None:
    """P = sigma(2 - 0) = 0.8808."""
    P = judged("preference", score=scores([2.0, 0.0]))["preference"].values
    assert P[0][1] == pytest.approx(0.880797, abs=1e-6) and P[0][1] + P[1][0] == pytest.approx(1.0)


def test_a_judge_that_compares_keeps_its_own_table() -> None:
    own = table([[0.5, 1.0], [0.0, 0.5]])
    assert judged("preference", preference=own, score=scores([0, 0]))["preference"] == own
    assert judged("preference", votes=own)["preference"] == own


def test_no_column_is_lost() -> None:
    why = Feedback("text", ("x", "y"))
    assert set(judged("verified", right=scores([1, 0]), why=why)) == {"verified", "right", "why"}


def test_a_judge_that_only_writes_cannot_score() -> None:
    with pytest.raises(InputError, match="nothing that scores"):
        judged("score", critique=Feedback("text", ("x", "y")))


# --- rehearsals ---------------------------------------------------------------------------------------------


def picky(run: Any, policy: Any, prompts: Any, pairs: Any = None, *, mode: str = "online", rounds: int = 3) -> Any:
    if mode not in ("online", "hybrid"):
        raise InputError("no such mode")
    if mode == "hybrid" and pairs is None:
        raise InputError("hybrid needs pairs")
    for _ in run.rounds(rounds):
        raise AssertionError("a rehearsal ends at the first verb") if run.sample(policy, prompts) else None


PICKY = System("picky", "Picky", "test", picky)
OPTIONAL = frozenset({"pairs"})


def test_a_recipes_own_checks_speak_before_anything_runs() -> None:
    rehearse(PICKY, {"mode": "online"})
    with pytest.raises(InputError, match="no such mode"):
        rehearse(PICKY, {"mode": "offline"})


def test_optional_inputs_are_wanted_when_the_recipe_refuses_to_go_without() -> None:
    assert wanted(PICKY, {"mode": "online"}, OPTIONAL) == frozenset()
    assert wanted(PICKY, {"mode": "hybrid"}, OPTIONAL) == OPTIONAL


def test_what_a_teacher_answers_takes_the_place_of_demos() -> None:
    system = find("pu-rl-distill")
    options = {name: option.default for name, option in of_function(system.recipe).items()}
    optional = frozenset({"demos", "prompts"})
    assert wanted(system, options, optional) == {"demos"}
    assert wanted(system, {**options, "teacher": "DIR"}, optional) == {"prompts"}


def test_what_only_a_real_run_can_say_is_left_to_it() -> None:
    rehearse(replace(PICKY, recipe=lambda run, policy: run.settings.lr / 0), {})


# --- worlds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["policy", "prompts", "pairs", "labels", "judge", "preference"])
def test_a_world_gives_every_input(name: str, tmp_path: Path) -> None:
    from prefine.artifacts import Contrasts, Slates
    from prefine.binding import source_of
    from prefine.config import parse
    from prefine.run import Run

    inputs = {"world": "games", "train_prompts": 4, "eval_prompts": 2}
    source = source_of(parse({"system": "any", "inputs": inputs}), "games")
    source.check(PICKY, [name], {})
    run = Run(tmp_path / "run")
    start = source.start(run)
    got = source.bind(run, name, start)
    if name == "prompts":
        assert isinstance(got, Slates) and len(got) == 4
    if name == "pairs":
        assert isinstance(got, Contrasts) and all(c.roles == (1, -1) for c in got)
    if name == "labels":
        assert {c.roles for c in got} == {(1,), (-1,)}
    if name in ("judge", "preference"):
        judged = run.judge(run.sample(start, source.bind(run, "prompts", start), n=2), got)
        assert ("score" if name == "judge" else "preference") in judged[0].feedback
