"""Annotators: each is wrong in the way it says, as often as it says, and always the same way."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, sqrt

import pytest

from prefine.errors import InputError
from prefine.judging.annotators import BradleyTerry, Cyclic, LengthBiased, Majority, Noisy, Perfect, Several
from prefine.judging.base import Scored
from prefine.slate import Candidate, Slate

NUMBERS = Scored(lambda s: [float(s.response(i).split()[0]) for i in range(len(s))], "gold")
"""The true score of a response is its first word."""


def slate_of(*texts: str, name: str = "s") -> Slate:
    return Slate("p", candidates=tuple(Candidate(t) for t in texts), meta={"id": name})


def many(n: int, K: int) -> list[Slate]:
    rng = random.Random(0)
    return [slate_of(*(str(x) for x in rng.sample(range(100), K)), name=f"s{i}") for i in range(n)]


def within_binomial(hits: int, n: int, p: float) -> bool:
    """Inside four standard deviations: wrong once in 16,000 for a right rate."""
    return abs(hits - n * p) <= 4 * sqrt(n * p * (1 - p))


def test_the_perfect_annotator_says_gold() -> None:
    assert Perfect(NUMBERS)([slate_of("3", "1")])[0]["score"].values == (3.0, 1.0)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_a_noisy_pair_flips_at_the_rate(rate: float) -> None:
    slates = many(2000, 2)
    said = [c["score"].values for c in Noisy(NUMBERS, rate=rate)(slates)]
    true = [c["gold"].values for c in NUMBERS(slates)]
    flips = sum((a[0] > a[1]) != (b[0] > b[1]) for a, b in zip(said, true, strict=True))
    assert within_binomial(flips, 2000, rate)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_the_best_against_the_worst_of_eight_flips_at_the_same_rate(rate: float) -> None:
    """A curator takes the highest and the lowest score it is shown; the label is wrong at the rate."""
    slates = many(2000, 8)
    flips = 0
    for said, true in zip(Noisy(NUMBERS, rate=rate)(slates), NUMBERS(slates), strict=True):
        s, t = said["score"].values, true["gold"].values
        flips += t[s.index(max(s))] < t[s.index(min(s))]
    assert within_binomial(flips, 2000, rate)


def test_noise_only_hands_the_true_scores_out_differently() -> None:
    for slate, columns in zip(many(50, 5), Noisy(NUMBERS, rate=0.5)(many(50, 5)), strict=True):
        assert sorted(columns["score"].values) == sorted(NUMBERS([slate])[0]["gold"].values)


def test_no_noise_at_rate_zero_and_no_rate_beyond_a_half() -> None:
    slates = many(50, 4)
    assert [c["score"].values for c in Noisy(NUMBERS, rate=0.0)(slates)] == [c["gold"].values for c in NUMBERS(slates)]
    for rate in (-0.1, 0.6):
        with pytest.raises(InputError, match="cannot be wrong with a rate"):
            Noisy(NUMBERS, rate=rate)


def test_asking_again_gives_the_same_and_another_seed_something_else() -> None:
    slates = many(100, 3)
    judge = Noisy(NUMBERS, rate=0.3)
    assert judge(slates) == judge(slates) == [judge([s])[0] for s in slates]
    assert judge(slates) != replace(judge, seed=1)(slates)


def test_abstentions_of_gold_stay_abstentions() -> None:
    silent = Scored(lambda s: [None, 2.0], "gold")
    for judge in (Perfect(silent), Noisy(silent, 0.5), LengthBiased(silent)):
        assert judge([slate_of("a b", "c")])[0]["score"].values[0] is None


def test_length_bias_is_so_much_a_word() -> None:
    column = LengthBiased(NUMBERS, per_word=0.5)([slate_of("3", "1 and so on and on")])[0]["score"]
    assert column.values == pytest.approx((3 + 0.5, 1 + 0.5 * 6))


def test_several_annotators_share_the_work_and_disagree() -> None:
    slates = many(600, 2)
    against = Scored(lambda s: [-v for v in NUMBERS.function(s)], "gold")
    judge = Several((("for", NUMBERS), ("against", against)), shares=(3.0, 1.0))
    columns = judge(slates)
    for slate, c in zip(slates, columns, strict=True):
        who = c["annotator"].values
        assert c["annotator"].kind == "id" and who[0] == who[1]
        assert c["score"].values == c[f"score:{who[0]}"].values
        assert c["score:for"].values == tuple(-v for v in c["score:against"].values)
        slate.with_feedback("annotator", c["annotator"])
    assert within_binomial(sum(c["annotator"].values[0] == "for" for c in columns), 600, 0.75)


@dataclass(frozen=True)
class Ranks:
    """One member of a committee, by the order of its favourites."""

    order: str

    def __call__(self, slate: Slate) -> Sequence[float]:
        return [-float(self.order.index(slate.response(i))) for i in range(len(slate))]


def test_a_majority_can_go_round_in_a_circle() -> None:
    """Condorcet: abc, bca, cab prefer a to b, b to c and c to a, two votes to one."""
    judge = Majority(tuple(Scored(Ranks(order)) for order in ("abc", "bca", "cab")))
    columns = judge([slate_of("a", "b", "c")])[0]
    P = columns["preference"].values
    assert (P[0][1], P[1][2], P[2][0]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert all(P[i][j] + P[j][i] == pytest.approx(1) for i in range(3) for j in range(3))
    assert columns["score"].values == pytest.approx((0.5, 0.5, 0.5))


def test_a_cyclic_annotator_looks_its_table_up() -> None:
    judge = Cyclic(NUMBERS, ((0.5, 0.9, 0.2), (0.1, 0.5, 0.7), (0.8, 0.3, 0.5)))
    columns = judge([slate_of("2", "0", "0")])[0]
    assert columns["preference"].values == ((0.5, 0.8, 0.8), (0.2, 0.5, 0.5), (0.2, 0.5, 0.5))
    assert columns["score"].values == pytest.approx((0.8, 0.35, 0.35))


def test_bradley_terry_is_a_sigmoid_of_the_difference() -> None:
    P = BradleyTerry(NUMBERS, scale=0.5)([slate_of("3", "1")])[0]["preference"].values
    assert P[0][1] == pytest.approx(1 / (1 + exp(-1)))
    assert P[0][1] + P[1][0] == pytest.approx(1) and P[0][0] == P[1][1] == 0.5
    far = BradleyTerry(NUMBERS, scale=1e3)([slate_of("-90", "90")])[0]["preference"].values
    assert far[0][1] == 0.0 and far[1][0] == 1.0


def test_sampled_labels_follow_bradley_terry() -> None:
    slates = [slate_of("2", "1", name=str(i)) for i in range(2000)]
    outcomes = [c["preference"].values[0][1] for c in BradleyTerry(NUMBERS, sampled=True)(slates)]
    assert set(outcomes) == {0.0, 1.0}
    assert within_binomial(sum(o == 1.0 for o in outcomes), 2000, 1 / (1 + exp(-1)))
