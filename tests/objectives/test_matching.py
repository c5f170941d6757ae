"""Supervised fine-tuning by an f-divergence (080): conjugates by search, gradients, and where each loss stops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives import DIVERGENCES, Scores

F: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pearson": lambda t: (t - 1) ** 2,
    "hellinger": lambda t: (np.sqrt(t) - 1) ** 2,
    "jensen-shannon": lambda t: t * np.log(t) - (t + 1) * np.log((t + 1) / 2),
    "reverse-kl": lambda t: t * np.log(t) - t + 1,
    "forward-kl": lambda t: -np.log(t) + t - 1,
}
"""Generators on the ratio pi/E, with f(1) = f'(1) = 0."""


def one(l: float, tokens: int = 1) -> tuple[Scores, torch.Tensor]:
    leaf = torch.tensor([l - 7.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    return Scores.of_pairs(leaf, zero, zero - 7.0, zero, chosen_length=[tokens]), leaf


@pytest.mark.parametrize("name", F)
@pytest.mark.parametrize("u", [-0.4, 0.0, 0.3, 0.9, 1.7])
def test_phi_is_minus_the_conjugate_at_minus_u(name: str, u: float) -> None:
    """-f*(-u) = min over t of f(t) + u t, by search."""
    t = np.exp(np.linspace(-12, 6, 400_001)) if name != "pearson" else np.linspace(1e-9, 8, 400_001)
    if name == "pearson" and u > 1.9:
        pytest.skip("its t leaves the positive numbers")
    assert float(DIVERGENCES[name](torch.tensor(u, dtype=torch.float64))) == pytest.approx(
        float((F[name](t) + u * t).min()), abs=1e-4
    )


def test_unnormalised_generators_only_shift_the_reward() -> None:
    """f + c (t - 1): phi_c(u) = phi(u + c) - c. So -exp(-(u+1)) and 1 + log u are the same two divergences."""
    u = torch.linspace(0.1, 3.0, 7, dtype=torch.float64)
    torch.testing.assert_close(-torch.exp(-(u + 1)), DIVERGENCES["reverse-kl"](u + 1) - 1)
    torch.testing.assert_close(1 + u.log(), DIVERGENCES["forward-kl"](u - 1) + 1)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_all_start_with_the_gradient_of_supervised_fine_tuning(name: str) -> None:
    scores, leaf = one(0.0, tokens=4)
    (slope,) = torch.autograd.grad(o.matching(name, beta=0.5)(scores).mean(scores), leaf)
    assert slope.item() == pytest.approx(-0.5 / 4, abs=1e-15)


@pytest.mark.parametrize("l", [-0.8, 0.4, 1.9])
def test_values_and_slopes_are_the_closed_forms(l: float) -> None:
    b = 0.9
    z = b * l
    want = {
        "total-variation": (-z, -b),
        "pearson": (-z + z * z / 4, -b * (1 - z / 2)),
        "hellinger": (-z / (1 + z), -b / (1 + z) ** 2),
        "reverse-kl": (-1 + math.exp(-z), -b * math.exp(-z)),
        "forward-kl": (-math.log(1 + z), -b / (1 + z)),
    }
    if z > -math.log(2):
        want["jensen-shannon"] = (-math.log(2 - math.exp(-z)), -b * math.exp(-z) / (2 - math.exp(-z)))
    for name, (value, slope) in want.items():
        scores, leaf = one(l)
        loss = o.matching(name, b, mean=False)(scores).mean(scores)
        assert loss.item() == pytest.approx(value, abs=1e-13), name
        assert torch.autograd.grad(loss, leaf)[0].item() == pytest.approx(slope, abs=1e-13), name


def test_total_variation_is_beta_times_the_likelihood() -> None:
    g = torch.Generator().manual_seed(0)
    logp = -torch.rand(4, generator=g, dtype=torch.float64)
    logp.requires_grad_()
    flat = torch.full((4,), -1.0, dtype=torch.float64)
    for mean in (True, False):
        scores = Scores.of_pairs(logp, flat, flat, flat, chosen_length=[1, 2, 3, 4], rejected_length=[1, 1, 1, 1])
        ours = torch.autograd.grad(
            o.matching("total-variation", 0.3, mean)(scores).mean(scores), logp, retain_graph=True
        )[0]
        nll = torch.autograd.grad(o.likelihood(mean=mean)(scores).mean(scores), logp)[0]
        torch.testing.assert_close(ours, 0.3 * nll, rtol=0, atol=1e-15)


def test_pearson_is_least_at_beta_l_two() -> None:
    scores, leaf = one(2.0 / 0.25)
    loss = o.matching("pearson", 0.25)(scores).mean(scores)
    assert loss.item() == pytest.approx(-1.0, abs=1e-15)
    assert torch.autograd.grad(loss, leaf)[0].item() == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_beyond_its_domain_a_loss_is_finite_and_gives_no_push(name: str) -> None:
    scores, leaf = one(-40.0)
    loss = o.matching(name)(scores).mean(scores)
    (slope,) = torch.autograd.grad(loss, leaf)
    assert loss.isfinite() and slope.isfinite()


@pytest.mark.parametrize(("beta", "share", "kl"), [(1.0, 0.14778, 0.595), (2.0, 0.05437, 0.066)])
def test_where_pearson_stops_on_a_softmax(beta: float, share: float, kl: float) -> None:
    """50 responses, uniform base, 3 demonstrated: base exp(2/beta) each; ordinary SFT goes to 1/3 (KL 2.81)."""
    found = {name: settle(name, beta) for name in ("pearson", "total-variation")}
    p = found["pearson"]
    assert p[:3].tolist() == pytest.approx([share] * 3, abs=2e-5)
    assert p[:3].tolist() == pytest.approx([0.02 * math.exp(2 / beta)] * 3, abs=1e-5)
    assert float((p * (p * 50).log()).sum()) == pytest.approx(kl, abs=1e-3)
    q = found["total-variation"]
    assert q[:3].tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert float((q * (q * 50).log()).sum()) == pytest.approx(2.81, abs=0.02)


def settle(name: str, beta: float) -> torch.Tensor:
    theta = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    objective = o.matching(name, beta, mean=False)
    flat = torch.full((3,), -math.log(50), dtype=torch.float64)
    optimizer = torch.optim.LBFGS([theta], max_iter=300, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logp = theta.log_softmax(0)[:3]
        scores = Scores.of_pairs(logp, flat, flat, flat)
        loss = objective(scores).mean(scores)
        loss.backward()
        return loss

    optimizer.step(closure)
    return theta.detach().softmax(0)


def test_only_the_chosen_are_demonstrations() -> None:
    leaf = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    scores = Scores.of_pairs(zero, leaf, zero, zero)
    loss = o.matching()(scores).mean(scores)
    assert torch.autograd.grad(loss, leaf)[0].item() == 0.0


def test_an_unknown_divergence_is_explained() -> None:
    with pytest.raises(InputError, match="divergence='chi'") as error:
        o.matching("chi")
    assert "pearson" in error.value.remedy
