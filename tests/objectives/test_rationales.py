"""Rationales beside pairs (063): value and gradient from the equations, limits, and what has no gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives import Scores
from prefine.objectives.needs import needs

G, T = 4, 5


def made(seed: int = 0) -> Scores:
    """Pairs with a rationale each, in the order chosen, rejected, rationale."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, T + 1, size=3 * G)
    mask = (np.arange(T)[None] < lengths[:, None]).astype(float)
    logp, reference = (-rng.uniform(0.3, 4, size=(3 * G, T)) * mask for _ in range(2))
    return Scores(
        torch.tensor(logp, requires_grad=True), torch.tensor(mask), torch.tensor([1, -1, 0] * G),
        torch.arange(G).repeat_interleave(3), {"reference": torch.tensor(reference)},
        {"rationale": torch.tensor([0.0, 0.0, 1.0] * G, dtype=torch.float64)},
    )  # fmt: skip


def softplus(z: float) -> float:
    return math.log1p(math.exp(-abs(z))) + max(z, 0.0)


def by_finite_differences(value, s: Scores) -> np.ndarray:  # type: ignore[no-untyped-def]
    logp, found = s.logp_NT.detach().numpy().copy(), np.zeros(s.logp_NT.shape)
    for i, t in np.argwhere(s.mask_NT.numpy() > 0):
        up, down = logp.copy(), logp.copy()
        up[i, t] += 1e-6
        down[i, t] -= 1e-6
        found[i, t] = (value(up) - value(down)) / 2e-6
    return found


@pytest.mark.parametrize("form", ["logistic", "likelihood"])
@pytest.mark.parametrize("gamma", [0.001, 0.3])
def test_rdpo_follows_the_equation(form: str, gamma: float) -> None:
    beta, s = 0.2, made()
    reference = s.references["reference"].numpy().sum(1).reshape(G, 3)

    def value(logp: np.ndarray) -> float:
        sums = logp.sum(1).reshape(G, 3)
        total = 0.0
        for (w, l, r), (ref_w, ref_l, _) in zip(sums, reference):
            total += softplus(-beta * ((w - ref_w) - (l - ref_l)))
            total += softplus(-gamma * r) if form == "logistic" else -gamma * r
        return total / G

    loss = o.rationale_dpo(beta, gamma, form)(s).mean(s)
    (gradient,) = torch.autograd.grad(loss, s.logp_NT)
    assert loss.item() == pytest.approx(value(s.logp_NT.detach().numpy()), abs=1e-12)
    np.testing.assert_allclose(gradient.numpy(), by_finite_differences(value, s), atol=1e-8)


@pytest.mark.parametrize("form", ["logistic", "likelihood"])
def test_rorpo_follows_the_equation(form: str) -> None:
    beta, gamma, s = 0.4, 0.7, made()
    length = s.mask_NT.numpy().sum(1).reshape(G, 3)

    def odds(mean: float) -> float:
        return math.log(math.exp(mean) / (1 - math.exp(mean)))

    def value(logp: np.ndarray) -> float:
        total = 0.0
        for w, l, r in logp.sum(1).reshape(G, 3) / length:
            total += -w + beta * softplus(-(odds(w) - odds(l)))
            total += -gamma * r if form == "likelihood" else softplus(-gamma * r)
        return total / G

    loss = o.rationale_orpo(beta, gamma, form)(s).mean(s)
    (gradient,) = torch.autograd.grad(loss, s.logp_NT)
    assert loss.item() == pytest.approx(value(s.logp_NT.detach().numpy()), abs=1e-10)
    np.testing.assert_allclose(gradient.numpy(), by_finite_differences(value, s), atol=1e-8)
    assert o.rationale_orpo().references == ()


def test_without_weight_it_is_dpo_but_for_a_constant() -> None:
    s = made()
    ours, plain = o.rationale_dpo(0.2, 0.0)(s).mean(s), o.dpo(0.2)(s).mean(s)
    assert ours.item() == pytest.approx(plain.item() + math.log(2), abs=1e-12)
    grads = [torch.autograd.grad(loss, s.logp_NT)[0] for loss in (ours, plain)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-15)
    likelihood = o.rationale_dpo(0.2, 0.0, "likelihood")(s).mean(s)
    assert likelihood.item() == pytest.approx(plain.item(), abs=1e-12)


def test_far_below_zero_both_forms_have_the_same_gradient() -> None:
    """S_r < -20/gamma: the gradient is -gamma grad S_r within 1e-6."""
    gamma, s = 2.0, made()
    far = replace(s, logp_NT=(s.logp_NT.detach() - 11.0 * s.mask_NT).requires_grad_())
    losses = [o.rationale_dpo(0.2, gamma, form)(far).mean(far) for form in ("logistic", "likelihood")]
    grads = [torch.autograd.grad(loss, far.logp_NT)[0] for loss in losses]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-6)
    is_one = far.values["rationale"] > 0
    torch.testing.assert_close(grads[1][is_one], -gamma / G * far.mask_NT[is_one], rtol=0, atol=1e-12)


def test_the_rationale_reads_no_reference_and_the_pair_no_rationale() -> None:
    s = made()
    shifted = s.references["reference"].clone()
    shifted[s.role_N == 0] -= 7.0
    other = replace(s, references={"reference": shifted})
    objective = o.rationale_dpo(0.2, 0.1)
    assert objective(s).mean(s).item() == objective(other).mean(s).item()
    reference = s.references["reference"].clone().requires_grad_()
    live = replace(s, references={"reference": reference})
    (slope,) = torch.autograd.grad(objective(live).mean(live), reference)
    assert bool((slope[s.role_N == 0] == 0).all()) and bool((slope[s.role_N != 0] != 0).any())
    (plain,) = torch.autograd.grad(o.dpo(0.2)(s).mean(s), s.logp_NT)
    (ours,) = torch.autograd.grad(objective(s).mean(s), s.logp_NT)
    torch.testing.assert_close(ours[s.role_N != 0], plain[s.role_N != 0], rtol=0, atol=1e-15)


def test_other_members_without_a_side_are_no_rationales() -> None:
    """And a pair without one adds nothing but still counts in the mean."""
    s = made()
    none = replace(s, values={"rationale": torch.zeros(3 * G, dtype=torch.float64)})
    assert o.rationale_dpo(0.2, 0.1)(none).mean(none).item() == pytest.approx(o.dpo(0.2)(s).mean(s).item(), abs=1e-12)
    half = replace(s, values={"rationale": torch.tensor([0.0, 0.0, 1.0, *[0.0] * 3] * (G // 2), dtype=torch.float64)})
    parts = o.rationale_dpo(0.2, 0.1, "likelihood")
    sums = s.sum()[s.role_N == 0]
    want = o.dpo(0.2)(s).mean(s) - 0.1 * (sums[0] + sums[2]) / G
    assert parts(half).mean(half).item() == pytest.approx(want.item(), abs=1e-12)


def test_any_pair_loss_can_be_the_base() -> None:
    s = made()
    more = o.with_rationale(o.simpo(), 0.1, "likelihood")(s).mean(s) - o.simpo()(s).mean(s)
    assert more.item() == pytest.approx(-0.1 * float(s.sum()[s.role_N == 0].mean()), abs=1e-12)
    assert o.read("rationale(gamma=0.1,form=likelihood):simpo") == o.with_rationale(o.simpo(), 0.1, "likelihood")
    assert o.read("rationale:dpo") == o.rationale_dpo()
    assert "rationale" in needs(o.rationale_dpo()).values


def test_what_is_wrong_is_said() -> None:
    for options in ({"gamma": -1.0}, {"form": "sum"}, {"beta": 0.0}):
        with pytest.raises(InputError):
            o.rationale_dpo(**options)  # type: ignore[arg-type]
    s = made()
    with pytest.raises(ValueError, match="member"):
        o.rationale_dpo()(replace(s, values={"rationale": torch.ones(G, dtype=torch.float64)}))
