"""Pairs across policies and samples beside pairs; statistical rejection sampling and its pairings."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from prefine import curating, judging
from prefine.curating.statistical import first_round, tournament
from prefine.errors import InputError
from prefine.judging.base import Compared
from prefine.slate import Candidate, Slate, pair, scores, table

RNG = random.Random(0)


def says(role: str, text: str, stop: str | None = "end") -> Candidate:
    return Candidate(text, stop=stop, origin={"role": role})


def test_across_marks_the_second_role_and_gives_ties_to_the_first() -> None:
    slate = Slate("x", (says("current", "a"), says("start", "b"), says("current", "c"), says("start", "d")))
    judged = slate.with_feedback("score", scores([1.0, 2.0, 0.0, 0.0]))
    found = list(curating.across()([judged], RNG))
    assert [(c.response(0), c.response(1), c.values["calibration"]) for c in found] == [
        ("b", "a", (1.0, 0.0)),
        ("c", "d", (0.0, 1.0)),
    ]


def test_across_takes_off_for_responses_that_were_cut() -> None:
    slate = Slate("x", (says("current", "a", "length"), says("start", "b"))).with_feedback("score", scores([1.0, 0.5]))
    assert [c.response(0) for c in curating.across()([slate], RNG)] == ["a"]
    assert [c.response(0) for c in curating.across(unfinished=1.0)([slate], RNG)] == ["b"]


def test_across_leaves_out_what_was_not_judged() -> None:
    slate = Slate("x", (says("current", "a"), says("start", "b"))).with_feedback("score", scores([1.0, None]))
    assert list(curating.across()([slate], RNG)) == []


def test_accompanied_adds_the_role_s_samples_without_a_side() -> None:
    slate = Slate("x", (says("current", "a"), says("current", "b"), says("start", "c")))
    judged = slate.with_feedback("score", scores([0.0, 1.0, None]))
    (found,) = curating.accompanied(curating.extremes(carry="score"), "start")([judged], RNG)
    assert [found.response(i) for i in range(3)] == ["b", "a", "c"]
    assert found.roles == (1, -1, 0) and found.values["score"] == (1.0, 0.0, 0.0)


def test_with_samples_goes_through_fewer_slates_again_and_keeps_other_prompts() -> None:
    pairs = [pair(Slate(p, (Candidate("good"), Candidate("bad"))), 0, 1, margin=2.0) for p in ("x", "y", "z")]
    own = [Slate("x", (Candidate("mine", tokens=(1, 2)),)), Slate("q", (Candidate("other"),))]
    found = list(curating.with_samples(pairs, own, RNG))
    assert [c.response(2) for c in found] == ["mine", "other", "mine"]
    assert [c.prompt(2) for c in found] == ["x", "q", "x"]
    assert found[0].slate.candidates[2].tokens == (1, 2) and found[0].roles == (1, -1, 0)
    assert found[0].values == {"margin": 2.0} and found[0].compact() == found[0]


def test_parts_are_disjoint_and_together_everything() -> None:
    pairs = [pair(Slate(str(i), (Candidate("a"), Candidate("b"))), 0, 1) for i in range(7)]
    parts = [[c.slate.prompt for c in curating.part(i, 3)(pairs, RNG)] for i in range(3)]
    assert parts == [["0", "3", "6"], ["1", "4"], ["2", "5"]]
    assert [s.prompt for s in curating.prompts_of(pairs)] == [str(i) for i in range(7)]


# -- 117 RSO: the sampler


def test_accepted_responses_have_the_density_of_the_optimal_policy() -> None:
    """pi(y) exp(r(y)/beta)/Z, 5 actions, one kept of many fresh candidates, 100,000 times: total variation < 0.01."""
    rng, beta = np.random.default_rng(0), 0.5
    pi, r = np.array([0.3, 0.25, 0.2, 0.15, 0.1]), np.array([0.0, 0.3, 0.6, 0.9, 1.2])
    want = pi * np.exp(r / beta)
    want /= want.sum()
    dice, counts, repetitions = random.Random(1), np.zeros(5), 100_000
    drawn = rng.choice(5, p=pi, size=(repetitions, 60))  # the best is among 60 but for 1 in 500
    for row in drawn.tolist():
        (kept,) = curating.accept(dict(enumerate(r[row].tolist())), 1, beta, dice)
        counts[row[kept]] += 1
    assert abs(counts / repetitions - want).sum() / 2 < 0.01


def test_the_limits_of_the_temperature() -> None:
    rewards = dict(enumerate(np.random.default_rng(0).normal(size=20).tolist()))
    best = sorted(rewards, key=lambda i: -rewards[i])[:6]
    for seed in range(20):
        for cold in (1e-6, 0.0):
            assert set(curating.accept(rewards, 6, cold, random.Random(seed))) == set(best)
        for hot in (1e9, math.inf):
            assert curating.accept(rewards, 6, hot, random.Random(seed)) == list(range(6))
    assert sorted(curating.accept(rewards, 99, 0.1, random.Random(0))) == sorted(rewards)  # the pool runs empty


def test_the_best_reward_is_that_of_the_sweep_s_start() -> None:
    """With candidates 0 (best, found second) and 1: u against exp(-1/beta) for 1, then 0 is taken for certain."""
    beta, rewards = 1.0, {0: 0.0, 1: 1.0}
    kept_first = [curating.accept(rewards, 1, beta, random.Random(s))[0] for s in range(4000)]
    assert np.mean([k == 0 for k in kept_first]) == pytest.approx(math.exp(-1), abs=0.03)


def test_equal_texts_are_one_candidate() -> None:
    slate = Slate("x", tuple(Candidate(t) for t in "aabbc")).with_feedback("reward", scores([1.0, 1.0, 2.0, 2.0, 3.0]))
    (kept,) = curating.accepted(n=3, beta=0.0)([slate], RNG)
    assert kept.members == (4, 2, 0) and kept.roles == (0, 0, 0)
    (alone,) = curating.alone([kept])
    assert [c.text for c in alone.candidates] == ["c", "b", "a"] and not alone.feedback


def test_first_round_and_tournament() -> None:
    def better(a: int, b: int) -> int:
        return max(a, b)

    players = [3, 0, 4, 1, 2]
    assert list(first_round(players, better)) == [(3, 0), (4, 1)]
    assert list(tournament(players, better)) == [(3, 0), (4, 1), (4, 3), (4, 2)]
    for n in range(2, 9):
        games = list(tournament(list(range(n)), better))
        assert len(games) == n - 1 and len({loser for _, loser in games}) == n - 1 and games[-1][0] == n - 1
    assert list(first_round([0, 1], lambda a, b: None)) == [] == list(tournament([0, 1], lambda a, b: None))


def test_drawn_pairs_are_labelled_by_the_table() -> None:
    P = [[0.5, 0.9, 0.2, 0.5], [0.1, 0.5, 0.6, 0.5], [0.8, 0.4, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
    slate = Slate("x", tuple(map(Candidate, "abcd"))).with_feedback("preference", table(P))
    seen = set()
    for seed in range(30):
        for found in curating.drawn_pairs()([slate], random.Random(seed)):
            seen.add(found.members)
    assert seen == {(i, j) for i, j in itertools.permutations(range(4), 2) if P[i][j] > 0.5}


def test_the_induced_reward_is_the_log_odds_against_the_last_candidate() -> None:
    def compare(slate: Slate) -> list[list[float]]:
        r = [float(len(c.text)) for c in slate.candidates]
        return [[1 / (1 + math.exp(b - a)) for b in r] for a in r]

    slate = Slate("x", tuple(map(Candidate, ("a", "bbb", "cc"))))
    (columns,) = judging.induced(Compared(compare))([slate])
    assert columns["reward"].values[:2] == pytest.approx((-1.0, 1.0)) and columns["reward"].values[2] is None


@pytest.mark.parametrize("options", [{"n": 1}, {"beta": -0.5}, {"beta": math.nan}])
def test_wrong_options(options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        curating.accepted(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        curating.drawn_pairs("league")
