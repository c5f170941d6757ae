"""Pairs from checks and votes: the rule tables of 028 and the hand-made answer lists of 069."""

from __future__ import annotations

import itertools
import random

import pytest

from prefine import curating, judging
from prefine.curating.verified import VerifiedPairs
from prefine.slate import Candidate, Slate, scores


def verified(levels: list[int], lengths: list[int]) -> Slate:
    """Responses with verdicts and token lengths."""
    candidates = tuple(Candidate(f"r{i}", tokens=tuple(range(n))) for i, n in enumerate(lengths))
    return Slate("p", candidates).with_feedback("verified", scores(levels))


def allowed(levels: list[int], lengths: list[int], limit: int) -> tuple[set[int], set[int]]:
    """(possible chosen, possible rejected) by rules 3 and 4, in the words of the paper's procedure."""
    right = [i for i, v in enumerate(levels) if v == 1]
    wrong = [i for i, v in enumerate(levels) if v == 0]
    malformed = {i for i, v in enumerate(levels) if v == -1}
    if right:
        below = [i for i in right if lengths[i] < limit]
        longest = max(lengths[i] for i in (below or right))
        chosen = {i for i in (below or right) if lengths[i] == longest}
    elif wrong:
        chosen = {i for i in wrong if lengths[i] == max(lengths[j] for j in wrong)}
    else:
        return set(), set()
    if malformed:
        return chosen, malformed
    if right and wrong:
        return chosen, set(wrong)
    if not right and len(wrong) >= 2:
        return chosen, set(wrong)  # less the chosen one itself
    return set(), set()


@pytest.mark.parametrize("limit", [5, 2048])
def test_every_combination_of_eight_verdicts(limit: int) -> None:
    """All multisets of 8 verdicts, each in several orders, with random lengths."""
    rng = random.Random(limit)
    curator = VerifiedPairs(max_tokens=limit)
    for combination in itertools.combinations_with_replacement([1, 0, -1], 8):
        for _ in range(10):
            levels = rng.sample(combination, 8)
            lengths = [rng.randint(1, 9) for _ in range(8)]
            found = curator.pick(verified(levels, lengths), rng)
            chosen, rejected = allowed(levels, lengths, limit)
            if not chosen or not rejected:
                assert found is None
                continue
            assert found is not None and found[0] in chosen and found[1] in rejected - {found[0]}
            assert levels[found[0]] >= levels[found[1]]
            assert levels[found[0]] > levels[found[1]] or set(levels) == {0}, "equal only when all are 0"


@pytest.mark.parametrize("levels", [[-1, -1, -1], [1, 1, 1], [1], [0], [-1]])
def test_slates_without_a_lesson_are_skipped(levels: list[int]) -> None:
    assert list(curating.verified_pairs()([verified(levels, [3] * len(levels))], random.Random(0))) == []


def test_the_rejected_one_is_random() -> None:
    rejected = {
        contrast.members[1]
        for seed in range(40)
        for contrast in curating.verified_pairs()([verified([1, -1, -1, 0, -1], [1] * 5)], random.Random(seed))
    }
    assert rejected == {1, 2, 4}


def test_the_longest_right_answer_below_the_limit_is_chosen() -> None:
    def chosen(limit: int) -> int:
        slate = verified([1, 1, 1, -1], [3, 8, 5, 1])
        (contrast,) = curating.verified_pairs(max_tokens=limit)([slate], random.Random(0))
        return contrast.members[0]

    assert chosen(2048) == 1
    assert chosen(8) == 2, "8 tokens are not below 8"
    assert chosen(2) == 1, "none is below: the longest"


# -- 069: votes and weights


def voted(answers: list[str], roles: list[str] | None = None, voters: str | None = None) -> Slate:
    roles = roles or ["current"] * len(answers)
    candidates = tuple(
        Candidate(f"so #### {a}" if a else "no idea", origin={"role": r}) for a, r in zip(answers, roles)
    )
    slate = Slate("p", candidates)
    (columns,) = judging.votes("####", voters)([slate])
    for name, column in columns.items():
        slate = slate.with_feedback(name, column)
    return slate


def test_votes_count_equal_final_answers() -> None:
    slate = voted(["4", "5", "4.0", "", "4"])
    assert slate.column("votes") == (3.0, 1.0, 3.0, 0.0, 3.0)
    assert slate.column("answer") == ("4", "5", "4", None, "4")


def pairs_of(slate: Slate, tau: float, voters: str | None = None, seed: int = 0) -> list[tuple[int, int, float]]:
    found = curating.vote_pairs(tau, voters=voters)([slate], random.Random(seed))
    return [(c.members[0], c.members[1], float(c.values["weight"])) for c in found]  # type: ignore[arg-type]


def test_most_against_least_voted_with_the_margin_as_weight() -> None:
    ((chosen, rejected, weight),) = pairs_of(voted(["4", "4", "5", "4", "6", "5", "4", "4"]), 0.5)
    assert chosen in (0, 1, 3, 6, 7) and rejected == 4 and weight == (5 - 1) / 8


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_all_equal_votes_give_no_pair(tau: float) -> None:
    assert pairs_of(voted(["4"] * 8), tau) == []


def test_all_different_answers_are_dropped_above_one_vote_in_k() -> None:
    slate = voted([str(i) for i in range(8)])
    assert slate.column("votes") == (1.0,) * 8
    assert pairs_of(slate, 0.2) == [] and pairs_of(slate, 0.0) == [], "and below it their weight is 0"


@pytest.mark.parametrize(("tau", "kept"), [(0.5, True), (0.625, True), (0.626, False), (0.7, False)])
def test_the_threshold_is_a_share_of_k(tau: float, kept: bool) -> None:
    assert bool(pairs_of(voted(["4"] * 5 + ["5"] * 3), tau)) is kept


def test_a_threshold_that_floating_point_would_miss() -> None:
    assert pairs_of(voted(["4"] * 7 + ["5"] * 3), 0.7), "0.7 * 10 is a little more than 7"


def test_extra_samples_are_measured_by_the_voters_and_do_not_vote() -> None:
    answers = ["4", "4", "4", "5", *["9"] * 4]
    slate = voted(answers, ["voter"] * 4 + ["extra"] * 4, voters="voter")
    assert slate.column("votes") == (3.0, 3.0, 3.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    ((chosen, rejected, weight),) = pairs_of(slate, 0.7, voters="voter")
    assert chosen < 3 and rejected >= 4 and weight == 3 / 4


def test_concentrated_keeps_problems_whose_votes_agree() -> None:
    slates = [voted(["4"] * 5 + ["5"] * 3), voted(["4"] * 3 + ["5"] * 3 + ["6"] * 2)]
    assert list(curating.concentrated(0.5)(slates)) == slates[:1]


def test_correct_pairs_weigh_one() -> None:
    (contrast,) = curating.correct_pairs()([verified([0, 1, -1], [1, 1, 1])], random.Random(0))
    assert contrast.members[0] == 1 and contrast.values == {"weight": 1.0}
    assert list(curating.correct_pairs()([verified([1, 1], [1, 1])], random.Random(0))) == []
