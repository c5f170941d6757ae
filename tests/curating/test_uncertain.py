"""Second opinions: which pairs are kept, how they are drawn, and what a round is made of."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from prefine import curating
from prefine.curating.uncertain import agreed, easy_and_hard, softness, without_replacement
from prefine.errors import InputError
from prefine.slate import Candidate, Contrast, Slate, pair, scores, table


def doubted(name: str, vote: float, bald: float) -> Contrast:
    slate = Slate(name, (Candidate("w"), Candidate("l")), meta={"id": name})
    slate = slate.with_feedback("preference_votes", table([[0.5, vote], [1 - vote, 0.5]]))
    return pair(slate.with_feedback("preference_bald", table([[0.0, bald], [bald, 0.0]])), 0, 1)


def scored(name: str, *values: float) -> Slate:
    texts = tuple(Candidate(f"{name}{i}") for i in range(len(values)))
    return Slate(name, texts, {"score": scores(values)}, {"id": name})


def test_the_pool_is_all_pairs_of_the_two_best_and_the_two_worst() -> None:
    rng = random.Random(0)
    pool = list(curating.ends_pool()([scored("a", 5, 1, 4, 2, 3, 6), scored("b", 1, 1, 0)], rng))
    named = [(c.response(0), c.response(1)) for c in pool]
    assert named[:6] == [("a5", "a0"), ("a5", "a3"), ("a5", "a1"), ("a0", "a3"), ("a0", "a1"), ("a3", "a1")]
    assert named[6:] == [("b0", "b2"), ("b1", "b2")], "no pair of equals"
    assert len(list(curating.ends_pool(share=0.25)([scored(str(i), 1, 2, 3, 4) for i in range(10)], rng))) == 15


def test_exactly_the_pairs_voted_against_are_noise() -> None:
    rows = [doubted(str(i), vote, 0.1) for i, vote in enumerate([1.0, 0.5, 0.4, 0.0, 0.6])]
    assert [c.slate.id for c in agreed(rows)] == ["0", "1", "4"]


def test_draws_follow_the_weights_one_after_the_other() -> None:
    rng, first, second = random.Random(3), Counter(), Counter()  # type: ignore[var-annotated]
    weights = [1.0, 2.0, 5.0]
    for _ in range(4000):
        a, b = without_replacement("abc", weights, 2, rng)
        first[a] += 1
        second[a + b] += 1
    assert [first[x] / 4000 for x in "abc"] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)
    assert second["cb"] / first["c"] == pytest.approx(2 / 3, abs=0.03), "the rest by the weights that are left"
    assert set(without_replacement("abcd", [0, 0, 1, 0], 3, rng)) > {"c"}
    with pytest.raises(ValueError, match="weight"):
        without_replacement("ab", [1.0, -1.0], 1, rng)


def test_easy_ones_are_certain_and_hard_ones_are_not() -> None:
    rows = [doubted(str(i), 1.0, 0.0 if i < 20 else math.log(2)) for i in range(40)]
    rng, certain = random.Random(0), {"easy": 0.0, "hard": 0.0}
    for _ in range(200):
        easy, hard = easy_and_hard(rows, 0.5, rng)
        assert len(easy) == len(hard) == 20
        certain["easy"] += sum(int(c.slate.id) < 20 for c in easy) / 4000
        certain["hard"] += sum(int(c.slate.id) < 20 for c in hard) / 4000
    assert certain["easy"] > 0.65 and certain["hard"] == 0.0
    even = [doubted(str(i), 1.0, 0.0) for i in range(40)]
    counts = Counter(c.slate.id for _ in range(500) for c in easy_and_hard(even, 0.5, rng)[0])
    assert max(counts.values()) < 310 and min(counts.values()) > 190, "without doubt the easy draw is uniform"


def test_a_round_has_its_shares_and_one_pair_a_prompt() -> None:
    mixture = curating.second_opinion()
    rows = [doubted(f"p{i}", 1.0 if i % 2 else 0.0, 0.2) for i in range(40)]
    slates = [scored(f"s{i}", 1, 2) for i in range(20)]
    offline = [pair(scored(f"o{i}", 1, 0), 0, 1) for i in range(30)]
    lessons = list(mixture(rows, slates, offline, random.Random(1)))
    kinds = Counter(c.slate.id[0] for c in lessons)
    assert kinds["o"] == 12 and kinds["s"] == 6 and 10 <= kinds["p"] <= 12
    assert len({c.slate.id for c in lessons}) == len(lessons)
    assert all(int(c.slate.id[1:]) % 2 for c in lessons if c.slate.id[0] == "p"), "what was voted against is gone"
    eps = {c.slate.id[0]: 1 - c.values["preference"] for c in lessons}  # type: ignore[operator]
    assert eps == pytest.approx({"p": 0.2 / (2 * math.log(2)), "o": 0.0, "s": 0.0})


def test_softness_is_half_at_most() -> None:
    assert softness(doubted("a", 1.0, math.log(2))) == pytest.approx(0.5) and softness(doubted("a", 1.0, 0.0)) == 0


def test_both_ways_labels_who_comes_first() -> None:
    good, bad = curating.both_ways("{first}|{second}")([pair(scored("x", 0, 1), 1, 0)], random.Random(0))
    assert (good.response(0), good.roles) == ("x1|x0", (1,)) and (bad.response(0), bad.roles) == ("x0|x1", (-1,))


@pytest.mark.parametrize("options", [{"rate": 0.6}, {"rate": 0.0}, {"hard": 1.5}])
def test_shares_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        curating.second_opinion(**options)
