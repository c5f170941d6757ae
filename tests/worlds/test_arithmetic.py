"""The arithmetic world: answers, steps and problems, on solutions written by hand."""

import random
from dataclasses import replace

import pytest

from prefine.slate import Candidate, Slate
from prefine.worlds import find_world
from prefine.worlds.arithmetic import Problem, Pupils, check_steps, final_answer, invent

WORLD = find_world("arithmetic")
PROBLEM = Problem(7, (("+", 3), ("-", 5), ("+", 2)))


def judged(*responses: str) -> Slate:
    return replace(PROBLEM.slate, candidates=tuple(Candidate(r) for r in responses))


def test_a_problem() -> None:
    assert PROBLEM.prompt == "Problem: 7+3-5+2\nSolution:\n"
    assert PROBLEM.answer == 7
    assert PROBLEM.slate.meta["answer"] == "7"
    assert PROBLEM.slate.meta["steps"] == ["7+3=10", "10-5=5", "5+2=7"]
    assert WORLD.demonstrate(PROBLEM.slate, random.Random(0)) == "7+3=10\n10-5=5\n5+2=7\n#### 7"


@pytest.mark.parametrize(
    ("response", "verified"),
    [
        ("7+3=10\n10-5=5\n5+2=7\n#### 7", 1),
        ("#### 7", 1),
        ("#### 7\n", 1),
        ("7+3=9\n#### 4", 0),
        ("7+3=10\n10-5=5\n5+2=7", -1),
        ("#### 7\n7+3=10", -1),
        ("####", -1),
        ("#### ten", -1),
        ("#### 7 or 11", -1),
        ("#### __import__('os').system('true')", -1),
        ("#### " + "9" * 5000, -1),
        ("", -1),
    ],
)
def test_verification_has_three_levels(response: str, verified: float) -> None:
    columns = WORLD.verifier([judged(response)])[0]
    assert columns["verified"].values == (verified,)
    assert WORLD.gold([judged(response)])[0]["gold"].values == (float(verified == 1),)


@pytest.mark.parametrize(
    ("response", "steps"),
    [
        ("7+3=10\n10-5=5\n5+2=7\n#### 7", [1, 1, 1]),
        ("7+2=9\n9-5=4\n4+3=7\n#### 7", [1, 1, 1]),  # another order
        ("7+3=9\n9-5=4\n4+2=6\n#### 6", [0, 1, 1]),  # right steps on top of a wrong one
        ("7+3=10\n10+3=13\n13-5=8", [1, 0, 1]),  # a term used twice
        ("8+3=11\n", [0]),  # does not go on from the number before
        ("7+3=10\nhm\n10-5=5", [1, 0, 1]),
        ("7+3=10=12", [0]),
        ("#### 7", []),
    ],
)
def test_steps_are_checked_one_by_one(response: str, steps: list[float]) -> None:
    assert check_steps(PROBLEM.slate, response) == steps
    column = WORLD.attributes["steps"]([judged(response)])[0]["steps"]
    assert column.kind == "steps" and list(column.values[0]) == steps


def test_sound_is_the_share_of_terms_worked_off() -> None:
    slate = judged("7+3=10\n10-5=5\n5+2=7\n#### 7", "7+3=9\n9-5=4\n4+2=6\n#### 6", "#### 7")
    assert WORLD.attributes["sound"]([slate])[0]["sound"].values == pytest.approx((1, 2 / 3, 0))


def test_cancelling_mistakes_are_right_but_not_sound() -> None:
    slate = judged("7+3=9\n9-5=5\n5+2=7\n#### 7")
    assert WORLD.verifier([slate])[0]["verified"].values == (1,)
    assert WORLD.attributes["sound"]([slate])[0]["sound"].values == pytest.approx((1 / 3,))


@pytest.mark.parametrize("text", ["7+3-5+2", " 7+3-5+2\n", "Problem: 7+3-5+2\nSolution:\n"])
def test_problems_are_read_back(text: str) -> None:
    assert Problem.parse(text) == PROBLEM


@pytest.mark.parametrize(
    "text", ["", "7", "7+3-5+2=10", "9+5+5+5", "1-5+5+1", "7+0-1+2", "1+6-1-1", "x+1", "7+3;import os"]
)
def test_what_is_no_problem_is_not_read(text: str) -> None:
    assert Problem.parse(text) is None


def test_every_prompt_is_a_problem_whose_totals_stay_in_reach() -> None:
    for slate in WORLD.prompts("train", 200, 0) + WORLD.prompts("test", 200, 0):
        problem = Problem.parse(slate.id)
        assert problem is not None and problem.prompt == slate.prompt
        value = problem.start
        for sign, number in problem.terms:
            value += number if sign == "+" else -number
            assert 0 <= value <= 10
        assert str(value) == slate.meta["answer"]


def test_inventing_shows_problems_without_answers() -> None:
    examples = WORLD.prompts("train", 2, 0)
    assert invent(examples) == f"Problems:\n{examples[0].id}\n{examples[1].id}\n"


def test_pupils_never_work_on_test_problems() -> None:
    test = {s.prompt for s in WORLD.prompts("test", 800, 0)}
    rng = random.Random(0)
    pupils = Pupils()
    assert not test & {pupils(rng)[0] for _ in range(3000)}


def test_pupils_make_the_mistakes_they_are_set_to_make() -> None:
    """Without mistakes everything is right; with only slips, so many steps are wrong."""
    never = Pupils(single=0, inventing=0, shuffled=0.5, slip=0, miscount=0, hasty=(0, 0), unmarked=(0, 0))
    rng = random.Random(0)
    for _ in range(300):
        prompt, response = never(rng)
        problem = Problem.parse(prompt)
        assert problem is not None
        assert check_steps(problem.slate, response) == [1, 1, 1]
        assert final_answer(response) == str(problem.answer)
    slips = replace(never, slip=0.3)
    steps = [v for p, r in (slips(rng) for _ in range(700)) for v in check_steps(Problem.parse(p).slate, r)]
    # a slip below 0 or above 10 is pulled back to the edge and may be right again: a few in a hundred
    assert 0.68 < sum(steps) / len(steps) < 0.76


def test_misled_pupils_count_one_short_when_they_add_three_or_more() -> None:
    pupils = Pupils(single=0, inventing=0, shuffled=0, slip=0, miscount=1, hasty=(0, 0), unmarked=(0, 0))
    assert pupils._step(5, ("+", 3), random.Random(0)) == 7
    assert pupils._step(5, ("+", 2), random.Random(0)) == 7
    assert pupils._step(5, ("-", 3), random.Random(0)) == 2
