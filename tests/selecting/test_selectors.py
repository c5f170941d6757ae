"""Selectors: what they keep, what they see, what they cost."""

from __future__ import annotations

import math
import random
import re
import runpy
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from prefine import selecting
from prefine.errors import InputError
from prefine.judging.base import Compared, Scored, labels_given
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.selecting.confidence import Borda, UpperConfidence
from prefine.selecting.features import Doubt, Features
from prefine.selecting.margins import predictive_uncertainty
from prefine.selecting.optimal import DOptimal, Inverse, curvature, greedy, log_det
from prefine.slate import Candidate, Contrast, Feedback, Slate, pair, scores, table

RNG = random.Random(0)


def rated(name: str, *rewards: float | None, by: str = "implicit") -> Slate:
    """A slate with one response a reward."""
    slate = Slate(name, tuple(Candidate(f"{name}{i}") for i in range(len(rewards))))
    return slate.with_feedback(by, scores(rewards))


def ids(rows: Sequence[Slate | Contrast]) -> list[str]:
    return [str((row.slate if isinstance(row, Contrast) else row).prompt) for row in rows]


# --- margins --------------------------------------------------------------------------------------------------

MARGINS = {"a": 0.5, "b": 0.1, "c": 3.0, "d": 0.1, "e": 0.2}
POOL = [rated(name, 1.0 + margin, 1.0) for name, margin in MARGINS.items()]


def test_the_smallest_margins_are_kept_with_ties_to_the_first() -> None:
    assert ids(selecting.small_margin(1)(POOL, RNG)) == ["b"]
    assert ids(selecting.small_margin(2)(POOL, RNG)) == ["b", "d"]
    assert ids(selecting.small_margin("60%")(POOL, RNG)) == ["b", "d", "e"]
    assert ids(selecting.certainty(2)(POOL, RNG)) == ["a", "c"]


def test_neither_the_order_of_the_two_nor_a_constant_of_the_prompt_matters() -> None:
    other = [rated(name, 7.0 * i, 7.0 * i + margin) for i, (name, margin) in enumerate(MARGINS.items())]
    for keep in ("smallest", "largest", "middle", "tails"):
        one, two = (selecting.small_margin(3, keep=keep)(rows, RNG) for rows in (POOL, other))
        assert ids(one) == ids(two)


def test_one_pair_a_prompt_is_picked_by_its_margin() -> None:
    slate = rated("x", 0.0, 5.0, 1.5, 5.4)
    (small,), (large,) = (selecting.small_margin(1, pair=p)([slate], RNG) for p in ("smallest", "largest"))
    assert [c.text for c in small.candidates] == ["x1", "x3"]
    assert [c.text for c in large.candidates] == ["x0", "x3"]
    assert small.column("implicit") == (5.0, 5.4)


def test_equal_texts_are_no_pair_though_their_margin_is_the_smallest() -> None:
    twins = Slate("t", (Candidate("same"), Candidate("same"))).with_feedback("implicit", scores([1.0, 1.0]))
    assert ids(selecting.small_margin(1)([twins, POOL[2]], RNG)) == ["c"]
    three = Slate("t", (Candidate("same"), Candidate("same"), Candidate("other")))
    (kept,) = selecting.small_margin(1)([three.with_feedback("implicit", scores([1.0, 1.0, 9.0]))], RNG)
    assert {c.text for c in kept.candidates} == {"same", "other"}


def test_rows_of_which_nothing_is_known_come_last_and_are_not_lost() -> None:
    blank = rated("z", None, None)
    for selector in (selecting.small_margin, selecting.certainty):
        assert "z" not in ids(selector(5)([blank, *POOL], RNG))
        assert "z" in ids(selector(6)([blank, *POOL], RNG))


def test_contrasts_have_their_pair_and_keep_it() -> None:
    rows = [pair(slate, 1, 0) for slate in POOL]
    assert ids(selecting.small_margin(2)(rows, RNG)) == ["b", "d"]
    assert all(isinstance(row, Contrast) for row in selecting.certainty(1)(rows, RNG))


def test_predictive_uncertainty_is_its_equation_and_falls_with_the_margin() -> None:
    for d in (-3.0, -0.2, 0.0, 0.7, 5.0):
        assert predictive_uncertainty(d) == pytest.approx(1 - 2 * abs(1 / (1 + math.exp(-d)) - 0.5), abs=1e-12)
    margins = sorted(random.Random(1).uniform(0, 9) for _ in range(50))
    u = [predictive_uncertainty(m) for m in margins]
    assert u == sorted(u, reverse=True) and predictive_uncertainty(0) == 1


# --- budgets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "kept"), [("50%", 5), (0.3, 3), ("0.25", 3), (4, 4), ("4", 4), (99, 10), ("1%", 1)])
def test_budgets(given: str | float, kept: int) -> None:
    rows = [Slate(str(i)) for i in range(10)]
    assert len(list(selecting.at_random(given)(rows, RNG))) == kept


@pytest.mark.parametrize("given", ["", "half", "0", "-3", "150%", "2.5", 0, "1.2.3"])
def test_what_is_no_budget_is_refused(given: str | float) -> None:
    with pytest.raises(InputError, match="no budget"):
        selecting.at_random(given)


def test_a_budget_that_swallowed_the_next_selector_says_how_to_write_it() -> None:
    with pytest.raises(InputError) as error:
        selecting.read("random:budget=50%:certainty")
    assert "first(budget=50%):second" in error.value.remedy


def test_a_column_that_nobody_has_filled_names_selectors_that_need_none() -> None:
    with pytest.raises(InputError, match="nobody has said of these rows yet") as error:
        selecting.top(2)([Slate("a", (Candidate("b"), Candidate("c")))], RNG)
    assert "small-margin" in error.value.remedy


@pytest.mark.parametrize("parts", [(1, 1, 1), (3, 2, 1), (1, 2, 3), (5, 1), (1, 1, 1, 1, 1, 1, 1)])
@pytest.mark.parametrize("total", [7, 100, 101])
def test_a_budget_over_rounds_is_spent_exactly(total: int, parts: tuple[float, ...]) -> None:
    found = selecting.split(total, parts)
    assert sum(found) == total
    assert all(abs(x - total * p / sum(parts)) < 1 for x, p in zip(found, parts, strict=True))


# --- entropy --------------------------------------------------------------------------------------------------


def test_the_entropy_estimate_is_the_tables_entropy_and_high_entropies_are_kept(tmp_path: Path) -> None:
    """Three thousand samples. A reimplementation without the minus would keep "sure"."""
    run = Run(tmp_path / "r")
    spread = [[0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1]]
    Tabular.of(["open", "sure"], list("abcd"), spread).save(tmp_path / "p")
    policy = run.policy(tmp_path / "p")
    sampled = run.sample(policy, run.slates([Slate("sure"), Slate("open")]), n=3000, temperature=1.0)
    selector = selecting.entropy(1)
    seen = run.judge(sampled, selector.view(policy, policy), role="view")
    for row, p in zip(seen, ([0.7, 0.1, 0.1, 0.1], [0.25] * 4), strict=True):
        exact = -sum(x * math.log(x) for x in p)
        assert selector.value(row) == pytest.approx(exact, rel=0.06)
    assert ids(run.select(seen, selector)) == ["open"]
    assert run.labels == 0


# --- D-optimal ------------------------------------------------------------------------------------------------


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(9, 3)) * np.array([3.0, 1.0, 0.3])


def test_the_largest_gain_is_the_largest_log_det(vectors: np.ndarray) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=(3, 3))
        h = a @ a.T + 0.1 * np.eye(3)
        gains = Inverse(np.linalg.inv(h)).gain(vectors)
        dets = [np.linalg.slogdet(h + np.outer(v, v))[1] - np.linalg.slogdet(h)[1] for v in vectors]
        assert np.allclose(np.log1p(gains), dets, atol=1e-10)
        assert int(np.argmax(gains)) == int(np.argmax(dets))


def test_the_inverse_is_a_fresh_one_after_500_updates() -> None:
    rng = np.random.default_rng(0)
    v = rng.normal(size=(500, 6))
    kept = Inverse(np.eye(6) / 0.5)
    for row in v:
        kept.add(row)
    assert np.abs(kept.h_DD - np.linalg.inv(0.5 * np.eye(6) + v.T @ v)).max() < 1e-8


def test_greedy_is_greedy_and_near_the_best_subset(vectors: np.ndarray) -> None:
    gamma = 0.1
    chosen = greedy(vectors, 3, Inverse(np.eye(3) / gamma))
    for step in range(3):  # every step against all it could have taken
        before = chosen[:step]
        best = max((i for i in range(9) if i not in before), key=lambda i: log_det(vectors, [*before, i], gamma))
        assert chosen[step] == best
    empty = 3 * math.log(gamma)
    best = max(log_det(vectors, c, gamma) for c in combinations(range(9), 3))
    assert log_det(vectors, chosen, gamma) - empty >= (1 - 1 / math.e) * (best - empty)  # submodular


def test_of_one_owner_at_most_one_is_taken(vectors: np.ndarray) -> None:
    owner = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    chosen = greedy(vectors, 9, Inverse(np.eye(3)), owner_N=owner)
    assert sorted(owner[chosen]) == [0, 1, 2]


def test_curvature_squared_is_the_second_derivative_of_the_logistic_loss() -> None:
    for beta, d in ((1.0, 0.0), (0.1, 3.0), (2.0, -1.3)):
        x = torch.tensor(d, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(-torch.nn.functional.logsigmoid(beta * x), x, create_graph=True)
        (second,) = torch.autograd.grad(first, x)
        assert curvature(beta, d) ** 2 == pytest.approx(second.item(), rel=1e-12)


def described(name: str, first: Sequence[float], second: Sequence[float], rewards: tuple[float, float]) -> Slate:
    slate = rated(name, *rewards)
    return slate.with_feedback("features", Feedback("vector", (tuple(first), tuple(second))))


def test_d_optimal_weighs_what_the_policy_knows_already_and_apo_does_not() -> None:
    sure = described("sure", [2.0, 0.0], [0.0, 0.0], (20.0, 0.0))
    open_ = described("open", [0.0, 1.0], [0.0, 0.0], (0.0, 0.0))
    assert ids(selecting.d_optimal(1, beta=1.0)([sure, open_], RNG)) == ["open"]
    assert ids(selecting.d_optimal(1, weighted=False)([sure, open_], RNG)) == ["sure"]


def test_without_weights_the_choice_is_apos_for_even_policies() -> None:
    """mu (1 - mu) constant and beta = 1: only the scale of v is another, so gamma scales along."""
    rng = np.random.default_rng(1)
    rows = [described(str(i), rng.normal(size=3), rng.normal(size=3), (0.0, 0.0)) for i in range(30)]
    weighted = DOptimal(selecting.Budget.read(8), 1.0, 0.25 * 0.01, True, None)
    plain = DOptimal(selecting.Budget.read(8), 1.0, 0.01, False, None)
    assert ids(weighted(rows, RNG)) == ids(plain(rows, RNG))


def test_d_optimal_goes_on_from_what_was_taken() -> None:
    rng = np.random.default_rng(2)
    rows = [described(str(i), rng.normal(size=3), rng.normal(size=3), (0.0, rng.normal())) for i in range(30)]
    once = DOptimal(selecting.Budget.read(10), subset=None)
    first = DOptimal(selecting.Budget.read(4), subset=None)(rows, RNG)
    left = list(selecting.Remaining()(rows, first, RNG))
    assert len(left) == 26
    second = DOptimal(selecting.Budget.read(6), subset=None)(left, first, RNG)
    assert sorted(ids([*first, *second])) == sorted(ids(once(rows, RNG)))


# --- confidence bounds ----------------------------------------------------------------------------------------


def bounded(name: str, m: Sequence[float], s: Sequence[float], g: Sequence[float], roles: Sequence[str] = ()) -> Slate:
    roles = roles or ["current"] * len(m)
    said = tuple(Candidate(f"{name}{i}", origin={"role": role}) for i, role in enumerate(roles))
    return Slate(name, said, {"mean": scores(m), "deviation": scores(s), "base": scores(g)})


def test_no_doubt_no_acquisition() -> None:
    m, g = np.array([0.3, -2.0, 1.0]), np.array([0.1, 0.2, 4.0])
    assert UpperConfidence(selecting.Budget.read(1)).value(m, np.zeros(3), g) == 0
    upper, lower = Borda(selecting.Budget.read(1)).bounds(m, np.zeros(3), g, [0, 1], [2])
    assert np.array_equal(upper, lower)


def test_equal_doubt_and_one_maximiser_give_twice_its_width() -> None:
    value = UpperConfidence(selecting.Budget.read(1), width=3.0).value(
        np.array([5.0, 1.0]), np.array([0.4, 0.4]), np.array([1.0, 1.0])
    )
    assert value == pytest.approx(2 * 3.0 * 0.4)


def test_borda_values_are_their_equation() -> None:
    rng = np.random.default_rng(0)
    m, s, g = rng.normal(size=(3, 5))
    s, beta, c = abs(s), 0.7, 1.5
    own, others = [0, 2, 4], [1, 3]
    upper, lower = Borda(selecting.Budget.read(1), c, beta=beta).bounds(m, s, g, own, others)
    for n, i in enumerate(own):
        optimistic = [
            1 / (1 + math.exp(beta * ((g[i] - (m[i] + c * s[i])) + ((m[j] - c * s[j]) - g[j])))) for j in others
        ]
        pessimistic = [
            1 / (1 + math.exp(beta * ((g[i] - (m[i] - c * s[i])) + ((m[j] + c * s[j]) - g[j])))) for j in others
        ]
        assert upper[n] == pytest.approx(np.mean(optimistic)) and lower[n] == pytest.approx(np.mean(pessimistic))
    flat, same = Borda(selecting.Budget.read(1), 0.0, beta=beta).bounds(m, s, g, own, others)
    d = m - g
    expected = [np.mean([1 / (1 + math.exp(-beta * (d[i] - d[j]))) for j in others]) for i in own]
    assert np.allclose(flat, expected) and np.allclose(same, expected)


def test_borda_keeps_the_most_open_prompt_with_its_best_response_and_a_rival() -> None:
    roles = ["current", "current", "reference", "reference"]
    shut = bounded("shut", [1, 0, 0, 0], [0.1] * 4, [0] * 4, roles)
    wide = bounded("wide", [0, 1, 0, 0], [3.0] * 4, [0] * 4, roles)
    (kept,) = Borda(selecting.Budget.read(1), beta=1.0)([shut, wide], RNG)
    assert kept.prompt == "wide" and kept.candidates[0].text == "wide1"
    assert kept.candidates[1].origin["role"] == "reference"
    with pytest.raises(InputError, match="0 of the reference") as error:
        Borda(selecting.Budget.read(1))([bounded("x", [0, 1], [1, 1], [0, 0])], RNG)
    remedy = error.value.remedy
    named = re.search(r"\((.*?)\)", remedy)
    assert named and set(named[1].split(", ")) <= set(selecting.FACTORIES) and "prefine run ae-dpo" in remedy


# --- what is seen of models -----------------------------------------------------------------------------------


def test_features_and_doubt_of_a_log_linear_table() -> None:
    rng = np.random.default_rng(0)
    phi, theta = rng.normal(size=(2, 3, 4)), rng.normal(size=4)
    policy = Tabular(["x", "y"], ["a", "b", "c"], features_PAD=phi, theta_D=theta)
    slates = [Slate("y", (Candidate("c"), Candidate("a"))), Slate("x", (Candidate("b"),))]
    found = Features(policy)(slates)
    assert np.allclose(found[0]["features"].values, phi[1, [2, 0]]) and np.allclose(
        found[1]["features"].values, phi[0, [1]]
    )
    none = Doubt(policy, policy, draws=3, rate=0.0)(slates)[0]
    logp = policy.logp_PA().detach().numpy()[1, [2, 0]]
    assert np.allclose(none["mean"].values, logp) and np.allclose(none["base"].values, logp)
    assert np.allclose(none["deviation"].values, 0)
    some = Doubt(policy, policy, draws=400, rate=0.3)
    assert some(slates) == some(slates), "the same slates, the same dropout"
    assert all(s > 0.1 for s in some(slates)[0]["deviation"].values)


def test_a_language_model_is_looked_into_in_batches(tmp_path: Path) -> None:
    """Without dropout its numbers are the ones that scoring gives; its features the mean of its states."""
    from prefine.engine.score import score_contrasts
    from prefine.judging.models import everyone
    from prefine.policies import CausalLM
    from prefine.policies.base import Limits

    tiny = runpy.run_path(str(Path(__file__).parents[1] / "cli" / "tiny.py"))
    policy = CausalLM.load(tiny["make_model"](tmp_path / "m"))
    slates = [Slate("ab", (Candidate("c"), Candidate("dea"))), Slate("b", (Candidate("ab"),)), Slate("a", ())]
    none = Doubt(policy, policy, draws=2, rate=0.0)(slates)
    for slate, found in zip(slates[:2], none, strict=False):
        logps = score_contrasts(policy, [everyone(slate)], Limits())[0]
        assert np.allclose(found["mean"].values, [x.sum() for x in logps], atol=1e-5)
        assert np.allclose(found["base"].values, [x.sum() for x in logps], atol=1e-5)
    assert none[2]["mean"].values == ()
    thin = Doubt(policy, policy, draws=8, rate=0.2)(slates[:2])
    assert all(s > 0 for found in thin for s in found["deviation"].values)


def test_a_plain_table_has_a_feature_a_cell() -> None:
    policy = Tabular(["x", "y"], ["a", "b", "c"], np.arange(6.0).reshape(2, 3))
    base, features, theta = policy.module.linear()  # type: ignore[operator]
    assert torch.equal((base + features @ theta).detach(), policy.module.logits_PA.detach())  # type: ignore[arg-type]
    ((row,),) = [x["features"].values for x in Features(policy)([Slate("y", (Candidate("b"),))])]
    assert row == (0, 0, 0, 0, 1, 0)


def test_long_features_are_projected_alike_for_everybody() -> None:
    policy = Tabular(["x"], [str(i) for i in range(50)])
    many = Slate("x", tuple(Candidate(str(i)) for i in range(50)))
    (found,) = Features(policy, dimensions=20)([many])
    x = np.array(found["features"].values)
    assert x.shape == (50, 20)
    assert abs((x**2).sum(1).mean() - 1) < 0.15  # lengths are kept on average
    assert np.allclose(np.array(Features(policy, dimensions=20)([many.take([7])])[0]["features"].values)[0], x[7])


# --- the verb -------------------------------------------------------------------------------------------------


def two(n: int) -> list[Slate]:
    return [Slate(f"p{i}", (Candidate("a"), Candidate("b"))) for i in range(n)]


def test_what_is_selected_away_is_never_judged_and_labels_are_counted(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    oracle = Scored(lambda slate: [1.0, 0.0])
    kept = run.select(run.slates(two(10)), selecting.at_random("30%"))
    assert run.store.manifest(kept.key)["figures"] == {"from": 10, "kept": 3}
    judged = run.judge(kept, oracle)
    assert ids(list(judged)) == ids(list(kept)) and run.labels == 6
    run.judge(kept, oracle)  # asked already
    assert run.labels == 6
    run.judge(judged, Scored(lambda slate: [0.0, 0.0], "seen"), role="view")
    assert run.labels == 6
    run.judge(kept, Compared(lambda slate: [[0.5, 1.0], [0.0, 0.5]]))
    assert run.labels == 9, "one for each pair compared"


def test_random_choice_depends_on_seed_and_round_and_nothing_else(tmp_path: Path) -> None:
    def picked(name: str, seed: int, rounds: int = 1) -> list[list[str]]:
        run = Run(tmp_path / name, seed=seed, store=tmp_path / name / "store")
        pool = run.slates(two(40))
        return [ids(list(run.select(pool, selecting.at_random(10)))) for _ in run.rounds(rounds)]

    first = picked("a", 0, 2)
    assert first == picked("b", 0, 2) and first[0] != first[1] and first[0] != picked("c", 1)[0]


def test_contrasts_are_selected_and_seen_too(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    Tabular([f"p{i}" for i in range(6)], ["a", "b"], np.arange(12.0).reshape(6, 2) ** 2 / 9).save(tmp_path / "p")
    Tabular.uniform([f"p{i}" for i in range(6)], ["a", "b"]).save(tmp_path / "q")
    policy, reference = run.policy(tmp_path / "p"), run.policy(tmp_path / "q")
    pairs = run.curate(run.slates(two(6)), lambda slates, rng: [pair(s, 1, 0) for s in slates])
    kept = selecting.chosen(run, pairs, selecting.small_margin(2), policy, reference)
    assert type(kept) is type(pairs) and ids(list(kept)) == ["p0", "p1"]  # margins grow with the number
    assert run.labels == 0
    left = run.select((pairs, kept), selecting.Remaining())
    assert ids(list(left)) == ["p2", "p3", "p4", "p5"]


def test_while_the_policy_is_its_reference_margins_say_nothing_and_choice_is_random(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    Tabular([f"p{i}" for i in range(20)], ["a", "b"], np.arange(40.0).reshape(20, 2)).save(tmp_path / "p")
    policy = run.policy(tmp_path / "p")
    pool = run.slates(two(20))
    kept = ids(list(selecting.chosen(run, pool, selecting.small_margin(5), policy, policy)))
    assert len(kept) == 5 and kept != [f"p{i}" for i in range(5)]
    both = selecting.read("entropy(budget=10):certainty(budget=50%)")
    assert len(selecting.chosen(run, pool, both, policy, policy)) == 5


def test_keeping_nothing_is_said(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    with pytest.raises(InputError, match="kept none of 3 rows"):
        run.select(run.slates(two(3)), lambda rows, rng: [])


def test_everything_is_no_selection(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    pool = run.slates(two(3))
    assert selecting.chosen(run, pool, selecting.read("all"), None, None) is pool  # type: ignore[arg-type]


# --- by name --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", selecting.FACTORIES)
def test_every_selector_can_be_made_by_name(name: str) -> None:
    assert callable(selecting.read(name))


def test_texts_and_mappings_say_the_same() -> None:
    text = selecting.read("entropy(budget=50%):small-margin:budget=10,pair=random")
    assert text == selecting.read(
        {"entropy": {"budget": "50%", "of": {"small-margin": {"budget": 10, "pair": "random"}}}}
    )


@pytest.mark.parametrize(
    "text", ["smallest", "random:share=3", "random(budget=0)", "top(of=median)", "small-margin(keep=odd)"]
)
def test_what_cannot_be_made_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        selecting.read(text)


def test_labels_of_tables_are_pairs_and_of_columns_values() -> None:
    slate = Slate("x", tuple(Candidate(c) for c in "abcd"))
    meter = labels_given([slate.with_feedback("t", table([[0.5] * 4] * 4))], {})
    assert (meter["labels"], meter["abstained"], meter["comparisons"]) == (6, 0, 6)
    graded = slate.with_feedback("score", scores([1.0, None, 2.0, None])).with_feedback("read", scores([3] * 4))
    assert labels_given([graded, graded], {}) == {"labels": 4, "abstained": 4}
    assert not any(labels_given([graded], {"score", "read"}).values())
