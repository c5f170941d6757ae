"""053 MaPPO, 161 F-DPO, 049 iREPO: against their equations, with their limits and where gradients stop."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives.scores import Objective, Scores

torch.set_num_threads(1)
F64 = torch.float64
LENGTHS = ([3, 1, 2, 4], [2, 2, 1, 5])


def pairs(seed: int, **values: Tensor) -> tuple[Scores, list[Tensor], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    numbers = [-rng.uniform(1, 8, 4) for _ in range(4)]
    leaves = [torch.tensor(x, requires_grad=i < 2) for i, x in enumerate(numbers)]
    scores = Scores.of_pairs(*leaves, chosen_length=LENGTHS[0], rejected_length=LENGTHS[1], **values)  # type: ignore[arg-type]
    return scores, leaves, numbers


def nls(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-x))


Equation = Callable[[list[np.ndarray], np.ndarray], np.ndarray]


def check(objective: Objective, equation: Equation, D: np.ndarray, seed: int, **values: Tensor) -> None:
    scores, leaves, numbers = pairs(seed, **values)
    loss = objective(scores).mean(scores)
    assert loss.item() == pytest.approx(equation(numbers, D).mean(), abs=1e-12)
    found = torch.autograd.grad(loss, leaves[:2], allow_unused=True)
    for side in range(2):
        for i in range(4):
            around = []
            for step in (1e-6, -1e-6):
                moved = [x.copy() for x in numbers]
                moved[side][i] += step
                around.append(equation(moved, D).mean())
            got = found[side]
            assert (0.0 if got is None else got[i].item()) == pytest.approx((around[0] - around[1]) / 2e-6, abs=1e-8)


w_len, l_len = np.array(LENGTHS[0]), np.array(LENGTHS[1])
MAPPO: dict[str, Equation] = {
    "dpo": lambda n, D: nls(0.3 * (n[0] - n[2]) - D * 0.3 * (n[1] - n[3])),
    "simpo": lambda n, D: nls(0.3 * n[0] / w_len - D * 0.3 * n[1] / l_len - 0.8),
    "ipo": lambda n, D: ((n[0] - n[2]) - D * (n[1] - n[3]) - 1 / 0.6) ** 2,
    "cpo": lambda n, D: nls(0.3 * n[0] - 0.3 * D * n[1]) - 0.4 * n[0],
}


@pytest.mark.parametrize("host", MAPPO)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_host_of_mappo_follows_its_equation(host: str, seed: int) -> None:
    """D from rewards in [0, 1], from raw ones through the logistic, and given."""
    rng = np.random.default_rng(seed + 10)
    low = rng.uniform(0, 0.5, 4)
    rewards = np.stack([low + rng.uniform(0, 0.5, 4), low], 1)
    D = rewards[:, 0] - rewards[:, 1]
    raw = np.log(rewards / (1 - rewards))
    for objective, value in (
        (o.mappo(host, 0.3, 0.8, 0.4, bounded=True), torch.tensor(rewards)),
        (o.mappo(host, 0.3, 0.8, 0.4), torch.tensor(raw)),
        (o.mappo(host, 0.3, 0.8, 0.4, by="score"), torch.tensor(D)),
    ):
        check(objective, MAPPO[host], D, seed, score=value)


def gradients(objective: Objective, D: float) -> tuple[float, Tensor, Tensor]:
    scores, leaves, _ = pairs(5, gap=torch.full((4,), D, dtype=F64))
    loss = objective(scores).mean(scores)
    chosen, rejected = torch.autograd.grad(loss, leaves[:2], allow_unused=True)
    return loss.item(), chosen, torch.zeros(4, dtype=F64) if rejected is None else rejected


def test_a_gap_of_one_is_the_host_and_of_zero_leaves_the_rejected_alone() -> None:
    for host, plain in {"dpo": o.dpo(0.1), "simpo": o.simpo(0.1, 1.0), "ipo": o.ipo(0.1, mean=False)}.items():
        ours = gradients(o.mappo(host, 0.1, by="gap"), 1.0)
        theirs = gradients(plain, 1.0)
        assert ours[0] == pytest.approx(theirs[0], abs=1e-12)
        torch.testing.assert_close(ours[1:], theirs[1:], rtol=0, atol=1e-12)
        assert gradients(o.mappo(host, 0.1, by="gap"), 0.0)[2].abs().max() == 0


@pytest.mark.parametrize("D", [0.1, 0.6])
def test_the_two_sides_pull_in_the_ratio_of_the_gap(D: float) -> None:
    _, chosen, rejected = gradients(o.mappo(by="gap"), D)
    torch.testing.assert_close(rejected / chosen, torch.full((4,), -D, dtype=F64), rtol=0, atol=1e-12)


def test_the_prior_has_no_gradient_and_stays_in_its_range() -> None:
    value = torch.tensor([[0.9, 0.2]] * 4, dtype=F64, requires_grad=True)
    scores, leaves, _ = pairs(0, score=value)
    (grad,) = torch.autograd.grad(o.mappo(bounded=True)(scores).mean(scores), [value], allow_unused=True)
    assert grad is None
    against = Scores(**{**vars(scores), "values": {"score": torch.tensor([0.2, 0.9] * 4, dtype=F64)}})
    assert torch.equal(o.mappo(bounded=True)(against).per_contrast, gradients_free(o.mappo(by="gap"), scores, 0.0)), (
        "a prior that contradicts the label is a tie"
    )
    assert leaves[0].grad is None


def gradients_free(objective: Objective, scores: Scores, D: float) -> Tensor:
    return objective(Scores(**{**vars(scores), "values": {"gap": torch.full((4,), D, dtype=F64)}})).per_contrast


def test_the_prior_goes_around_other_losses_and_other_wrappers() -> None:
    scores, _, _ = pairs(2, gap=torch.full((4,), 0.5, dtype=F64))
    around = o.prior_gap(o.smoothed(o.dpo(0.3), 0.1), "gap")(scores).per_contrast
    A, B = (x for x in scores.sides(scores.ratio()))
    u = 0.3 * (A - 0.5 * B)
    want = -0.9 * torch.nn.functional.logsigmoid(u) - 0.1 * torch.nn.functional.logsigmoid(-u)
    torch.testing.assert_close(around, want, rtol=0, atol=1e-12)


# -- F-DPO


@pytest.mark.parametrize("lam", [0.0, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_f_dpo_follows_its_equation(lam: float, seed: int) -> None:
    flags = torch.tensor([[0, 0], [0, 1], [1, 1], [0, 1]], dtype=F64)
    dh = np.array([0, 1, 0, 1])
    equation: Equation = lambda n, D: nls(0.2 * ((n[0] - n[1]) - (n[2] - n[3]) - lam * D))  # noqa: E731
    check(o.factual(0.2, lam), equation, dh, seed, hallucinated=flags)


def test_a_pair_whose_chosen_response_hallucinates_is_turned_round() -> None:
    logp = [torch.randn(4, dtype=F64) for _ in range(4)]
    chosen, rejected, ref_chosen, ref_rejected = logp
    one_way = Scores.of_pairs(*logp, hallucinated=torch.tensor([[1, 0]] * 4, dtype=F64))
    other = Scores.of_pairs(
        rejected, chosen, ref_rejected, ref_chosen, hallucinated=torch.tensor([[0, 1]] * 4, dtype=F64)
    )
    want = -torch.nn.functional.logsigmoid(0.2 * ((rejected - ref_rejected) - (chosen - ref_chosen) - 3.0))
    torch.testing.assert_close(o.factual(0.2, 3.0)(one_way).per_contrast, want, rtol=0, atol=1e-12)
    torch.testing.assert_close(o.factual(0.2, 3.0)(other).per_contrast, want, rtol=0, atol=1e-12)


def test_without_a_margin_or_a_difference_it_is_dpo() -> None:
    for lam, flags in ((0.0, [[0, 1]] * 4), (10.0, [[0, 0], [1, 1]] * 2)):
        scores, _, _ = pairs(0, hallucinated=torch.tensor(flags, dtype=F64))
        assert torch.equal(o.factual(0.1, lam)(scores).per_contrast, o.dpo(0.1)(scores).per_contrast)


def test_the_pull_at_the_reference_is_the_sheets() -> None:
    """sigma(beta lam dh): 1/2 without a difference, sigma(1) = 0.7311 with one, at beta 0.1 and lam 10."""
    zeros = torch.zeros(2, dtype=F64)
    chosen = torch.zeros(2, dtype=F64, requires_grad=True)
    flags = torch.tensor([[0, 0], [0, 1]], dtype=F64)
    scores = Scores.of_pairs(chosen, zeros, zeros, zeros, hallucinated=flags)
    (slope,) = torch.autograd.grad(o.factual(0.1, 10.0)(scores).per_contrast.sum(), chosen)
    assert (-slope / 0.1).tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-1))], abs=1e-12)


# -- iREPO


@pytest.mark.parametrize("seed", [0, 1])
def test_irepo_follows_its_equation(seed: int) -> None:
    P = np.array([0.2, 0.5, 0.99, 1.0])
    q = np.log(np.clip(P, 0.05, 0.95) / (1 - np.clip(P, 0.05, 0.95)))
    equation: Equation = lambda n, D: (0.4 * ((n[0] - n[1]) - (n[2] - n[3])) - D) ** 2  # noqa: E731
    check(o.irepo(0.4, 0.05), equation, q, seed, preference=torch.tensor(P))


def test_the_minimiser_of_irepo_is_the_tilted_policy() -> None:
    """8 responses, target logits r_i - r_j on all pairs, beta 0.4: softmax(log ref + r/beta) to 1e-10."""
    rng = np.random.default_rng(0)
    ref, r, beta = torch.tensor(rng.normal(size=8)).log_softmax(0), torch.tensor(rng.normal(size=8)), 0.4
    want = (ref + r / beta).log_softmax(0)
    i, j = torch.tensor([(a, b) for a in range(8) for b in range(8) if a != b]).T
    objective = o.irepo(beta, 1e-6)

    def loss(theta: Tensor) -> Tensor:
        logp = theta.log_softmax(0)
        scores = Scores.of_pairs(logp[i], logp[j], ref[i], ref[j], preference=torch.sigmoid(r[i] - r[j]))
        return objective(scores).mean(scores)

    theta = ref.clone().requires_grad_()
    for _ in range(3):  # Newton's steps: the loss is quadratic in the logits
        (slope,) = torch.autograd.grad(loss(theta), theta)
        curvature = torch.autograd.functional.hessian(loss, theta.detach())
        theta = (theta - torch.linalg.pinv(curvature) @ slope).detach().requires_grad_()  # type: ignore[operator]
    torch.testing.assert_close(theta.detach().softmax(0), want.exp(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: o.mappo("ppo"), lambda: o.mappo(beta=0.0), lambda: o.mappo(lam=-1.0), lambda: o.factual(lam=-1.0),
        lambda: o.irepo(eps=0.0), lambda: o.irepo(eps=0.5), lambda: o.exo(eps=0.0), lambda: o.exo_rewards(beta_r=0.0),
        lambda: o.discovered("drml"), lambda: o.discopop(tau=0.0), lambda: o.trpa(c=-1.0),
    ],
)  # fmt: skip
def test_wrong_options_are_said(make: Callable[[], Objective]) -> None:
    with pytest.raises(InputError):
        make()
