"""Closed-form minimisers: what each objective converges to on an exact softmax over a few actions.

A policy is a vector of logits; a population loss weighs every pair of actions by how often it is seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from prefine import objectives as o
from prefine.objectives.scores import Objective, Scores

torch.set_num_threads(1)
F64 = torch.float64


def pair_scores(
    logits: Tensor, reference: Tensor, pairs: list[tuple[int, int]], lengths: list[int] | None = None, **values: Tensor
) -> Scores:
    """Pairs of actions as whole responses (of so many tokens, for objectives that count them)."""
    logp, w, l = logits.log_softmax(0), [a for a, _ in pairs], [b for _, b in pairs]
    ref = reference.log()
    scores = Scores.of_pairs(
        logp[w], logp[l], ref[w], ref[l],
        chosen_length=None if lengths is None else [lengths[a] for a in w],
        rejected_length=None if lengths is None else [lengths[b] for b in l],
    )  # fmt: skip
    return Scores(**{**vars(scores), "values": values})


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int = 200) -> Tensor:
    """Quasi-Newton to machine precision; gives probabilities."""
    theta = start.log().clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [theta], lr=1.0, max_iter=steps, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(theta)
        value.backward()
        return value

    for _ in range(5):
        optimiser.step(closure)  # type: ignore[arg-type]
    return theta.detach().softmax(0)


def gibbs(reference: Tensor, reward: Tensor, temperature: float) -> Tensor:
    return (reference.log() + reward / temperature).softmax(0)


def ordered_pairs(K: int) -> list[tuple[int, int]]:
    return [(i, j) for i, j in itertools.product(range(K), repeat=2) if i != j]


def simplex(seed: int, K: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(K) * 3))


# -- 114 IPO


@pytest.mark.parametrize("p", [0.5, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("tau", [0.2, 1.0])
def test_ipo_with_two_actions(p: float, tau: float) -> None:
    """(a) h* = (2p - 1)/(2 tau), from both orders of every label; DPO's gap at p = 1 has no end."""
    reference = torch.tensor([0.5, 0.5], dtype=F64)
    weights = torch.tensor([p, 1 - p], dtype=F64)
    ipo = o.weighted(o.ipo(tau, mean=False))

    def loss(theta: Tensor) -> Tensor:
        scores = pair_scores(theta, reference, [(0, 1), (1, 0)], weight=weights)
        return ipo(scores).mean(scores)

    found = minimise(loss, reference)
    assert (found[0] / found[1]).log().item() == pytest.approx((2 * p - 1) / (2 * tau), abs=1e-7)
    if p == 1.0:
        assert found[0].item() == pytest.approx(1 / (1 + math.exp(-1 / (2 * tau))), abs=1e-7)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_dpo_with_certain_labels_goes_to_the_greedy_policy(beta: float) -> None:
    """... for every beta: at a gap of 40/beta, where pi(1) is 1 to 15 digits or more, it still falls."""
    zero = torch.zeros(1, dtype=F64)
    gaps = torch.linspace(0.0, 30.0 / beta, 50, dtype=F64)
    losses = []
    for h in gaps:
        scores = Scores.of_pairs(h[None], zero, zero, zero)
        losses.append(o.dpo(beta)(scores).mean(scores).item())
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


@pytest.mark.parametrize("target", ["hard", "preference", "win"])
def test_ipo_with_three_actions(target: str) -> None:
    """(b) pi_ref exp(p(y > mu)/tau)/Z with mu uniform, from labels, from pair probabilities and from win rates."""
    tau = 0.6
    P = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=F64)
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    pairs = [(i, j) for i in range(3) for j in range(3)]
    seen = torch.tensor([float(P[i, j]) for i, j in pairs], dtype=F64)
    uniform = torch.ones(9, dtype=F64)
    win = P.mean(1)
    objective = o.weighted(o.ipo(tau, mean=False, target=target))
    weight = seen if target == "hard" else uniform  # labels come in proportion to p*

    def loss(theta: Tensor) -> Tensor:
        scores = pair_scores(
            theta, reference, pairs, weight=weight, preference=seen,
            win=torch.tensor([float(win[k]) for pair in pairs for k in pair], dtype=F64),
        )  # fmt: skip
        return objective(scores).mean(scores)

    torch.testing.assert_close(minimise(loss, reference), gibbs(reference, win, tau), rtol=0, atol=1e-6)


# -- Bradley-Terry populations: DPO (004 a, 085 c) and its length-regularised form (016)


def bradley_terry_population(objective: Objective, reward: Tensor, reference: Tensor, lengths: list[int]) -> Tensor:
    K = len(reward)
    pairs = ordered_pairs(K)
    seen = torch.sigmoid(torch.tensor([float(reward[i] - reward[j]) for i, j in pairs], dtype=F64))

    def loss(theta: Tensor) -> Tensor:
        scores = pair_scores(theta, reference, pairs, lengths, weight=seen)
        return o.weighted(objective)(scores).mean(scores)

    return minimise(loss, reference)


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.5])
def test_dpo_reaches_the_gibbs_policy(beta: float) -> None:
    """004 (a): total variation to pi_0 exp(r/beta)/Z; 085 (c): beta x log-ratio is r up to a constant."""
    reward = torch.tensor([0.3, -0.5, 1.1, 0.0], dtype=F64)
    reference = simplex(1, 4)
    found = bradley_terry_population(o.dpo(beta), reward, reference, [1, 1, 1, 1])
    assert 0.5 * (found - gibbs(reference, reward, beta)).abs().sum() < 1e-6
    implicit = beta * (found / reference).log()
    assert (implicit - reward - (implicit - reward).mean()).abs().max() < 1e-5


def test_length_regularised_reaches_the_gibbs_policy_of_the_penalised_reward() -> None:
    """016: pi_ref exp((r - alpha |y|)/beta)/Z with lengths 1, 3, 5, 9; the other sign would add the length."""
    beta, alpha, lengths = 0.8, 0.15, [1, 3, 5, 9]
    reward = torch.tensor([0.3, -0.5, 1.1, 0.2], dtype=F64)
    size = torch.tensor(lengths, dtype=F64)
    reference = simplex(2, 4)
    found = bradley_terry_population(o.length_regularised(beta, alpha), reward, reference, lengths)
    torch.testing.assert_close(found, gibbs(reference, reward - alpha * size, beta), rtol=0, atol=1e-8)
    wrong = bradley_terry_population(o.length_regularised(beta, -alpha), reward, reference, lengths)
    torch.testing.assert_close(wrong, gibbs(reference, reward + alpha * size, beta), rtol=0, atol=1e-8)


# -- 092 regularised


def three_actions(eta: float, beta: float) -> Callable[[Tensor], Tensor]:
    """pi_theta ~ exp(theta phi), phi = (0, 1, 2), uniform reference, one pair: phi = 1 over phi = 0."""
    phi = torch.arange(3, dtype=F64)
    reference = torch.full((3,), 1 / 3, dtype=F64)
    objective = o.regularised(beta, eta)

    def loss(theta: Tensor) -> Tensor:
        scores = pair_scores(theta * phi, reference, [(1, 0)])
        return objective(scores).mean(scores)

    return loss


def test_the_regulariser_keeps_the_minimiser_finite() -> None:
    """beta 1, eta 0.2: theta = 1.6744 and pi = (0.0287, 0.1533, 0.8180), where sigma(-theta) = eta (E[phi] - 1)."""
    theta = torch.zeros((), dtype=F64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )
    loss = three_actions(0.2, 1.0)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(theta)
        value.backward()
        return value

    optimiser.step(closure)  # type: ignore[arg-type]
    pi = (theta.detach() * torch.arange(3)).softmax(0)
    assert theta.item() == pytest.approx(1.6744, abs=5e-5)
    assert pi.tolist() == pytest.approx([0.0287, 0.1533, 0.8180], abs=5e-5)
    expected_phi = float((pi * torch.arange(3)).sum())
    assert torch.sigmoid(-theta).item() == pytest.approx(0.2 * (expected_phi - 1), abs=1e-8)


def test_without_the_regulariser_there_is_no_minimiser() -> None:
    loss = three_actions(0.0, 1.0)
    values = [loss(torch.tensor(t, dtype=F64)).item() for t in (1.0, 5.0, 20.0, 60.0, 200.0)]
    assert all(later < earlier for earlier, later in itertools.pairwise(values))


# -- 018 SPPO


def sppo_step(P: Tensor, pi: Tensor, eta: float) -> Tensor:
    """The minimiser of SPPO's population loss: every action, weighed by pi_t, towards its own target."""
    K = len(pi)
    win = P @ pi
    objective = o.weighted(o.sppo(eta))
    # Each contrast is an action against itself, so it holds the action's own error twice (factor 1/2: once).
    pairs = [(k, k) for k in range(K)]

    def loss(theta: Tensor) -> Tensor:
        values = {"win": win.repeat_interleave(2), "weight": pi * K}
        scores = pair_scores(theta, pi, pairs, **values)
        return objective(scores).mean(scores)

    return minimise(loss, pi)


GAME = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=F64)


def hedge_step(P: Tensor, pi: Tensor, eta: float) -> Tensor:
    return (pi.log() + eta * (P @ pi)).softmax(0)


@pytest.mark.parametrize(("eta", "tolerance"), [(1.0, 1e-4), (0.1, 1e-6)])
def test_sppo_is_multiplicative_weights_for_small_steps(eta: float, tolerance: float) -> None:
    """From the uniform policy; elsewhere the constant is larger, and the order (below) is the same."""
    pi = torch.full((3,), 1 / 3, dtype=F64)
    assert (sppo_step(GAME, pi, eta) - hedge_step(GAME, pi, eta)).abs().max() < tolerance


def test_the_difference_falls_with_the_third_power_of_eta() -> None:
    pi = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    errors = [float((sppo_step(GAME, pi, eta) - hedge_step(GAME, pi, eta)).abs().max()) for eta in (0.4, 0.2, 0.1)]
    assert all(2.5 < math.log2(a / b) < 3.5 for a, b in itertools.pairwise(errors))
