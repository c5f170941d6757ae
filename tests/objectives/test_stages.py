"""067 SPO (sequential): margins from earlier stages, its closed-form minimiser, its limits."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from prefine import objectives as o
from prefine.objectives.scores import Scores

torch.set_num_threads(1)
F64 = torch.float64


def staged(seed: int, stages: int) -> tuple[Scores, list[list[list[float]]]]:
    """Two pairs with the log-probabilities (token sums) of the policy and of every stage: [row][policy, 0, 1, ..]."""
    rng = random.Random(seed)
    rows = [[rng.uniform(-4, -0.5) for _ in range(stages + 1)] for _ in range(4)]
    logp = torch.tensor([[row[0]] for row in rows], dtype=F64, requires_grad=True)
    references = {f"stage-{k}": torch.tensor([[row[1 + k]] for row in rows], dtype=F64) for k in range(stages)}
    scores = Scores(
        logp, torch.ones(4, 1, dtype=F64), torch.tensor([1, -1] * 2), torch.tensor([0, 0, 1, 1]), references
    )
    return scores, [rows[:2], rows[2:]]


def q_of(row: list[float], n: int, beta: float, alpha: float, lam: float, every: bool) -> float:
    """q(y) of stage n, with R_k by the recursion of the sheet; row = [log pi, log pi_0, log pi_1, ...]."""
    R: list[float] = []
    for k in range(1, n):
        earlier = sum(R) if every else (R[-1] if R else 0.0)
        R.append((beta if k == 1 else alpha) * (row[1 + k] - row[k]) - lam * earlier)
    held = sum(R) if every else (R[-1] if R else 0.0)
    return (beta if n == 1 else alpha) * (row[0] - row[n]) - lam * held


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_value_and_gradient_of_every_stage(n: int, every: bool) -> None:
    beta, alpha, lam = 0.6, 0.5, 0.8
    scores, pairs = staged(n, n)
    loss = o.sequential(n, alpha, lam, beta, every)(scores).mean(scores)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    total, slopes = 0.0, []
    for w, l in pairs:
        gap = q_of(w, n, beta, alpha, lam, every) - q_of(l, n, beta, alpha, lam, every)
        total += math.log1p(math.exp(-gap)) / 2
        slope = -(beta if n == 1 else alpha) / (1 + math.exp(gap)) / 2
        slopes += [slope, -slope]
    assert float(loss) == pytest.approx(total, abs=1e-12)
    assert gradient[:, 0].tolist() == pytest.approx(slopes, abs=1e-12)


def test_without_lam_it_is_dpo_against_the_stage_before() -> None:
    scores, _ = staged(9, 3)
    ours, dpo = o.sequential(3, alpha=0.3, lam=0.0), o.dpo(0.3, reference="stage-2")
    a, b = ours(scores).mean(scores), dpo(scores).mean(scores)
    assert float(a) == float(b)
    assert torch.equal(*(torch.autograd.grad(x, scores.logp_NT)[0] for x in (a, b)))


def test_it_says_which_stages_it_reads() -> None:
    assert set(o.sequential(3).references) == {"stage-2", "stage-1", "stage-0"}
    assert o.sequential(1).references == ("stage-0",)
    assert set(o.smoothed(o.sequential(2), 0.1).references) == {"stage-1", "stage-0"}  # type: ignore[attr-defined]


def test_agreement_with_the_earlier_stage_raises_the_gradient_and_conflict_lowers_it() -> None:
    """The weight is sigma(-(q_w - q_l)): with R_1(w) > R_1(l) it is larger than DPO's."""

    def push(agree: bool) -> float:
        earlier = torch.tensor([[-1.0], [-2.0]] if agree else [[-2.0], [-1.0]], dtype=F64)
        logp = torch.full((2, 1), -1.5, dtype=F64, requires_grad=True)
        s = Scores(
            logp, torch.ones(2, 1, dtype=F64), torch.tensor([1, -1]), torch.zeros(2, dtype=torch.long),
            {"stage-0": torch.full((2, 1), -1.5, dtype=F64), "stage-1": earlier},
        )  # fmt: skip
        same = Scores(**{**vars(s), "logp_NT": (earlier + logp - logp.detach())})  # the policy is stage 1
        return float(torch.autograd.grad(o.sequential(2, 0.5, 1.0, 0.5)(same).mean(same), logp)[0][0])

    assert push(agree=True) < -0.25 < push(agree=False)


def test_the_minimiser_is_the_closed_form() -> None:
    """Sheet 067: 5 responses, beta_1 0.6, a 0.5, lam 0.8: softmax(log pi_1 + (R_2 + lam R_1)/a), to 1e-8."""
    rng = torch.Generator().manual_seed(67)
    base, R1, R2 = (torch.randn(5, generator=rng, dtype=F64) for _ in range(3))
    log0 = base.log_softmax(0)
    log1 = (log0 + R1 / 0.6).log_softmax(0)
    pairs = list(itertools.permutations(range(5), 2))
    w, l = [a for a, _ in pairs], [b for _, b in pairs]
    weight = torch.sigmoid(R2[w] - R2[l])
    theta = log1.clone().requires_grad_()
    objective = o.weighted(o.sequential(2, alpha=0.5, lam=0.8, beta=0.6))

    def interleaved(logp: torch.Tensor) -> torch.Tensor:
        return torch.stack([logp[w], logp[l]], 1).reshape(-1, 1)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logp = interleaved(theta.log_softmax(0))
        scores = Scores(
            logp, torch.ones_like(logp), torch.tensor([1, -1]).repeat(len(pairs)),
            torch.arange(len(pairs)).repeat_interleave(2),
            {"stage-0": interleaved(log0), "stage-1": interleaved(log1)}, {"weight": weight},
        )  # fmt: skip
        value = objective(scores).mean(scores)
        value.backward()
        return value

    optimiser = torch.optim.LBFGS(
        [theta], max_iter=500, tolerance_grad=1e-15, tolerance_change=1e-20, line_search_fn="strong_wolfe"
    )
    for _ in range(8):
        optimiser.step(closure)  # type: ignore[arg-type]
    want = (log1 + (R2 + 0.8 * R1) / 0.5).softmax(0)
    assert torch.allclose(theta.detach().softmax(0), want, atol=1e-8)
