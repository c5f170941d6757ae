"""Self-guided DPO (057) against its equation in plain Python."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives import RandomTokens, Scores, SelfGuided

LENGTHS = [(4, 6), (5, 2), (1, 3)]
BETA = 0.3


def scores(seed: int = 0, lengths: list[tuple[int, int]] = LENGTHS) -> Scores:
    g = torch.Generator().manual_seed(seed)
    rows = [n for pair in lengths for n in pair]
    mask = (torch.arange(max(rows))[None] < torch.tensor(rows)[:, None]).double()
    logp = -torch.rand(mask.shape, generator=g, dtype=torch.float64) * mask
    reference = -torch.rand(mask.shape, generator=g, dtype=torch.float64) * mask
    return Scores(
        logp.requires_grad_(), mask, torch.tensor([1, -1]).repeat(len(lengths)),
        torch.arange(len(lengths)).repeat_interleave(2), {"reference": reference},
    )  # fmt: skip


@dataclass(frozen=True)
class Fixed(RandomTokens):
    """The first tokens instead of random ones, ``first[row]`` of them."""

    first: tuple[int, ...] = ()

    def __call__(self, scores: Scores) -> Tensor:
        return (torch.arange(scores.mask_NT.shape[1])[None] < torch.tensor(self.first)[:, None]).double()


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_value_and_gradient_follow_the_equation_with_the_pilots_held() -> None:
    first = (2, 3, 4, 1, 1, 2)
    s = scores()
    loss = SelfGuided(Fixed(first=first), beta=BETA)(s).mean(s)
    (gradient,) = torch.autograd.grad(loss, s.logp_NT)
    ratio = (s.logp_NT.detach() - s.references["reference"]).tolist()
    total, slopes = 0.0, []
    for i, (nw, nl) in enumerate(LENGTHS):
        w, l = ratio[2 * i], ratio[2 * i + 1]
        u1 = BETA * (math.fsum(w[:nw]) - math.fsum(l[: first[2 * i + 1]]))
        u2 = BETA * (math.fsum(w[: first[2 * i]]) - math.fsum(l[:nl]))
        total += -0.5 * log_sigmoid(u1) - 0.5 * log_sigmoid(u2)
        slopes += [-0.5 * BETA / (1 + math.exp(u1)), 0.5 * BETA / (1 + math.exp(u2))]
    assert loss.item() == pytest.approx(total / 3, abs=1e-14)
    # Every token of a side has the same slope, also those in the pilot: nothing flows through the detached copy.
    want = torch.tensor(slopes, dtype=torch.float64)[:, None] / 3 * s.mask_NT
    torch.testing.assert_close(gradient, want, rtol=0, atol=1e-15)


def test_whole_pilots_of_equal_lengths_are_dpo_with_half_the_gradient() -> None:
    s = scores(lengths=[(4, 4), (3, 3)])
    ours, dpo = o.self_guided(BETA, 1.0, 1.0)(s).mean(s), o.dpo(BETA)(s).mean(s)
    assert ours.item() == pytest.approx(dpo.item(), abs=1e-15)
    (a,), (b,) = torch.autograd.grad(ours, s.logp_NT), torch.autograd.grad(dpo, s.logp_NT)
    torch.testing.assert_close(a, b / 2, rtol=0, atol=1e-16)


def test_sides_move_by_the_ratio_of_their_sigmoids() -> None:
    s = scores(3, [(6, 6)])
    torch.manual_seed(5)
    pick = RandomTokens(0.5, 0.5)(s)
    torch.manual_seed(5)
    loss = SelfGuided(RandomTokens(0.5, 0.5), beta=BETA)(s).mean(s)
    (gradient,) = torch.autograd.grad(loss, s.logp_NT)
    ratio = s.ratio_NT().detach()
    whole, pilot = ratio.sum(-1), (ratio * pick).sum(-1)
    u1, u2 = BETA * (whole[0] - pilot[1]), BETA * (pilot[0] - whole[1])
    assert float(gradient[0, 0] / -gradient[1, 0]) == pytest.approx(float(torch.sigmoid(-u1) / torch.sigmoid(-u2)))


@pytest.mark.parametrize("rho", [0.05, 0.3, 0.6, 0.7, 0.9, 1.0])
def test_a_pilot_has_k_tokens_that_count_by_the_shorter_length(rho: float) -> None:
    s = scores()
    holes = s.mask_NT.clone()
    holes[0, 1] = 0.0  # a token that does not count can be in no pilot
    s = Scores(s.logp_NT, holes, s.role_N, s.group_N, s.references)
    picked = RandomTokens(rho, 1.0)(s)
    assert not bool((picked * (1 - holes)).any())
    ten = scores(lengths=[(10, 10)])  # where 0.7 and 0.6 in less than float64 would be a token short
    assert int(RandomTokens(rho, rho)(ten)[0].sum()) == max(int(10 * rho), 1)
    for i, (w, l) in enumerate([(3, 6), (5, 2), (1, 3)]):
        assert int(picked[2 * i].sum()) == max(int(min(w, l) * rho), 1)
        assert int(picked[2 * i + 1].sum()) == min(w, l)


def test_pilots_are_redrawn_and_repeat_with_the_seed() -> None:
    s = scores(lengths=[(12, 12)] * 4)
    torch.manual_seed(0)
    first, second = RandomTokens()(s), RandomTokens()(s)
    torch.manual_seed(0)
    again = RandomTokens()(s)
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_every_token_is_as_likely_to_be_picked() -> None:
    s = scores(lengths=[(5, 5)] * 3000)
    torch.manual_seed(1)
    share = RandomTokens(0.6, 0.6)(s).mean(0)
    assert torch.allclose(share, torch.full((5,), 0.6, dtype=share.dtype), atol=0.03)


def test_smoothing_softens_each_half() -> None:
    s = scores(lengths=[(1, 1)])
    h = float(s.ratio().detach()[0] - s.ratio().detach()[1]) * BETA
    want = -0.8 * log_sigmoid(h) - 0.2 * log_sigmoid(-h)
    assert o.self_guided(BETA, label_smoothing=0.2)(s).mean(s).item() == pytest.approx(want, abs=1e-14)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(InputError, match="is not a share"):
        o.self_guided(rho_chosen=share)
