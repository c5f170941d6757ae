"""Reward-aware preference optimisation (116): equations, special cases, minimisers and the gradient of RLOO."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from prefine import objectives as o
from prefine.objectives import RewardGaps, Scores
from prefine.objectives.reward_gaps import DISTANCES, Sides, backward_kl


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def equation(distance: str, a: float, b: float) -> float:
    p, q = sigma(a), sigma(b)
    return {
        "squared": (a - b) ** 2,
        "backward-kl": q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)),
        "forward-kl": p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)),
    }[distance]


def groups(sizes: list[int], seed: int = 0, tokens: int = 3) -> Scores:
    g = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    lengths = torch.randint(1, tokens + 1, (n,), generator=g)
    mask = (torch.arange(tokens)[None] < lengths[:, None]).double()
    logp, ref = (-torch.rand(n, tokens, generator=g, dtype=torch.float64) * mask for _ in range(2))
    roles = [r for k in sizes for r in (1, *[0] * (k - 2), -1)]
    return Scores(
        logp.requires_grad_(), mask, torch.tensor(roles),
        torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), {"reference": ref},
        {"score": torch.randn(n, generator=g, dtype=torch.float64)},
    )  # fmt: skip


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("sizes", [[2, 2, 2], [4], [3, 2, 5]])
@pytest.mark.parametrize("normalised", [False, True])
def test_value_and_gradient_follow_the_equation(distance: str, sizes: list[int], normalised: bool) -> None:
    beta, eta, s = 0.7, 1.3, groups(sizes)
    loss = o.reward_aware(distance, beta, eta, normalised=normalised)(s).mean(s)
    (gradient,) = torch.autograd.grad(loss, s.logp_NT)
    reward = s.values["score"].tolist()
    T = s.mask_NT.sum(-1).tolist()

    def value(logp: np.ndarray) -> float:
        m = logp.sum(-1) / T if normalised else (logp - s.references["reference"].numpy()).sum(-1)
        total, at = 0.0, 0
        for k in sizes:
            two = list(itertools.combinations(range(at, at + k), 2))
            total += sum(equation(distance, beta * (m[i] - m[j]), eta * (reward[i] - reward[j])) for i, j in two) / len(
                two
            )
            at += k
        return total / len(sizes)

    logp = s.logp_NT.detach().numpy().copy()
    assert loss.item() == pytest.approx(value(logp), abs=1e-12)
    for i, t in itertools.product(range(len(T)), range(3)):
        if s.mask_NT[i, t]:
            up, down = logp.copy(), logp.copy()
            up[i, t] += 1e-6
            down[i, t] -= 1e-6
            assert gradient[i, t].item() == pytest.approx((value(up) - value(down)) / 2e-6, abs=1e-8)
        else:
            assert gradient[i, t].item() == 0.0


def with_gap(s: Scores, gap: float) -> Scores:
    score = gap * (s.role_N > 0).double()
    return Scores(s.logp_NT, s.mask_NT, s.role_N, s.group_N, s.references, {"score": score})


def assert_same(a: Tensor, b: Tensor, leaf: Tensor, shift: float = 0.0, atol: float = 1e-6) -> None:
    assert a.item() == pytest.approx(b.item() + shift, abs=atol)
    (x,), (y,) = torch.autograd.grad(a, leaf, retain_graph=True), torch.autograd.grad(b, leaf)
    torch.testing.assert_close(x, y, rtol=0, atol=atol)


def test_an_endless_gap_is_dpo_and_a_finite_one_conservative_dpo() -> None:
    beta, s = 0.5, groups([2, 2])
    far = with_gap(s, 40.0)
    assert_same(o.reward_aware("backward-kl", beta)(far).mean(far), o.dpo(beta)(s).mean(s), s.logp_NT)
    eps = 0.2
    near = with_gap(s, math.log((1 - eps) / eps))
    entropy = -eps * math.log(eps) - (1 - eps) * math.log(1 - eps)
    ours, cdpo = o.reward_aware("backward-kl", beta)(near).mean(near), o.dpo(beta, eps)(s).mean(s)
    assert_same(ours, cdpo, s.logp_NT, shift=-entropy, atol=1e-12)


def test_squared_with_half_a_gap_is_scaled_ipo() -> None:
    beta, s = 0.4, groups([2, 2])
    half = with_gap(s, 0.5)
    ours = o.reward_aware("squared", beta)(half).mean(half)
    assert_same(ours, beta**2 * o.ipo(beta, mean=False)(s).mean(s), s.logp_NT, atol=1e-14)


def test_token_means_with_an_endless_gap_are_simpo_without_its_margin() -> None:
    s = groups([2, 2])
    far = with_gap(s, 40.0)
    assert_same(o.reward_aware(beta=2.0, normalised=True)(far).mean(far), o.simpo(2.0, 0.0)(s).mean(s), s.logp_NT)
    assert o.reward_aware(normalised=True).references == ()


def test_labels_stand_in_for_scores() -> None:
    s = groups([2, 2])
    label, one = o.reward_aware(reward="label", eta=1.5), with_gap(s, 1.5)
    assert label(s).mean(s).item() == pytest.approx(o.reward_aware()(one).mean(one).item(), abs=1e-14)
    assert Sides()(s).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_minimiser_is_the_tilted_reference(distance: str) -> None:
    """With all pairs seen: pi ~ ref exp(eta r/beta)."""
    beta, eta = 0.8, 1.5
    g = torch.Generator().manual_seed(1)
    ref, reward = torch.randn(5, generator=g).double().log_softmax(0), torch.randn(5, generator=g).double()
    theta = ref.clone().requires_grad_()
    objective = o.reward_aware(distance, beta, eta)
    optimizer = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        s = Scores(
            theta.log_softmax(0)[:, None], torch.ones(5, 1).double(), torch.tensor([1, 0, 0, 0, -1]),
            torch.zeros(5, dtype=torch.long), {"reference": ref[:, None]}, {"score": reward},
        )  # fmt: skip
        loss = objective(s).mean(s)
        loss.backward()
        return loss

    optimizer.step(closure)
    want = (ref + eta * reward / beta).softmax(0)
    torch.testing.assert_close(theta.detach().softmax(0), want, rtol=0, atol=1e-4)


def test_squared_on_own_samples_is_minus_four_beta_rloo() -> None:
    """Per pair: d (a - b)^2 = -4 beta * 1/2 (R_1 - R_2)(g_1 - g_2), R = eta r - beta log pi/ref, detached."""
    beta, eta, s = 0.6, 1.2, groups([2])
    (ours,) = torch.autograd.grad(o.reward_aware("squared", beta, eta)(s).mean(s), s.logp_NT)
    R = eta * s.values["score"] - beta * s.ratio().detach()
    rloo = 0.5 * (R[0] - R[1]) * torch.stack([s.mask_NT[0], -s.mask_NT[1]])
    torch.testing.assert_close(ours, -4 * beta * rloo, rtol=0, atol=1e-14)


def test_the_explicit_side_is_a_constant() -> None:
    """Another policy's log-ratio can be the reward; no gradient goes into it, whatever it is made of."""
    s = groups([2, 2])
    loss = RewardGaps(lambda scores: scores.sum(), backward_kl, 0.5)(s).mean(s)
    fixed = Scores(s.logp_NT, s.mask_NT, s.role_N, s.group_N, s.references, {"score": s.sum().detach()})
    want = o.reward_aware("backward-kl", 0.5)(fixed).mean(fixed)
    assert_same(loss, want, s.logp_NT, atol=1e-15)


def test_large_gaps_are_finite() -> None:
    s = with_gap(groups([2]), 1000.0)
    for distance in DISTANCES:
        loss = o.reward_aware(distance)(s).mean(s)
        assert loss.isfinite() and torch.autograd.grad(loss, s.logp_NT)[0].isfinite().all()


def test_single_responses_are_refused() -> None:
    s = groups([2, 2])
    for roles in ([1, 0, -1, 0], [1, 0, 1, -1]):
        with pytest.raises(ValueError, match="pairs or lists"):
            o.reward_aware()(Scores(s.logp_NT, s.mask_NT, torch.tensor(roles), s.group_N, s.references, s.values))
