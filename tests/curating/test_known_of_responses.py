"""Columns as values, factual order and balance, groups with scores or levels, strongest against weakest by votes."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from prefine.curating import factual_order, leveled_groups, need, scored_groups, strongest_weakest, with_columns
from prefine.curating.factual import Inverted, ToCorrupt, as_slates, first_over_second
from prefine.errors import InputError
from prefine.slate import Candidate, Contrast, Slate, labels, pair, scores, table

RNG = random.Random(0)


def slate(*texts: str, prompt: str = "p") -> Slate:
    return Slate(prompt, tuple(map(Candidate, texts)))


def flagged(h_w: bool, h_l: bool, i: int = 0) -> Contrast:
    return pair(slate("w", "l", prompt=f"p{i}").with_feedback("hallucinated", labels([h_w, h_l])), 0, 1)


# -- columns


def test_columns_become_values_of_the_members_in_their_order() -> None:
    s = slate("a", "b", "c").with_feedback("score", scores([1.0, 2.0, 3.0]))
    (found,) = with_columns("score")([pair(s, 2, 0, margin=1.0)], RNG)
    assert found.values == {"margin": 1.0, "score": (3.0, 1.0)}


@pytest.mark.parametrize("column", [None, [1.0, None]])
def test_a_missing_column_is_said_with_the_columns_to_give(column: list[float | None] | None) -> None:
    s = slate("a", "b") if column is None else slate("a", "b").with_feedback("score", scores(column))
    for look in (lambda: need([pair(s, 0, 1)], "score"), lambda: list(with_columns("score")([pair(s, 0, 1)], RNG))):
        with pytest.raises(InputError, match="has no 'score'") as error:
            look()
        assert "score_chosen" in error.value.remedy


# -- factual order


@pytest.mark.parametrize("h", [(False, True), (True, False), (False, False), (True, True)])
def test_after_it_no_pair_has_a_false_winner_over_a_factual_loser(h: tuple[bool, bool]) -> None:
    (found,) = factual_order()([flagged(*h)], RNG)
    flags = found.values["hallucinated"]
    assert flags == ((0.0, 1.0) if h == (True, False) else (float(h[0]), float(h[1])))
    assert found.response(0) == ("l" if h == (True, False) else "w") and found.roles == (1, -1)
    (again,) = factual_order()([found], RNG)
    assert again.members == found.members, "it is a normal form: once is enough"


def test_the_four_kinds_are_limited_before_turning() -> None:
    kinds = [(False, True), (True, False), (False, False), (True, True)]
    rows = [flagged(*kinds[i % 4], i) for i in range(40)]
    kept = list(factual_order(at_most=(3, 2, 5, 99))(rows, RNG))
    turned = Counter((found.values["hallucinated"], found.response(0)) for found in kept)
    assert turned == {((0.0, 1.0), "w"): 3, ((0.0, 1.0), "l"): 2, ((0.0, 0.0), "w"): 5, ((1.0, 1.0), "w"): 10}


def test_pairs_as_slates_and_back() -> None:
    s = slate("x", "y", "z")
    reversed_roles = Contrast(s, (0, 1), (-1, 1))
    back = list(first_over_second(as_slates([pair(s, 2, 0), reversed_roles]), RNG))
    assert [(c.response(0), c.response(1)) for c in back] == [("z", "x"), ("y", "x")]


def test_inversions_put_the_corrupted_answer_over_the_original() -> None:
    rows = [flagged(False, True, 0), flagged(False, False, 1), flagged(False, True, 2)]
    asked = list(ToCorrupt(1)(rows, seed=0))
    assert len(asked) == 1 and "w" in str(asked[0].prompt)
    written = [Slate(s.prompt, (Candidate(" wrong w"),), meta=s.meta) for s in asked]
    (found,) = Inverted()(written, RNG)
    assert (found.response(0), found.response(1)) == ("wrong w", "w") and str(found.slate.prompt).startswith("p")
    (turned,) = factual_order()([found], RNG)
    assert turned.response(0) == "w"
    assert list(Inverted()([Slate(s.prompt, (Candidate("w"),), meta=s.meta) for s in asked], RNG)) == []


# -- groups


def test_groups_are_consecutive_and_carry_their_scores() -> None:
    s = slate(*"abcde").with_feedback("score", scores([1.0, 3.0, 2.0, 5.0, 4.0]))
    first, second = scored_groups(3)([s], RNG)
    assert first.members == (0, 1, 2) and first.values == {"score": (1.0, 3.0, 2.0)} and first.roles == (-1, 1, 0)
    assert second.members == (3, 4) and second.values == {"score": (5.0, 4.0)}
    assert [c.members for c in scored_groups(4)([s], RNG)] == [(0, 1, 2, 3)], "one alone is no group"
    assert [c.members for c in scored_groups()([s], RNG)] == [(0, 1, 2, 3, 4)]


def test_levels_are_the_order_of_verdicts_and_nothing_else() -> None:
    s = slate(*"abcde").with_feedback("verified", scores([0.0, 1.0, -1.0, None, -2.0]))
    (found,) = leveled_groups()([s], RNG)
    assert found.members == (0, 1, 2, 4) and found.values == {"level": (2.0, 1.0, 3.0, 4.0)}
    assert found.roles == (-1, 1, -1, -1)


# -- votes


def test_of_two_the_share_of_votes_is_kept_as_it_is() -> None:
    s = slate("a", "b").with_feedback("preference", table([[0.5, 2 / 9], [7 / 9, 0.5]]))
    (found,) = strongest_weakest()([s], RNG)
    assert found.response(0) == "b" and found.values == {"preference": 7 / 9}


def test_of_more_the_strengths_decide() -> None:
    p = [1.0, 4.0, 2.0]
    shares = [[0.5 if i == j else p[i] / (p[i] + p[j]) for j in range(3)] for i in range(3)]
    (found,) = strongest_weakest()([slate("a", "b", "c").with_feedback("preference", table(shares))], RNG)
    assert (found.response(0), found.response(1)) == ("b", "a")
    assert found.values["preference"] == pytest.approx(4 / 5, abs=1e-6)


def test_a_tie_is_a_lesson_and_the_same_text_twice_is_none() -> None:
    even = table([[0.5, 0.5], [0.5, 0.5]])
    (found,) = strongest_weakest()([slate("a", "b").with_feedback("preference", even)], RNG)
    assert found.values == {"preference": 0.5}
    assert list(strongest_weakest()([slate("a", "a").with_feedback("preference", even)], RNG)) == []
