"""052 DRPO: the estimator's double robustness by enumeration, the loss against its equation, its minimum."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.objectives.doubly_robust import value
from prefine.objectives.scores import Scores

torch.set_num_threads(1)
F64 = torch.float64


def instance(seed: int) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    pi, mu, wrong = (torch.from_numpy(rng.dirichlet(np.ones(4))) for _ in range(3))
    reward = torch.from_numpy(rng.normal(scale=1.5, size=4))
    return pi, mu, wrong, torch.sigmoid(reward[:, None] - reward)


@pytest.mark.parametrize("seed", range(5))
def test_psi_is_the_truth_if_either_model_is_right(seed: int) -> None:
    """Sheet 052, by sums over all responses: truth = E_{pi, mu} P."""
    pi, mu, wrong, P = instance(seed)
    half = torch.full((4, 4), 0.5, dtype=F64)
    truth = float(pi @ P @ mu)
    assert value(pi, wrong, mu, P, P) == pytest.approx(truth, abs=1e-12)  # (i) the reference is wrong
    assert value(pi, mu, mu, half, P) == pytest.approx(truth, abs=1e-12)  # (ii) the model is indifferent
    assert value(pi, mu, mu, 1 - P, P) == pytest.approx(truth, abs=1e-12)  # or reversed
    # the direct method alone
    assert float(pi @ half @ mu) == pytest.approx(0.5)


def test_psi_is_wrong_if_both_are() -> None:
    off = []
    for seed in range(20):
        pi, mu, wrong, P = instance(seed)
        off.append(abs(value(pi, wrong, mu, 1 - P, P) - float(pi @ P @ mu)))
    assert np.mean(np.array(off) > 0.05) > 0.8


def batch(seed: int, sampler: bool = False) -> tuple[Scores, list[dict[str, list[float]]]]:
    """Two rows of the data with two samples each; tokens 1 or 2."""
    rng = random.Random(seed)
    rows: list[dict[str, list[float]]] = []
    for n in (2, 1, 2, 1, 2, 2):
        rows.append({name: [rng.uniform(-1.6, -0.2) for _ in range(n)] for name in ("logp", "reference", "sampler")})

    def padded(name: str) -> torch.Tensor:
        return torch.tensor([[*row[name], *[0.0] * (2 - len(row[name]))] for row in rows], dtype=F64)

    scores = Scores(
        padded("logp").requires_grad_(),
        torch.tensor([[1.0] * len(r["logp"]) + [0.0] * (2 - len(r["logp"])) for r in rows], dtype=F64),
        torch.tensor([1, 0, 0, -1, 0, 0]), torch.tensor([0, 0, 0, 1, 1, 1]),
        {"reference": padded("reference"), **({"sampler": padded("sampler")} if sampler else {})},
        {"residual": torch.tensor([1 - 0.3, 0 - 0.8], dtype=F64),
         "win": torch.tensor([0.3, 0.6, 0.9, 0.8, 0.2, 0.4], dtype=F64)},
    )  # fmt: skip
    return scores, rows


def surrogate(
    rows: list[dict[str, list[float]]], at: list[dict[str, list[float]]], ratio: str, estimator: str, sampler: bool
) -> float:
    """L1 + L2 + beta KL with every constant taken at ``at`` (where gradients stop) and log pi from ``rows``."""
    beta, C, b = 0.3, 1.5, 0.1
    residual, win = [0.7, -0.8], [0.3, 0.6, 0.9, 0.8, 0.2, 0.4]
    rho = [math.exp(sum(at[n]["logp"]) - sum(at[n]["reference"])) for n in (0, 3)]
    if ratio == "clip":
        rho = [min(max(x, 1 / C), C) for x in rho]
    if ratio == "self-normalised":
        rho = [2 * x / sum(rho) for x in rho]
    total = 0.0
    for g, first in enumerate((0, 3)):
        if estimator != "direct":
            total -= rho[g] * residual[g] * sum(rows[first]["logp"]) / 2
        for n in (first + 1, first + 2):
            v = math.exp(sum(at[n]["logp"]) - sum(at[n]["sampler"])) if sampler else 1.0
            v = min(max(v, 1 / C), C) if sampler else v
            if estimator != "importance":
                total -= v * (win[n] - b) * sum(rows[n]["logp"]) / 2 / 2
            d = [y - x for x, y in zip(rows[n]["logp"], rows[n]["reference"], strict=True)]
            total += beta * sum(math.exp(x) - x - 1 for x in d) / 2 / 2
    return total


@pytest.mark.parametrize("sampler", [False, True])
@pytest.mark.parametrize("estimator", ["doubly-robust", "direct", "importance"])
@pytest.mark.parametrize("ratio", ["clip", "none", "self-normalised"])
def test_value_and_gradient(ratio: str, estimator: str, sampler: bool) -> None:
    """Central differences of the surrogate with its constants held: a ratio with a gradient would be seen."""
    scores, rows = batch(8, sampler)
    objective = o.doubly_robust(0.3, 1.5, ratio, estimator, 0.1, "sampler" if sampler else None)
    loss = objective(scores).mean(scores)
    (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
    at = [{name: list(x) for name, x in row.items()} for row in rows]
    assert float(loss) == pytest.approx(surrogate(rows, at, ratio, estimator, sampler), abs=1e-12)
    for n, row in enumerate(rows):
        for t in range(len(row["logp"])):
            ends = []
            for step in (1e-6, -1e-6):
                row["logp"][t] += step
                ends.append(surrogate(rows, at, ratio, estimator, sampler))
                row["logp"][t] -= step
            assert float(gradient[n, t]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


def test_what_it_asks_for() -> None:
    assert o.traits(o.doubly_robust())[0] == ("reference",)
    assert o.traits(o.doubly_robust(sampler="sampler"))[0] == ("reference", "sampler")
    assert o.traits(o.doubly_robust(ratio="self-normalised"))[2], "it normalises over the step"
    assert not o.traits(o.doubly_robust())[2]


def test_the_expected_gradient_is_that_of_psi() -> None:
    """All rows and samples weighted by their probabilities, no KL, no cut: grad L = -grad psi, whatever g is."""
    rng = np.random.default_rng(5)
    mu, P = instance(5)[1], instance(5)[3]
    g = torch.from_numpy(rng.uniform(size=(4, 4)))
    logits = torch.from_numpy(rng.normal(size=4)).requires_grad_()
    psi = (logits.softmax(0) @ g @ mu) + ((mu * (logits.softmax(0) / mu)) @ (P - g) @ mu)
    (want,) = torch.autograd.grad(psi, logits)
    objective = o.weighted(o.doubly_robust(beta=0.0, ratio="none"), "weight")
    logp = logits.log_softmax(0)
    pi = logp.exp().detach()
    rows, weights, residual, win, roles = [], [], [], [], []
    for a1 in range(4):
        for a2 in range(4):
            for z in (1, 0):
                for a in range(4):
                    p = float(mu[a1] * mu[a2] * (P[a1, a2] if z else 1 - P[a1, a2]) * pi[a])
                    rows += [a1, a]
                    weights.append(p)
                    residual.append(z - float(g[a1, a2]))
                    win += [0.0, float(g[a, a2])]
                    roles += [1 if z else -1, 0]
    x = logp[rows][:, None]
    scores = Scores(
        x, torch.ones_like(x), torch.tensor(roles), torch.arange(len(weights)).repeat_interleave(2),
        {"reference": mu.log()[rows][:, None]},
        {"residual": torch.tensor(residual, dtype=F64), "win": torch.tensor(win, dtype=F64),
         "weight": torch.tensor(weights, dtype=F64)},
    )  # fmt: skip
    total = objective(scores).per_contrast.sum()
    (got,) = torch.autograd.grad(total, logits)
    assert torch.allclose(got, -want, atol=1e-10)
