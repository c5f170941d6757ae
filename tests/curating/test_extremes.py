"""Which two responses become a pair, from their scores."""

from __future__ import annotations

import math
import random

import pytest

from prefine import curating
from prefine.curating.extremes import nearest
from prefine.errors import InputError
from prefine.slate import Candidate, Contrast, Slate, scores


def slate(values: list[float | None], texts: list[str] | None = None, prompt: str = "p") -> Slate:
    texts = texts or [f"response {i}" for i in range(len(values))]
    return Slate(prompt, tuple(map(Candidate, texts))).with_feedback("score", scores(values))


def picked(curator: curating.Curator, *slates: Slate, seed: int = 0) -> list[tuple[int, int]]:
    return [both(c) for c in curator(slates, random.Random(seed))]


def both(contrast: Contrast) -> tuple[int, int]:
    assert contrast.roles == (1, -1)
    return contrast.members[0], contrast.members[1]


def test_extremes_take_the_best_against_the_worst() -> None:
    assert picked(curating.extremes(), slate([0.2, 0.9, 0.1, 0.5])) == [(1, 2)]


def test_equal_scores_give_no_pair() -> None:
    for curator in (curating.extremes(), curating.max_min(), curating.max_max(), curating.random_pairs()):
        assert picked(curator, slate([0.5, 0.5, 0.5])) == []


def test_among_equals_the_first_is_taken() -> None:
    assert picked(curating.extremes(), slate([1.0, 1.0, 0.0, 0.0])) == [(0, 2)]


def test_abstentions_take_no_part() -> None:
    assert picked(curating.extremes(), slate([None, 0.4, None, 0.6])) == [(3, 1)]
    assert picked(curating.extremes(), slate([None, 0.4])) == []


def test_several_of_each_end_with_a_gap() -> None:
    assert picked(curating.extremes(top=2, bottom=2, min_gap=0.25), slate([0.0, 0.1, 0.3, 1.0])) == [
        (3, 0), (3, 1), (2, 0),
    ]  # fmt: skip


def test_columns_go_along_as_values() -> None:
    (contrast,) = curating.extremes(carry=("score",))([slate([0.2, 0.9])], random.Random(0))
    assert contrast.values == {"score": (0.9, 0.2)}
    assert curating.make("extremes", carry="score gold") == curating.extremes(carry=("score", "gold"))


def test_only_finished_responses_are_compared() -> None:
    tree = Slate("p", (Candidate("a"), Candidate("b", parent=0), Candidate("c", parent=0)))
    judged = tree.with_feedback("score", scores([9.0, 0.0, 1.0]))
    assert picked(curating.extremes(), judged) == [(2, 1)]


def test_max_random_takes_the_first_that_is_not_the_best() -> None:
    assert picked(curating.max_random(), slate([0.9, 0.1, 0.5])) == [(0, 1)]
    assert picked(curating.max_random(), slate([0.1, 0.9, 0.0])) == [(1, 0)]


def test_max_max_takes_best_and_second_best() -> None:
    assert picked(curating.max_max(), slate([0.9, 0.1, 0.5])) == [(0, 2)]


def test_max_min_p_takes_a_penalty_off_for_every_character() -> None:
    texts = ["long " * 20, "short", "s"]
    assert picked(curating.max_min(), slate([1.0, 0.9, 0.0], texts)) == [(0, 2)]
    assert picked(curating.max_min_p(length_penalty=0.1), slate([1.0, 0.9, 0.0], texts)) == [(1, 0)]


def test_random_pairs_put_the_better_one_first() -> None:
    seen = {picked(curating.random_pairs(), slate([0.1, 0.5, 0.9]), seed=s)[0] for s in range(40)}
    assert seen == {(1, 0), (2, 0), (2, 1)}


def test_prompts_with_too_few_candidates_are_dropped() -> None:
    assert picked(curating.max_min(min_candidates=4), slate([0.1, 0.2, 0.3]), slate([0.1, 0.2, 0.3, 0.4])) == [(3, 0)]


def test_best_of_few_against_worst_of_few() -> None:
    assert picked(curating.best_worst_of(), slate([0.1, 0.5, 0.9])) == [(2, 0)]
    values = [float(i) for i in range(10)]
    rejected = {picked(curating.best_worst_of(worst_of=5), slate(values), seed=s)[0] for s in range(60)}
    assert {chosen for chosen, _ in rejected} == {9}
    assert min(r for _, r in rejected) == 0 and 3 <= max(r for _, r in rejected) <= 4, "the worst of 5 of 9 others"


def test_sweet_spot_is_nearest_to_mu_minus_two_sigma() -> None:
    values = [-10.0, *[0.0] * 6, 1.0, 2.0, -4.0]
    mu = sum(values) / 10
    sigma = math.sqrt(sum((v - mu) ** 2 for v in values) / 10)
    at = mu - 2 * sigma
    expected = min(range(10), key=lambda i: (abs(values[i] - at), i))
    assert picked(curating.sweet_spot(), slate([*values])) == [(8, expected)]
    # The very worst lies farther from the anchor than another response: that is what the rule is for.
    assert picked(curating.sweet_spot(rejected=-1.0), slate([*values])) == [(8, 9)]


def test_anchors_far_out_are_the_extremes() -> None:
    values = {0: 0.3, 1: 0.9, 2: -2.0}
    assert (nearest(values, 1000), nearest(values, -1000)) == (nearest(values, math.inf), nearest(values, -math.inf))


def test_one_response_near_both_anchors_gives_no_pair() -> None:
    assert picked(curating.sweet_spot(chosen=0.0, rejected=0.1), slate([0.0, 0.5, 1.0])) == []


def test_all_pairs_above_a_gap() -> None:
    assert picked(curating.all_pairs(), slate([0.0, 0.5, 0.5])) == [(1, 0), (2, 0)]
    assert picked(curating.all_pairs(min_gap=0.4), slate([0.0, 0.3, 1.0])) == [(2, 1), (2, 0)]
    assert len(picked(curating.all_pairs(limit=2), slate([0.0, 0.3, 1.0]))) == 2


def test_ranked_lists_are_best_first() -> None:
    (contrast,) = curating.ranked(carry=("score",))([slate([0.1, 0.9, 0.5])], random.Random(0))
    assert contrast.members == (1, 2, 0) and contrast.roles == (1, 0, -1)
    assert contrast.values == {"score": (0.9, 0.5, 0.1)}


def test_win_rate_pairs_bring_both_win_rates() -> None:
    from prefine.slate import table

    P = [[0.5, 0.9, 0.2], [0.1, 0.5, 0.4], [0.8, 0.6, 0.5]]
    judged = Slate("p", tuple(map(Candidate, "abc"))).with_feedback("preference", table(P))
    (contrast,) = curating.win_rate_pairs()([judged], random.Random(0))
    assert both(contrast) == (2, 1)
    win = (sum(P[2]) / 3, sum(P[1]) / 3)  # the diagonal counts
    assert contrast.values["win"] == pytest.approx(win) and contrast.values["preference"] == 0.6
    by_score = judged.with_feedback("score", scores([1.0, 0.0, 0.5]))
    (contrast,) = curating.win_rate_pairs(by="score")([by_score], random.Random(0))
    assert both(contrast) == (0, 1) and contrast.values["win"] == pytest.approx((1.6 / 3, 1.0 / 3))


def test_win_rate_pairs_skip_a_tie() -> None:
    from prefine.slate import table

    judged = Slate("p", tuple(map(Candidate, "ab"))).with_feedback("preference", table([[0.5, 0.5], [0.5, 0.5]]))
    assert list(curating.win_rate_pairs()([judged], random.Random(0))) == []


@pytest.mark.parametrize("name", curating.FACTORIES)
def test_curators_by_name(name: str) -> None:
    from prefine.fingerprint import key_of

    assert key_of(curator=curating.make(name)) == key_of(curator=curating.make(name))


def test_an_unknown_column_is_explained() -> None:
    with pytest.raises(InputError, match="no feedback column 'gold'"):
        picked(curating.extremes("gold"), slate([0.1, 0.2]))


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(InputError) as error:
        curating.find("extreme")
    assert "'extremes'" in error.value.remedy
