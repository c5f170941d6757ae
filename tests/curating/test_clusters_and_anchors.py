"""Clusters, medoids, representative subsets, covering negatives, and anchors: against brute force and known numbers."""

from __future__ import annotations

import math
import random
from itertools import combinations, product

import numpy as np
import pytest

from prefine.curating.clustering import cover_cost, k_means, k_medoids, representative, spread_within, worth
from prefine.curating.covering import SELECTS, covering
from prefine.curating.extremes import ANCHORS, BestWorstOf, nearest, pairings
from prefine.curating.vectors import cosine, distances, vectors
from prefine.errors import InputError
from prefine.slate import Candidate, Feedback, Slate, scores


def points(seed: int, n: int, d: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


# -- clusters


def cost_by_hand(d: np.ndarray, w: np.ndarray, chosen: tuple[int, ...]) -> float:
    return math.fsum(w[i] * min(d[i][j] for j in chosen) for i in range(len(d)))


def test_k_medoids_is_the_best_of_all_subsets_where_there_are_few() -> None:
    for seed in range(20):
        d, w = distances(points(seed, 9)), np.random.default_rng(seed + 100).uniform(0.1, 3, size=9)
        best = min(cost_by_hand(d, w, s) for s in combinations(range(9), 3))
        assert cost_by_hand(d, w, tuple(k_medoids(d, 3, w))) == pytest.approx(best, rel=1e-12)


def test_local_search_is_within_five_times_the_optimum_and_mostly_at_it() -> None:
    close, cases = 0, 200
    for seed in range(cases):
        d, w = distances(points(seed, 10)), np.random.default_rng(seed + 500).uniform(0.1, 3, size=10)
        best = min(cover_cost(d, w, list(s)) for s in combinations(range(10), 3))
        found = k_medoids(d, 3, w, exact=0)
        assert len(set(found)) == 3
        cost = cover_cost(d, w, found)
        assert best - 1e-9 <= cost <= 5 * best
        close += cost <= 1.05 * best
    assert close >= 0.9 * cases


def test_k_means_finds_the_best_partition_of_few_points() -> None:
    hits = 0
    for seed in range(12):
        x = points(seed, 7)
        best = min(spread_within(x, np.array(p)) for p in product(range(2), repeat=7) if len(set(p)) == 2)
        hits += spread_within(x, k_means(x, 2, random.Random(seed))) <= best + 1e-9
    assert hits >= 11


def test_k_means_is_the_same_for_the_same_random_source_and_bears_equal_points() -> None:
    x = points(3, 12)
    assert (k_means(x, 4, random.Random(1)) == k_means(x, 4, random.Random(1))).all()
    assert set(k_means(np.zeros((5, 2)), 3, random.Random(0))) == {0}


# -- representative subsets (AEPO)


def f_by_hand(M: np.ndarray, chosen: tuple[int, ...], lam: float) -> float:
    N, k = len(M), len(chosen)
    standing = math.fsum(M[i][j] for i in chosen for j in range(N) if j != i) / ((N - 1) * k)
    alike = math.fsum(M[i][j] for i in chosen for j in chosen if j != i) / (k * (k - 1))
    return standing - lam * alike


def test_the_worth_of_a_subset_is_the_equation_without_the_diagonal() -> None:
    M = cosine(points(0, 6, 3))
    for chosen in combinations(range(6), 3):
        assert worth(M, list(chosen), 0.7) == pytest.approx(f_by_hand(M, chosen, 0.7), abs=1e-11)
        # the released code's first evaluation still has the diagonal: it would say something else
        assert worth(M + np.eye(6), list(chosen), 0.7) == worth(M, list(chosen), 0.7)


def similarities(seed: int) -> np.ndarray:
    """A random positive semi-definite matrix of 8 to 10."""
    x = points(seed, 8 + seed % 3, 12)
    return x @ x.T / 12


@pytest.mark.parametrize("k", [2, 3])
def test_few_subsets_are_all_tried_and_swaps_never_lose_what_greedy_found(k: int) -> None:
    better = 0
    for seed in range(40):
        M = similarities(seed)
        best = max(f_by_hand(M, s, 1.0) for s in combinations(range(len(M)), k))
        assert f_by_hand(M, tuple(representative(M, k, 1.0, random.Random(0))), 1.0) == pytest.approx(best, abs=1e-11)
        greedy, swapped = (representative(M, k, 1.0, random.Random(seed), n, exact=0) for n in (0, 20))
        assert len(set(greedy)) == len(set(swapped)) == k
        gain = f_by_hand(M, tuple(swapped), 1.0) - f_by_hand(M, tuple(greedy), 1.0)
        assert gain >= -1e-11 and f_by_hand(M, tuple(swapped), 1.0) <= best + 1e-11
        better += gain > 1e-9
    assert better > 0


def test_without_diversity_the_highest_row_sums_and_with_nothing_else_the_least_alike() -> None:
    M = cosine(points(5, 9, 3))
    rows = (M - np.eye(9)).sum(1)
    assert representative(M, 3, 0.0, random.Random(0)) == sorted(np.argsort(-rows)[:3].tolist())
    i, j = representative(M, 2, 1e6, random.Random(0))
    assert M[i, j] == pytest.approx(min(M[a, b] for a, b in combinations(range(9), 2)))


# -- covering negatives (AMPO)


def judged(texts: list[str], values: list[float]) -> Slate:
    return Slate("?", tuple(map(Candidate, texts))).with_feedback("score", scores(values))


TEXTS = ["fine", "wrong wrong answer one", "wrong wrong answer two", "rude rude word a", "rude rude word b", "dodge"]
VALUES = [2.0, -1.0, -0.9, -0.6, -0.5, 0.5]


def test_the_lowest_are_of_one_kind_and_covers_are_of_several() -> None:
    def taken(select: str) -> list[int]:
        (contrast,) = covering(select, k=2)([judged(TEXTS, VALUES)], random.Random(0))
        assert contrast.roles == (1, -1, -1) and contrast.members[0] == 0
        assert contrast.values["score"] == tuple(VALUES[i] for i in contrast.members)
        assert contrast.values["mean_score"] == pytest.approx(sum(VALUES) / 6)
        return list(contrast.members[1:])

    assert taken("bottom-k") == [1, 2]
    assert {1, 2} & set(taken("opt-select")) and {3, 4} & set(taken("opt-select"))
    assert 1 in taken("coreset") and 2 not in taken("coreset")


def test_with_room_for_all_every_selection_is_the_same() -> None:
    members = {
        (c.members, c.roles) for s in SELECTS for c in covering(s, k=5)([judged(TEXTS, VALUES)], random.Random(2))
    }
    assert members == {((0, 1, 2, 3, 4, 5), (1, -1, -1, -1, -1, -1))}


@pytest.mark.parametrize("select", SELECTS)
def test_equal_texts_and_equal_scores_are_borne(select: str) -> None:
    (contrast,) = covering(select, k=3)([judged(["a"] * 5, [1.0, 0.0, 0.0, 0.0, 0.0])], random.Random(0))
    assert len(set(contrast.members)) == 4
    assert list(covering(select, k=3)([judged(["a", "b"], [1.0, 1.0])], random.Random(0))) == []


def test_vectors_by_name() -> None:
    slate = judged(TEXTS, VALUES)
    near = cosine(vectors("words")(slate))
    assert near[1, 2] > near[1, 3] and near[3, 4] > near[0, 4]
    with pytest.raises(InputError, match="not of responses"):
        vectors("given")
    with pytest.raises(InputError, match="no embedder"):
        vectors("nowhere")


def test_hidden_states_are_read_from_their_column() -> None:
    slate = judged(["a", "b"], [0.0, 1.0])
    with pytest.raises(InputError, match="has no column 'features'"):
        vectors("states")(slate)
    seen = slate.with_feedback("features", Feedback("vector", ((1.0, 0.0), (0.0, 2.0))))
    assert vectors("states")(seen).tolist() == [[1.0, 0.0], [0.0, 2.0]]


# -- anchors (the sweet spot)


def test_nearest_to_mu_minus_two_sigma_of_many_draws() -> None:
    drawn = np.random.default_rng(0).normal(3.0, 2.0, size=100_000)
    values = dict(enumerate(drawn.tolist()))
    at = nearest(values, -2.0)
    assert values[at] == pytest.approx(drawn.mean() - 2 * drawn.std(), abs=0.01 * 2.0)
    assert nearest(values, math.inf) == int(drawn.argmax()) and nearest(values, -math.inf) == int(drawn.argmin())


def test_the_released_names_for_the_extremes_are_the_extremes() -> None:
    values = dict(enumerate(np.random.default_rng(1).normal(size=50).tolist()))
    assert nearest(values, 1000.0) == nearest(values, math.inf)
    assert nearest(values, -1000.0) == nearest(values, -math.inf)


def test_there_are_21_pairs_of_anchors_each_the_right_way_round() -> None:
    assert len(set(pairings())) == 21
    assert all(ANCHORS[high] > ANCHORS[low] for high, low in pairings())


def test_the_worst_of_five_does_not_fall_with_n_and_the_chosen_is_the_best_of_all() -> None:
    worst = {}
    for n in (5, 50, 200):
        rng, draws = random.Random(n), np.random.default_rng(n)
        low = []
        for _ in range(4000):
            x = draws.normal(size=n)
            values = dict(enumerate(x.tolist()))
            picked = BestWorstOf(None, 5)(values, rng)
            assert picked is not None and picked[0] == int(x.argmax()) and picked[0] != picked[1]
            low.append(values[picked[1]])
        worst[n] = float(np.mean(low))
    assert all(abs(value + 1.16296) < 0.04 for value in worst.values()), worst  # sigma/sqrt(4000) = 0.011


def test_where_the_best_is_all_that_was_drawn_another_is_rejected() -> None:
    values = {0: 1.0, 1: 0.0}
    assert {BestWorstOf(None, 1)(values, random.Random(s)) for s in range(20)} == {(0, 1)}
