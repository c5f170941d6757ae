"""098 and 150 against their equations, written here from the papers with numpy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives.noise import Latent
from prefine.objectives.scores import Objective, Scores

torch.set_num_threads(1)
H = torch.linspace(-6, 6, 25, dtype=torch.float64)


def of_margins(h: Tensor, **values: Tensor) -> Scores:
    """Pairs whose log-ratio gap is h, the chosen's log-ratio h/2 and the rejected's -h/2."""
    ten = torch.full_like(h, -10.0)
    return Scores.of_pairs(ten + h / 2, ten - h / 2, ten, ten, **values)


def sigma(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def per_contrast(objective: Objective, scores: Scores) -> np.ndarray:
    return objective(scores).per_contrast.detach().numpy()


# -- 098 rDPO


@pytest.mark.parametrize("eps", [0.05, 0.2, 0.45])
def test_the_robust_loss_is_its_equation(eps: float) -> None:
    h = H.numpy()
    wanted = ((1 - eps) * -np.log(sigma(0.7 * h)) - eps * -np.log(sigma(-0.7 * h))) / (1 - 2 * eps)
    assert per_contrast(o.robust(o.dpo(0.7), eps), of_margins(H)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("loss", [o.dpo(0.5), o.ipo(0.3), o.simpo(), o.Pairs(link=o.hinge)])
def test_over_the_flips_the_robust_loss_is_the_clean_one(loss: Objective) -> None:
    scores = of_margins(H)
    for eps in (0.01, 0.3, 0.49):
        rob = o.robust(loss, eps)
        mixed = (1 - eps) * per_contrast(rob, scores) + eps * per_contrast(rob, scores.swapped())
        assert mixed == pytest.approx(per_contrast(loss, scores), abs=1e-11)


def test_a_rate_of_zero_is_the_loss_itself() -> None:
    loss = o.dpo(0.5)
    assert o.robust(loss, 0.0) is loss


def test_the_push_is_zeta_and_never_turns_round() -> None:
    beta, eps = 0.8, 0.3
    h = H.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(o.robust(o.dpo(beta), eps)(of_margins(h)).per_contrast.sum(), h)
    x = H.numpy() * beta
    zeta = (1 - eps) / (1 - 2 * eps) * sigma(-x) + eps / (1 - 2 * eps) * sigma(x)
    assert gradient.numpy() == pytest.approx(-beta * zeta, abs=1e-12)
    assert (zeta > 0).all()
    conservative = torch.autograd.grad(o.smoothed(o.dpo(beta), eps)(of_margins(h)).per_contrast.sum(), h)[0].numpy()
    assert conservative == pytest.approx(-beta * (sigma(-x) - eps), abs=1e-12)
    assert (conservative > 0).any(), "conservative DPO turns round"


def test_every_pair_can_have_its_own_rate() -> None:
    rates = torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64)
    h = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    together = per_contrast(o.robust(o.dpo(1.0), by="eps"), of_margins(h, eps=rates))
    alone = [
        float(per_contrast(o.robust(o.dpo(1.0), float(r)), of_margins(h[i : i + 1]))[0]) for i, r in enumerate(rates)
    ]
    assert together == pytest.approx(alone, abs=1e-12)
    with pytest.raises(ValueError, match="below"):
        o.robust(o.dpo(1.0), by="eps")(of_margins(h, eps=rates + 0.2))


def test_the_cut_stops_the_fall() -> None:
    far = of_margins(torch.tensor([50.0, 500.0], dtype=torch.float64))
    free, cut = per_contrast(o.robust(o.dpo(1.0), 0.2), far), per_contrast(o.robust(o.dpo(1.0), 0.2, most=5.0), far)
    assert free[1] < free[0] - 100 and cut == pytest.approx([-0.2 / 0.6 * 5.0] * 2, abs=1e-9)


@pytest.mark.parametrize("eps", [-0.1, 0.5, 0.9])
def test_rates_that_cannot_be_are_refused(eps: float) -> None:
    with pytest.raises(InputError):
        o.robust(o.dpo(), eps)


# -- 150 LCPO


def plain_lcpo(h: np.ndarray, eta: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """(loss, c) of the sheet, for DPO: p = sigma(beta h)."""
    p = sigma(beta * h)
    c = eta * p / (eta * p + (1 - eta) * (1 - p))
    return c * -np.log(p) + (1 - c) * -np.log(1 - p), c


def test_the_latent_loss_is_its_equation() -> None:
    who = torch.tensor([0.0, 1.0] * 12 + [0.0], dtype=torch.float64)
    latent = o.lcpo(o.dpo(0.6), eta=0.8, annotators=2)
    latent.eta_K.copy_(torch.tensor([0.9, 0.7]))
    wanted, _ = plain_lcpo(H.numpy(), np.where(who.numpy() == 0, np.float32(0.9), np.float32(0.7)), 0.6)
    assert per_contrast(latent, of_margins(H, annotator=who)) == pytest.approx(wanted, abs=1e-9)


def test_the_posterior_is_a_constant_for_the_gradient() -> None:
    h = H.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(o.lcpo(o.dpo(0.6), 0.8)(of_margins(h)).per_contrast.sum(), h)
    _, c = plain_lcpo(H.numpy(), np.full(len(H), np.float32(0.8)), 0.6)
    x = 0.6 * H.numpy()
    assert gradient.numpy() == pytest.approx(0.6 * (-c * sigma(-x) + (1 - c) * sigma(x)), abs=1e-7)
    # with a term through c it would be another: c depends on h
    slope = np.gradient(plain_lcpo(H.numpy(), np.full(len(H), 0.8), 0.6)[0], H.numpy())
    assert abs(slope - gradient.numpy()).max() > 0.05


@pytest.mark.parametrize("loss", [o.dpo(0.5), o.ipo(0.3), o.simpo()])
def test_a_reliability_of_one_is_the_base_loss(loss: Objective) -> None:
    latent = o.lcpo(loss, eta=1.0, momentum=0.0)
    for _ in range(3):
        assert per_contrast(latent, of_margins(H)) == pytest.approx(per_contrast(loss, of_margins(H)), abs=1e-12)
        latent.after_step()


def test_the_link_of_any_loss_is_the_gibbs_one() -> None:
    """p = exp(-L(w,l)) / (exp(-L(w,l)) + exp(-L(l,w)))."""
    scores, loss = of_margins(H), o.ipo(0.3)
    kept, flipped = per_contrast(loss, scores), per_contrast(loss, scores.swapped())
    p = np.exp(-kept) / (np.exp(-kept) + np.exp(-flipped))
    eta = float(np.float32(0.8))
    c = eta * p / (eta * p + (1 - eta) * (1 - p))
    assert per_contrast(o.lcpo(loss, 0.8), scores) == pytest.approx(c * kept + (1 - c) * flipped, abs=1e-9)


def test_reliabilities_follow_the_mean_posterior_of_a_step() -> None:
    """Two micro-batches are one step; an annotator who gave no label keeps theirs; bounds hold."""
    h = torch.tensor([1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    who = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    latent = o.lcpo(o.dpo(1.0), eta=0.9, momentum=0.25, annotators=3)
    _, c = plain_lcpo(h.numpy(), np.full(4, 0.9), 1.0)
    latent(of_margins(h[:2], annotator=who[:2]))
    latent(of_margins(h[2:], annotator=who[2:]))
    latent.after_step()
    means = [c[[0, 1, 3]].mean(), c[2]]
    wanted = [0.75 * 0.9 + 0.25 * means[0], 0.75 * 0.9 + 0.25 * means[1], 0.9]
    assert latent.eta_K.numpy() == pytest.approx(wanted, abs=1e-6)
    assert latent.figures().keys() == {"reliability/0", "reliability/1"}
    for _ in range(200):
        latent(of_margins(torch.full((3,), -8.0, dtype=torch.float64)))
        latent.after_step()
    assert float(latent.eta_K[0]) == pytest.approx(0.501, abs=1e-4)


def test_with_calibrated_probabilities_the_reliability_is_found() -> None:
    """20,000 pairs of a true Bradley-Terry model, p frozen there, a quarter flipped: full-batch EM from 0.95."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(20_000, 5)) @ rng.normal(size=5)
    better = np.where(rng.random(len(h)) < sigma(h), h, -h)
    seen = torch.tensor(np.where(rng.random(len(h)) < 0.25, -better, better))
    latent = o.lcpo(o.dpo(1.0), eta=0.95, momentum=1.0)
    for _ in range(60):
        latent(of_margins(seen))
        latent.after_step()
    assert float(latent.eta_K[0]) == pytest.approx(0.75, abs=0.02)


def test_at_the_start_it_is_a_smoothed_label() -> None:
    zero = of_margins(torch.zeros(2, dtype=torch.float64))
    assert per_contrast(o.lcpo(o.dpo(0.1), 0.9), zero) == pytest.approx([math.log(2)] * 2)


def test_annotators_beyond_those_there_can_be_are_named() -> None:
    with pytest.raises(ValueError, match="annotators"):
        o.lcpo(o.dpo(), annotators=2)(of_margins(H[:1], annotator=torch.tensor([5.0])))


def test_a_mean_over_chosen_tokens_has_no_other_order() -> None:
    with pytest.raises(ValueError, match="no other order"):
        o.lcpo(o.sft())(of_margins(H))


def test_its_state_and_what_is_in_it_make_its_key() -> None:
    from prefine.fingerprint import key_of

    keys = {key_of(x=o.lcpo(*w)) for w in [(o.dpo(0.1),), (o.dpo(0.2),), (o.dpo(0.1), 0.8), (o.dpo(0.1), 0.9, 0.2)]}
    assert len(keys) == 4 and key_of(x=o.lcpo(o.dpo(0.1))) in keys


def test_a_part_of_a_sum_is_trained_along() -> None:
    from prefine.engine.learner import modules_of

    inner = o.lcpo(o.dpo(0.1))
    assert modules_of(inner) == {"objective": inner}
    assert list(modules_of(o.plus_likelihood(inner, 0.1))) == ["objective.parts.0"]
    assert isinstance(o.read("weighted:lcpo:dpo").objective, Latent)  # type: ignore[attr-defined]
