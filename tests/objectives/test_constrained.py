"""Constrained preference optimisation (143): margins, optima, the stationary condition and the diagnosis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.objectives import Rarity, Scores, Shortfall
from prefine.objectives.scores import Objective


def logit(delta: torch.Tensor, delta_ref: float) -> Scores:
    """One pair of two responses, single tokens: log pi from Delta by a softmax over the two."""
    ref = torch.tensor([delta_ref], dtype=torch.float64)
    sides = [torch.nn.functional.logsigmoid(x) for x in (delta, -delta, ref, -ref)]
    return Scores.of_pairs(*sides)


def optimum(objective: Objective, delta_ref: float) -> float:
    """The root of the slope in Delta, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        delta = torch.tensor([middle], dtype=torch.float64, requires_grad=True)
        scores = logit(delta, delta_ref)
        (slope,) = torch.autograd.grad(objective(scores).mean(scores), delta)
        low, high = (middle, high) if slope.item() < 0 else (low, middle)
    return (low + high) / 2


def test_dpo_prefers_the_rejected_and_cpo_the_chosen() -> None:
    """Sheet 143: labels with probability sigma(G), G = 2, beta = 1, Delta_ref = -3."""
    eps = 1 / (1 + math.exp(2.0))  # the smoothing that is a Bradley-Terry label of gap 2
    sigma3 = 1 / (1 + math.exp(-3.0))
    m = 0.1 * (1 / (1 - sigma3) + 1 / sigma3)
    assert m == pytest.approx(2.2135, abs=1e-4)
    assert optimum(o.dpo(1.0, eps), -3.0) == pytest.approx(-1.0, abs=1e-9)
    cpo = o.constrained(1.0, 0.1, cap=50.0, label_smoothing=eps)
    assert optimum(cpo, -3.0) == pytest.approx(-3.0 + 2.0 + m, abs=1e-9)
    assert optimum(cpo, -3.0) == pytest.approx(1.2135, abs=1e-4)


def pairs(seed: int = 0) -> Scores:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([3, 1, 2, 4, 1, 2])
    mask = (torch.arange(4)[None] < lengths[:, None]).double()
    logp, ref = (-torch.rand(6, 4, generator=g, dtype=torch.float64) * mask for _ in range(2))
    return Scores(
        logp.requires_grad_(), mask, torch.tensor([1, -1]).repeat(3), torch.arange(3).repeat_interleave(2),
        {"reference": ref},
    )  # fmt: skip


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("cap", [1.1, 50.0])
def test_value_and_gradient_follow_the_equation(mean: bool, cap: float) -> None:
    beta, gamma, s = 0.4, 0.3, pairs()
    loss = o.constrained(beta, gamma, cap=cap, mean=mean)(s).mean(s)
    (gradient,) = torch.autograd.grad(loss, s.logp_NT)
    lp, rp = (x.detach().sum(-1).numpy() for x in (s.logp_NT, s.references["reference"]))
    scale = s.mask_NT.sum(-1).numpy() if mean else np.ones(6)
    p = np.exp(rp / scale)
    m = np.minimum(gamma * (1 / p[0::2] + 1 / p[1::2]), cap)
    assert cap > 10 or (m == cap).any()
    z = beta * ((lp - rp)[0::2] - (lp - rp)[1::2]) - m
    assert loss.item() == pytest.approx(np.log1p(np.exp(-z)).mean(), abs=1e-14)
    slope = -beta / (1 + np.exp(z)) / 3
    want = np.stack([slope, -slope], 1).reshape(-1, 1) * s.mask_NT.numpy()
    np.testing.assert_allclose(gradient.numpy(), want, rtol=0, atol=1e-15)


def test_without_gamma_it_is_dpo() -> None:
    assert o.constrained(0.3, 0.0) == o.dpo(0.3)


def test_the_margin_carries_no_gradient_into_the_reference() -> None:
    s = pairs()
    reference = s.references["reference"].clone().requires_grad_()
    live = Scores(s.logp_NT, s.mask_NT, s.role_N, s.group_N, {"reference": reference})
    beta = 0.4
    (with_margin,) = torch.autograd.grad(o.constrained(beta, 0.3)(live).mean(live), reference)
    ratio = (s.ratio().detach()[0::2] - s.ratio().detach()[1::2]) * beta - Rarity(0.3)(s)
    want = beta * torch.sigmoid(-ratio) / 3
    torch.testing.assert_close(with_margin[0::2, 0], want, rtol=0, atol=1e-15)


def test_the_margin_of_hopeless_references_is_the_cap() -> None:
    s = Scores.of_pairs([-1.0], [-1.0], torch.tensor([-4000.0]), torch.tensor([-1.0]))
    assert Rarity(0.1, cap=5.0, mean=False)(s).item() == 5.0


def test_the_conservative_margin_asks_for_no_more_than_preference() -> None:
    """beta (Delta - Delta_ref) - m = beta Delta where the reference is against the pair, and DPO's where it is not."""
    beta = 0.7
    for delta_ref in (-3.0, 1.5):
        delta = torch.tensor([0.8], dtype=torch.float64)
        s = logit(delta, delta_ref)
        z = beta * 0.8 if delta_ref < 0 else beta * (0.8 - delta_ref)
        loss = o.constrained(beta, 0.0, margin="conservative", cap=50.0)(s)
        assert loss.per_contrast.item() == pytest.approx(math.log1p(math.exp(-z)), abs=1e-12)
    assert Shortfall(0.7, 0.2)(logit(delta, 1.5)).item() == pytest.approx(0.2)


def test_the_stationary_condition() -> None:
    """d/dp of p r_w + (1-p) r_l - beta KL + gamma (log p - log(1-p)) = 0 iff G = beta (D - D_ref) - gamma (1/p + 1/q)."""
    p, ref, beta, gamma = 0.4, 0.2, 1.5, 0.03
    gap = beta * (math.log(p / (1 - p)) - math.log(ref / (1 - ref))) - gamma * (1 / p + 1 / (1 - p))

    def aim(x: float) -> float:
        kl = x * math.log(x / ref) + (1 - x) * math.log((1 - x) / (1 - ref))
        return x * gap - beta * kl + gamma * (math.log(x) - math.log(1 - x))

    h = 1e-6
    assert (aim(p + h) - aim(p - h)) / (2 * h) == pytest.approx(0.0, abs=1e-8)


def test_softplus_over_beta_becomes_a_hinge_at_the_references_preference() -> None:
    for beta in (1.0, 10.0, 100.0):
        delta = torch.tensor([-2.5], dtype=torch.float64)
        s = logit(delta, -2.0)
        error = o.dpo(beta)(s).per_contrast.item() / beta - max(0.0, -2.0 + 2.5)
        assert -1e-12 <= error <= math.log(2) / beta + 1e-12


def test_the_diagnosis_counts_the_regions() -> None:
    found = o.diagnosis([0.5, -0.5, -2.0, -0.5, 3.0], [-1.0, -1.0, -1.0, 0.5, 2.0])
    assert found == pytest.approx(
        {"preferred": 2 / 5, "undesirable": 1 / 5, "escaped": 1 / 3, "reference_against": 3 / 5}
    )
