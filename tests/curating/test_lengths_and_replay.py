"""085: the length penalty found on the corpus, the filters before it, and the replay of offline pairs."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from prefine import curating
from prefine.curating.lengths import balanced_penalty, mean_gap
from prefine.errors import InputError
from prefine.slate import Candidate, Contrast, Slate, pair, scores

Corpus = list[tuple[dict[int, float], dict[int, int]]]


def corpus(*prompts: Sequence[tuple[float, int]]) -> Corpus:
    """(reward, length) of every response of every prompt."""
    return [({i: r for i, (r, _) in enumerate(p)}, {i: n for i, (_, n) in enumerate(p)}) for p in prompts]


def gap_by_hand(alpha: float, prompts: Sequence[Sequence[tuple[float, int]]]) -> float:
    total = 0
    for prompt in prompts:
        adjusted = [r - alpha * n for r, n in prompt]
        total += prompt[adjusted.index(max(adjusted))][1] - prompt[adjusted.index(min(adjusted))][1]
    return total / len(prompts)


def hand_made(seed: int) -> list[list[tuple[float, int]]]:
    """Rewards that grow with the length, plus noise."""
    rng = random.Random(seed)
    lengths = [[rng.randint(10, 200) for _ in range(8)] for _ in range(30)]
    return [[(0.05 * n + rng.gauss(0, 1), n) for n in row] for row in lengths]


@pytest.mark.parametrize("seed", range(5))
def test_the_search_stops_one_step_after_the_first_increase(seed: int) -> None:
    prompts = hand_made(seed)
    smallest, at, visited = float("inf"), 0.0, 0
    for n in range(1000):
        visited = n
        gap = abs(gap_by_hand(n * 0.001, prompts))
        if gap > smallest:
            break
        if gap < smallest:
            smallest, at = gap, n * 0.001
    assert balanced_penalty(corpus(*prompts)) == at > 0
    assert visited < 999, "the sweep ended by itself"


def test_the_gap_is_much_smaller_at_the_penalty_found() -> None:
    prompts = hand_made(1)
    found = balanced_penalty(corpus(*prompts))
    assert abs(mean_gap(found, corpus(*prompts))) <= 0.2 * abs(mean_gap(0.0, corpus(*prompts)))


def test_without_a_length_bias_the_penalty_is_zero() -> None:
    assert balanced_penalty(corpus([(1.0, 50), (0.0, 50)], [(0.3, 20), (0.2, 20)])) == 0.0


def slate(prompt: str, rows: Sequence[tuple[float, int, str]]) -> Slate:
    candidates = tuple(Candidate("x" * n, stop=stop) for _, n, stop in rows)
    return Slate(prompt, candidates).with_feedback("score", scores([r for r, _, _ in rows]))


def test_cut_too_short_and_too_long_responses_are_dropped() -> None:
    rows = [(9.0, 50, "length"), (8.0, 3, "end"), (7.0, 6700, "end"), (2.0, 4, "end"), (1.0, 6699, "end")]
    rows += [(1.5, 10, "end")] * 6
    (contrast,) = curating.length_balanced(alpha=0.0)([slate("p", rows)], random.Random(0))
    assert contrast.members == (3, 4), "the interval is open at both ends"


@pytest.mark.parametrize(("survivors", "pairs"), [(7, 0), (8, 1)])
def test_a_prompt_needs_eight_survivors(survivors: int, pairs: int) -> None:
    rows = [(float(i), 10, "end") for i in range(survivors)] + [(99.0, 10, "length")]
    assert len(list(curating.length_balanced()([slate("p", rows)], random.Random(0)))) == pairs


def test_the_pair_is_best_against_worst_after_the_penalty() -> None:
    rows = [(1.0, 100, "end"), (0.9, 10, "end"), (0.0, 12, "end"), *[(0.5, 20, "end")] * 5]
    (contrast,) = curating.length_balanced(alpha=0.01)([slate("p", rows)], random.Random(0))
    assert contrast.members == (1, 2)


# -- replay


def offline(n: int) -> list[Contrast]:
    return [pair(Slate(f"prompt {i}", (Candidate("a"), Candidate("b"))), 0, 1) for i in range(n)]


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("generated", [10, 100, 400])
def test_replay_counts_follow_the_two_formulas(gamma: float, generated: int) -> None:
    n_off = 200
    n_gen = min(int(n_off * (1 - gamma)), generated)
    expected = (n_gen, int(gamma * n_gen / (1 - gamma)))
    assert curating.replay_counts(n_off, generated, gamma) == expected


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5])
def test_the_mixture_has_the_counts_and_disjoint_prompts(gamma: float) -> None:
    pool = offline(60)
    generated = [pair(c.slate, 1, 0, score=1.0) for c in pool[:40]]  # their prompts are offline prompts too
    mixed = curating.mix(generated, pool, gamma, random.Random(0))
    n_gen, n_off = curating.replay_counts(60, 40, gamma)
    assert sum(c.members == (1, 0) for c in mixed) == n_gen
    assert sum(c.members == (0, 1) for c in mixed) == min(n_off, 60 - n_gen) == n_off
    assert len({c.slate.id for c in mixed}) == len(mixed)


def test_values_that_not_all_have_are_dropped_from_a_mixture() -> None:
    mixed = curating.mix([pair(offline(1)[0].slate, 1, 0, score=1.0)], offline(5), 0.5, random.Random(0))
    assert len(mixed) == 2 and all(not c.values for c in mixed)


def test_the_mixture_depends_on_the_seed_alone() -> None:
    first, again, other = (
        [c.slate.id for c in curating.mix(offline(20), offline(40)[20:], 0.5, random.Random(seed))]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_share_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="gamma"):
        curating.replay_counts(10, 10, 1.0)


def test_length_matched_takes_the_largest_gap_among_equally_long_responses() -> None:
    words = ["a " * 20, "b " * 3, "c " * 21, "d " * 4, "e"]
    slate = Slate("x", tuple(Candidate(w.strip()) for w in words)).with_feedback(
        "score", scores([1.0, 0.0, 0.2, 0.6, 5.0])
    )
    (found,) = curating.length_matched()([slate], random.Random(0))
    assert found.members == (0, 2)  # gap 0.8; (3, 1) has 0.6; nothing is as short as the best, 4
    apart = Slate("y", (Candidate("a"), Candidate("b " * 9))).with_feedback("score", scores([1.0, 0.0]))
    assert not list(curating.length_matched()([apart], random.Random(0)))
