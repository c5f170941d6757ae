"""Labelled responses, responses to other prompts beside them, and pairs across models (013)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from prefine import curating
from prefine.curating.base import as_is
from prefine.slate import Candidate, Contrast, Slate, pair, point, scores


def slate(values: list[float], roles: Sequence[str] | None = None, prompt: str = "p") -> Slate:
    roles = roles or ["current"] * len(values)
    candidates = tuple(Candidate(f"{prompt}{i}", origin={"role": r}) for i, r in enumerate(roles))
    return Slate(prompt, candidates).with_feedback("score", scores(values))


def labelled(curator: curating.Curator, *slates: Slate) -> list[tuple[int, int]]:
    return [(c.members[0], c.roles[0]) for c in curator(slates, random.Random(0))]


def test_points_above_a_threshold_are_good() -> None:
    assert labelled(curating.points(threshold=0.5), slate([0.4, 0.5, 0.6])) == [(0, -1), (1, -1), (2, 1)]
    assert labelled(curating.points(threshold="mean"), slate([0.0, 0.0, 0.9])) == [(0, -1), (1, -1), (2, 1)]


def test_a_slate_says_nothing_about_itself_when_all_score_alike() -> None:
    assert labelled(curating.points(threshold="median"), slate([0.3, 0.3])) == []
    assert labelled(curating.points(threshold=0.0), slate([0.3, 0.3])) == [(0, 1), (1, 1)]


def test_pairs_as_points_keep_their_own_values() -> None:
    pairs = [pair(slate([1.0, 0.0]), 0, 1, win=(0.9, 0.1), weight=0.5)]
    found = list(curating.as_points(as_is)(pairs, random.Random(0)))
    assert [(c.members, c.roles) for c in found] == [((0,), (1,)), ((1,), (-1,))]
    assert [c.values for c in found] == [{"win": 0.9, "weight": 0.5}, {"win": 0.1, "weight": 0.5}]


def mixed(n: int) -> list[Contrast]:
    contrasts = [point(slate([1.0, 0.0], prompt=f"prompt {i} "), 0, i % 2 == 0) for i in range(n)]
    return list(curating.mismatched(as_is)(contrasts, random.Random(0)))


def test_mismatched_adds_a_response_to_another_prompt_with_role_0() -> None:
    found = mixed(7)
    assert len(found) == 7
    for contrast in found:
        assert contrast.roles[1] == 0
        own, other = contrast.response(0), contrast.response(1)
        assert own.startswith(str(contrast.slate.prompt)) and not other.startswith(str(contrast.slate.prompt))
        assert contrast.prompt(1) == contrast.slate.prompt, "it is scored after this prompt"
    assert len({c.response(1) for c in found}) == 7, "every response is handed on once"
    assert [c.roles[0] for c in found].count(1) == 4


def test_labelled_is_points_with_mismatched_responses() -> None:
    found = list(
        curating.make("labelled", threshold=0.5)([slate([1.0, 0.0]), slate([0.0], prompt="q")], random.Random(0))
    )
    assert sorted(c.roles for c in found) == [(-1, 0), (-1, 0), (1, 0)]


def test_mismatched_needs_two_prompts() -> None:
    assert [c.roles for c in mixed(1)] == [(1,)]


def test_mismatched_survives_storing() -> None:
    for contrast in mixed(3):
        again = Contrast.from_json(contrast.to_json())
        assert again.response(1) == contrast.response(1) and again.roles == contrast.roles


def test_mismatched_keeps_the_tokens_as_they_were_sampled() -> None:
    sampled = [Slate(f"p{i}", (Candidate("x", tokens=(i, 9), stop="end"),)) for i in range(2)]
    found = list(curating.mismatched(as_is)([point(s, 0, True) for s in sampled], random.Random(0)))
    assert {c.slate.candidates[c.members[1]].tokens for c in found} == {(0, 9), (1, 9)}


# -- 013: the four cases, on hand-made score tables: current 0-2, past 3-5, future 6-8

CURRENT = {0: 3.0, 1: 2.0, 2: 2.5}


@pytest.mark.parametrize(
    ("past", "future", "expected"),
    [
        ({3: 1.0, 4: 4.0}, {6: 3.5, 7: 0.0}, (6, 3)),  # past used, future used
        ({3: 1.0, 4: 4.0}, {6: 3.0, 7: 0.0}, (0, 3)),  # past used, future not (not above the current best)
        ({3: 2.0, 4: 4.0}, {6: 3.5, 7: 0.0}, (6, 1)),  # past not used (not below the current worst), future used
        ({3: 2.0, 4: 4.0}, {6: 1.0, 7: 0.0}, (0, 1)),  # neither
    ],
)
def test_the_four_cases(past: dict[int, float], future: dict[int, float], expected: tuple[int, int]) -> None:
    assert curating.future_pair(CURRENT, past, future) == expected
    anchored = (0, expected[1])
    assert curating.past_pair(CURRENT, past) == anchored


def test_ties_are_dropped() -> None:
    level = {0: 2.0, 1: 2.0}
    assert curating.past_pair(level, {3: 2.0}) is None
    assert curating.past_pair(level, {3: 1.0}) == (0, 3)
    assert curating.future_pair(level, {3: 2.0}, {6: 2.0}) is None
    assert curating.future_pair(level, {3: 2.0}, {6: 2.5}) == (6, 0)


def test_with_one_model_it_is_self_rewarding() -> None:
    """M_0 = M_i = M_f with the same samples: best against worst of the current responses."""
    rng = random.Random(0)
    for _ in range(50):
        s = [rng.randint(0, 5) / 1.0 for _ in range(7)]
        roles = ["current"] * 7 + ["past"] * 7 + ["future"] * 7
        three = slate(s * 3, roles)
        alone = slate(s)
        plain = [c.members for c in curating.extremes()([alone], rng)]
        assert [c.members for c in curating.temporal_past()([three], rng)] == plain
        assert [c.members for c in curating.temporal_future()([three], rng)] == plain


def test_the_curators_read_roles_off_the_candidates() -> None:
    judged = slate([3.0, 2.0, 1.0, 3.5], ["current", "current", "past", "future"])
    (anchored,) = curating.temporal_past()([judged], random.Random(0))
    (guided,) = curating.temporal_future()([judged], random.Random(0))
    assert anchored.members == (0, 2) and guided.members == (3, 2)
    (without_past,) = curating.temporal_future(past="nobody")([judged], random.Random(0))
    assert without_past.members == (3, 1)
