"""Token weights on where responses differ (105): masks, weights, and what the wrapper does to any loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from prefine import objectives as o
from prefine.objectives import Differing, Scores
from prefine.objectives.differing import differences, mark
from prefine.objectives.scores import Objective

IDS = ((1, 9, 3, 4, 5), (1, 2, 3, 4), (7, 8), (7, 8, 6))


def scores(seed: int = 0) -> Scores:
    g = torch.Generator().manual_seed(seed)
    mask = (torch.arange(5)[None] < torch.tensor([len(i) for i in IDS])[:, None]).double()
    logp, ref = (-2 * torch.rand(4, 5, generator=g, dtype=torch.float64) * mask for _ in range(2))
    return Scores(
        logp.requires_grad_(), mask, torch.tensor([1, -1, -1, 1]), torch.tensor([0, 0, 1, 1]), {"reference": ref},
        ids_N=IDS,
    )  # fmt: skip


MARKS = torch.tensor([[0, 1, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]).double()


def test_masks_of_the_sheet() -> None:
    """ "a b c d" against "a x c d e": 0100 and 01001."""
    assert differences(IDS[0], IDS[1]) == ((0, 1, 0, 0, 1), (0, 1, 0, 0))
    assert differences((1, 2), (1, 2)) == ((0, 0), (0, 0))
    assert differences((1, 2), (3,)) == ((1, 1), (1,))
    assert differences((1, 9, 3, 4, 5), (1, 2, 3, 4), frozenset({9})) == ((0, 0, 0, 0, 1), (0, 1, 0, 0))


def test_marks_go_to_their_rows_whatever_the_order_of_the_sides() -> None:
    assert torch.equal(mark(scores()).double(), MARKS)


def test_long_responses_are_matched_by_their_frequent_tokens_too() -> None:
    """difflib's own setting would call a token in 1% of 200 places popular and leave it out."""
    chosen = tuple([5] * 150 + [7] + [5] * 150)
    rejected = tuple([5] * 301)
    new, old = differences(chosen, rejected)
    assert sum(new) == 1 and sum(old) == 1


@pytest.mark.parametrize("delta", [0.0, 1.5, 50.0])
@pytest.mark.parametrize("own", [False, True])
def test_value_and_gradient_follow_the_equation(delta: float, own: bool) -> None:
    beta, s = 0.3, scores()
    loss = o.correlated(o.dpo(beta), delta, own=own)(s).mean(s)
    (gradient,) = torch.autograd.grad(loss, s.logp_NT)
    lp, rp, m = s.logp_NT.detach(), s.references["reference"], MARKS
    lam = 1 + m * torch.minimum(1 / lp.exp(), torch.tensor(delta).double())
    lam_ref = 1 + m * torch.minimum(1 / rp.exp(), torch.tensor(delta).double()) if own else lam
    side = (lam * lp - lam_ref * rp).sum(-1)
    z = beta * torch.stack([side[0] - side[1], side[3] - side[2]])
    assert loss.item() == pytest.approx(float(torch.log1p((-z).exp()).mean()), abs=1e-14)
    slope = -beta * torch.sigmoid(-z) / 2
    sign = torch.stack([slope[0], -slope[0], -slope[1], slope[1]])
    torch.testing.assert_close(gradient, sign[:, None] * lam * s.mask_NT, rtol=0, atol=1e-15)


def test_weights_lie_between_one_and_one_plus_delta_and_carry_no_gradient() -> None:
    s = scores()
    weights = Differing(1.5)(s, s.logp_NT.detach())
    assert float(weights.min()) == 1.0 and float(weights.max()) <= 2.5
    assert bool((weights[MARKS > 0] >= 2).all()), "1/p is at least 1"


@pytest.mark.parametrize(
    "base", [o.dpo(0.3), o.ipo(0.4), o.simpo(), o.orpo(prompt_in_nll=False), o.length_regularised()]
)
def test_delta_zero_or_equal_responses_leave_any_loss_alone(base: Objective) -> None:
    s = scores()
    twins = ((1,) * 5, (1,) * 4, (1,) * 2, (1,) * 3)  # of other lengths: what is too much is left out by ``plain``
    cases = [o.correlated(base, 0.0)(s), o.correlated(base, 2.0, plain=(1,))(replace(s, ids_N=twins))]
    want = base(s).mean(s)
    (slope,) = torch.autograd.grad(want, s.logp_NT)
    for loss in cases:
        (mine,) = torch.autograd.grad(loss.mean(s), s.logp_NT)
        assert loss.mean(s).item() == pytest.approx(want.item(), abs=1e-15)
        torch.testing.assert_close(mine, slope, rtol=0, atol=1e-15)


def test_means_stay_over_the_length() -> None:
    """IPO and SimPO divide the weighted sum by the number of tokens."""
    s = scores()
    lam = 1 + MARKS * torch.minimum(1 / s.logp_NT.detach().exp(), torch.tensor(1.5).double())
    m = (lam * s.logp_NT.detach()).sum(-1) / s.mask_NT.sum(-1)
    z = 2.0 * torch.stack([m[0] - m[1], m[3] - m[2]]) - 0.5
    want = torch.log1p((-z).exp()).mean()
    assert o.correlated(o.simpo(2.0, 0.5), 1.5)(s).mean(s).item() == pytest.approx(float(want), abs=1e-14)


def test_stopwords_keep_weight_one() -> None:
    s = scores()
    weights = Differing(1.5, plain=(9, 2))(s, s.logp_NT.detach())
    assert float(weights[0, 1]) == 1.0 and float(weights[1, 1]) == 1.0 and float(weights[0, 4]) > 1


def test_scores_without_ids_are_explained() -> None:
    s = replace(scores(), ids_N=())
    with pytest.raises(ValueError, match="no token ids"):
        o.correlated(o.dpo())(s)


def test_the_example_of_the_docstring() -> None:
    logp = torch.tensor([math.log(0.5)]).double()
    s = replace(Scores.of_pairs(logp, 2 * logp, 0 * logp, 2 * logp), ids_N=((5,), (6,)))
    assert o.correlated(o.dpo(1.0), 1.5)(s).mean(s).item() == pytest.approx(math.log(1 + 2**2.5))
