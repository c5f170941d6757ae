"""Numbers far apart: a loss that is finite by its equation is finite here, in float32, and so is its gradient."""

from __future__ import annotations

import pytest
import torch

from prefine import objectives as o
from prefine.objectives.discovered import dbaql
from prefine.objectives.doubly_robust import SampledKL
from prefine.objectives.likelihood import Likelihood
from prefine.objectives.scores import Scores


def finite_with_gradient(loss: torch.Tensor, x: torch.Tensor) -> bool:
    (slope,) = torch.autograd.grad(loss, x)
    return bool(torch.isfinite(loss)) and bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("z", [-100.0, -30.0, 0.0, 50.0])
def test_the_discovered_blend_of_a_batch_that_is_far_apart(z: float) -> None:
    x = torch.tensor([z, 1.0, -2.0], requires_grad=True)
    assert finite_with_gradient(dbaql(x).sum(), x)


def test_the_blend_is_the_papers_where_both_can_be_computed() -> None:
    z = torch.linspace(-0.2, 0.3, 7, dtype=torch.float64)
    c = 1 / (1 + torch.exp(-(z / 0.05).var()))
    want = -c * torch.log(1 / (1 + torch.exp(-z / 0.9))) + (1 - c) * torch.exp(-0.9 * z)
    torch.testing.assert_close(dbaql(z), want, rtol=1e-12, atol=0)


def test_a_logged_response_far_below_the_reference_is_no_sample_of_the_kl() -> None:
    logp = torch.tensor([[-120.0], [-120.0], [-1.0]], requires_grad=True)
    reference = {"reference": torch.tensor([[-1.0], [-1.0], [-1.5]])}
    scores = Scores(logp, torch.ones(3, 1), torch.tensor([1, -1, 0]), torch.tensor([0, 0, 0]), reference)
    loss = SampledKL()(scores).mean(scores)
    assert finite_with_gradient(loss, logp)
    assert loss.item() == pytest.approx(float(torch.exp(torch.tensor(-0.5)) + 0.5 - 1), abs=1e-6)


def test_the_likelihood_of_one_side_does_not_read_the_other() -> None:
    logp = torch.tensor([-1.0, float("-inf")])
    scores = Scores.of_pairs(logp[:1], logp[1:])
    assert Likelihood(lambda s: s.sum())(scores).per_contrast.tolist() == [1.0]


def test_the_conservative_margin_makes_up_for_all_of_the_reference() -> None:
    """beta h - m = beta Delta - gamma wherever Delta_ref < 0, however far."""
    delta, delta_ref = 3.0, -400.0
    scores = Scores.of_pairs([delta], [0.0], [delta_ref], [0.0])
    loss = o.constrained(0.1, 0.2, margin="conservative")(scores).per_contrast
    want = -torch.nn.functional.logsigmoid(torch.tensor(0.1 * delta - 0.2))
    torch.testing.assert_close(loss, want[None].to(loss.dtype), rtol=1e-5, atol=1e-6)
