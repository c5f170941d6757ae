"""Limits in which one objective becomes another, gradient identities, and where gradients stop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives.measures import LogOdds
from prefine.objectives.scores import Objective, Scores, Term, traits

torch.set_num_threads(1)


def pairs(seed: int = 0, groups: int = 5, **values: Tensor) -> Scores:
    """Random pairs with token log-probabilities in float64; the policy's get gradient."""
    g = torch.Generator().manual_seed(seed)
    N, T = 2 * groups, 6
    lengths = torch.randint(1, T + 1, (N,), generator=g)
    mask = (torch.arange(T)[None] < lengths[:, None]).double()

    def logps() -> Tensor:
        return -torch.rand(N, T, generator=g, dtype=torch.float64).add(0.05) * mask

    return Scores(
        logp_NT=logps().requires_grad_(),
        mask_NT=mask,
        role_N=torch.tensor([1, -1]).repeat(groups),
        group_N=torch.arange(groups).repeat_interleave(2),
        references={"reference": logps()},
        values=values,
    )


def loss_and_gradient(objective: Objective, scores: Scores) -> tuple[float, Tensor]:
    loss = objective(scores).mean(scores)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    return loss.item(), gradient


def assert_same(a: Objective, b: Objective, scores: Scores) -> None:
    (loss_a, gradient_a), (loss_b, gradient_b) = loss_and_gradient(a, scores), loss_and_gradient(b, scores)
    assert loss_a == pytest.approx(loss_b, abs=1e-12)
    torch.testing.assert_close(gradient_a, gradient_b, rtol=0, atol=1e-12)


WEIGHT_ONE = torch.ones(5, dtype=torch.float64)

SAME = {
    "092: eta 0 is DPO": (o.regularised(0.2, 0.0), o.dpo(0.2)),
    "092, average: eta 0 is DPO": (o.regularised(0.2, 0.0, average=True), o.dpo(0.2)),
    "016: alpha 0 is DPO": (o.length_regularised(0.2, 0.0), o.dpo(0.2)),
    "070: lambda 0 is SFT": (o.orpo(0.0, prompt_in_nll=False), o.sft()),
    "069: w 1 is DPO + alpha NLL / length": (
        o.scpo(0.5, 0.7), o.add(o.dpo(0.5), o.scale(0.7, o.likelihood(mean=True)))
    ),
    "smoothing 0 is no smoothing": (o.smoothed(o.dpo(0.2), 0.0), o.dpo(0.2)),
    "cDPO is both orders of DPO": (o.smoothed(o.dpo(0.2), 0.3), o.dpo(0.2, label_smoothing=0.3)),
    "a weight of 1 is no weight": (o.weighted(o.ipo(0.3)), o.ipo(0.3)),
    "the average variant is beta times the cumulative one on single tokens": (
        o.regularised(0.2, 0.5 * 0.2, average=True), o.add(o.dpo(0.2), o.scale(0.1, o.likelihood(mean=True)))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_one_objective_becomes_another(name: str) -> None:
    assert_same(*SAME[name], pairs(weight=WEIGHT_ONE))


def test_simpo_without_gamma_is_dpo_on_means_with_a_flat_reference() -> None:
    scores = pairs()
    flat = Scores(**{**vars(scores), "references": {"reference": torch.zeros_like(scores.logp_NT)}})
    mean_dpo = o.Pairs(o.LogRatio(mean=True), o.logistic, 2.0)
    assert_same(o.simpo(2.0, 0.0), mean_dpo, flat)


def test_scpo_with_weight_zero_has_exactly_no_gradient() -> None:
    _, gradient = loss_and_gradient(o.scpo(), pairs(weight=torch.zeros(5, dtype=torch.float64)))
    assert not gradient.any()


def test_scpo_needs_its_weights() -> None:
    with pytest.raises(KeyError, match="weight"):
        o.scpo()(pairs())


def test_sppo_targets_are_two_and_separate() -> None:
    """018: win 1 and 0 put +1/(2 beta) and -1/(2 beta) as targets of the two sides, not of their difference."""
    beta = 0.5
    win = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(5)
    scores = pairs(win=win)
    _, gradient = loss_and_gradient(o.sppo(1 / beta), scores)
    ratio = scores.ratio().detach()
    target = torch.where(scores.role_N > 0, 1 / (2 * beta), -1 / (2 * beta))
    expected = (ratio - target)[:, None] * scores.mask_NT / 5
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


def test_sppo_single_is_sppo_with_complementary_win_rates() -> None:
    p = torch.tensor([0.9, 0.6, 0.5, 0.1, 1.0], dtype=torch.float64)
    scores = pairs(preference=p, win=torch.stack([p, 1 - p], 1).flatten())
    assert_same(o.sppo_single(3.0), o.sppo(3.0), scores)


def test_ipo_pulls_back_what_went_too_far() -> None:
    """114 (c): dL/dh = 2 (h - 1/(2 tau))."""
    tau = 0.25
    for h in (1.0, 2.0, 3.0):
        chosen = torch.tensor([h], dtype=torch.float64, requires_grad=True)
        zero = torch.zeros(1, dtype=torch.float64)
        scores = Scores.of_pairs(chosen, zero, zero, zero)
        (slope,) = torch.autograd.grad(o.ipo(tau)(scores).mean(scores), chosen)
        assert slope.item() == pytest.approx(2 * (h - 2.0), abs=1e-14)


def test_ipo_soft_label_is_the_average_of_both_orders_up_to_a_constant() -> None:
    p = torch.tensor([0.9, 0.6, 0.5, 0.1, 1.0], dtype=torch.float64)
    scores = pairs(preference=p)
    _, soft = loss_and_gradient(o.ipo(0.3, target="preference"), scores)
    _, orders = loss_and_gradient(o.soft_labels(o.ipo(0.3)), scores)
    torch.testing.assert_close(soft, orders, rtol=0, atol=1e-12)


def test_orpo_gradient_is_delta_times_h() -> None:
    """070: the gradient of the odds-ratio part is -delta h, delta = 1/(1 + odds_w/odds_l)."""
    scores = pairs()
    _, gradient = loss_and_gradient(o.Pairs(LogOdds()), scores)
    p = scores.mean().detach().exp()
    odds = p / (1 - p)
    delta = 1 / (1 + odds[0::2] / odds[1::2])
    per_row = torch.stack([-delta / (1 - p[0::2]), delta / (1 - p[1::2])], 1).flatten()  # d/d log P
    expected = (per_row / scores.length_N)[:, None] * scores.mask_NT / 5
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-8)


def test_orpo_odds_do_not_see_the_length() -> None:
    short = Scores.of_pairs([-1.0], [-2.0], chosen_length=[1], rejected_length=[1])
    long = Scores.of_pairs([-5.0], [-8.0], chosen_length=[5], rejected_length=[4])
    pair = o.Pairs(LogOdds())
    assert pair(short).mean(short).item() == pytest.approx(pair(long).mean(long).item(), abs=1e-6)


def test_orpo_of_unlikely_responses_is_the_log_ratio() -> None:
    scores = Scores.of_pairs(torch.tensor([-30.0]).double(), torch.tensor([-31.0]).double())
    expected = math.log1p(math.exp(-1.0))
    assert o.Pairs(LogOdds())(scores).mean(scores).item() == pytest.approx(expected, abs=1e-10)


def test_orpo_of_a_certain_response_is_finite() -> None:
    chosen = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    scores = Scores.of_pairs(chosen, torch.tensor([-1.0]).double())
    loss = o.orpo(1.0, prompt_in_nll=False)(scores).mean(scores)
    loss.backward()
    assert loss.isfinite() and chosen.grad is not None and chosen.grad.isfinite().all()


def test_a_longer_winner_gets_less_gradient() -> None:
    """016: the sign of the length term."""
    slopes = []
    for length in (1, 5, 9):
        chosen = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        zero = torch.zeros(1, dtype=torch.float64)
        scores = Scores.of_pairs(chosen, zero, zero, zero, chosen_length=[length], rejected_length=[5])
        (slope,) = torch.autograd.grad(o.length_regularised(0.1, 0.5)(scores).mean(scores), chosen)
        slopes.append(abs(slope.item()))
    assert slopes[0] > slopes[1] > slopes[2]


def test_sums_and_means_differ_by_the_length() -> None:
    scores = Scores.of_pairs([-6.0], [-1.0], [-3.0], [-1.0], chosen_length=[3], rejected_length=[1])
    assert o.ipo(0.5, mean=False)(scores).mean(scores).item() == pytest.approx((-3.0 - 1.0) ** 2)
    assert o.ipo(0.5, mean=True)(scores).mean(scores).item() == pytest.approx((-1.0 - 1.0) ** 2)


def test_sft_is_a_mean_over_tokens_and_not_over_responses() -> None:
    scores = Scores.of_pairs([-8.0, -1.0], [0.0, 0.0], chosen_length=[4, 1])
    assert o.sft()(scores).mean(scores).item() == pytest.approx(9 / 5)
    mean_of_means = o.likelihood(mean=True)
    assert mean_of_means(scores).mean(scores).item() == pytest.approx((2 + 1) / 2)


def test_weights_and_margins_carry_no_gradient() -> None:
    """A weight that depends on the policy is a constant, as is a margin made of the scores."""
    scores = pairs()

    def confidence(s: Scores) -> Tensor:
        chosen, rejected = s.sides(s.ratio())
        return torch.sigmoid(chosen - rejected)

    fixed = Scores(**{**vars(scores), "values": {"weight": confidence(scores).detach()}})
    _, live = loss_and_gradient(o.weighted(o.dpo(0.3), by=confidence), scores)
    _, constant = loss_and_gradient(o.weighted(o.dpo(0.3)), fixed)
    torch.testing.assert_close(live, constant)
    _, with_margin = loss_and_gradient(o.Pairs(margin=confidence), scores)
    _, with_value = loss_and_gradient(o.Pairs(margin=o.Valued("weight")), fixed)
    torch.testing.assert_close(with_margin, with_value)


def test_the_kto_reference_point_is_shared_and_needs_other_prompts() -> None:
    with pytest.raises(InputError, match="other prompts"):
        o.kto()(pairs())


def test_a_pair_is_two_kto_points() -> None:
    scores = pairs()
    as_pairs = o.kto(0.3, reference_point="zero")
    as_points = Scores(**{**vars(scores), "group_N": torch.arange(10)})
    assert as_pairs(scores).mean(scores).item() == pytest.approx(as_points_loss(as_pairs, as_points))


def as_points_loss(objective: Objective, scores: Scores) -> float:
    return objective(scores).mean(scores).item()


def test_both_orders_refuse_a_token_mean_of_one_side() -> None:
    with pytest.raises(ValueError, match="other order"):
        o.smoothed(o.sft(), 0.1)(pairs())


def test_combinations_ask_for_the_references_of_their_parts() -> None:
    both = o.add(o.dpo(0.1, reference="base"), o.scale(0.5, o.dpo(0.1, reference="last")), o.sft())
    assert traits(both)[0] == ("base", "last")


def test_terms_of_different_units_stay_apart() -> None:
    scores = pairs(groups=5)
    assert [t.per for t in o.orpo(prompt_in_nll=False)(scores).terms] == ["chosen_token", "contrast"]
    assert all(isinstance(t, Term) and t.values.shape == (5,) for t in o.orpo(prompt_in_nll=False)(scores).terms)


BAD = [
    lambda: o.dpo(beta=0.0),
    lambda: o.dpo(beta=float("nan")),
    lambda: o.dpo(label_smoothing=0.5),
    lambda: o.ipo(tau=0.0),
    lambda: o.ipo(target="soft"),
    lambda: o.simpo(beta=-1.0),
    lambda: o.sppo(eta=0.0),
    lambda: o.kto(beta=0.0),
    lambda: o.kto(reference_point="batch"),
    lambda: o.orpo(lam=-0.1),
    lambda: o.regularised(eta=-1.0),
    lambda: o.likelihood(side="both"),
]


@pytest.mark.parametrize("make", BAD)
def test_options_out_of_range_are_input_errors(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError) as error:
        make()
    assert error.value.remedy
