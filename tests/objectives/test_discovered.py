"""044 DiscoPOP: the losses a search found, against their equations written in numpy, and what is known of LRML."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from prefine import objectives as o
from prefine.objectives.discovered import LOSSES, LogRatioModulated
from prefine.objectives.scores import Scores, traits

torch.set_num_threads(1)
Four = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def sig(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def nls(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-x))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def rho(f: Four) -> np.ndarray:
    return (f[0] - f[1]) - (f[2] - f[3])


def lrml(f: Four, beta: float) -> np.ndarray:
    z = beta * rho(f)
    g = sig(z / 0.05)
    return (1 - g) * nls(z) + g * np.exp(-z)


def cell(f: Four, beta: float) -> np.ndarray:
    z = beta * rho(f)
    return 0.5 * np.exp(-z) + 0.5 * nls(z)


def dbaql(f: Four, beta: float) -> np.ndarray:
    z = beta * rho(f)
    c = sig(np.var(z / 0.05, ddof=1))
    return c * nls(z / 0.9) + (1 - c) * np.exp(-0.9 * z)


def aql(f: Four, beta: float) -> np.ndarray:
    z = beta * rho(f)
    q = 0.5 + 0.01 * (sig(np.mean(z / 0.05)) - 0.5)
    w = sig(-(z / 0.05 - q))
    return w * nls(z) + (1 - w) * relu(1 - z)


def aqfl(f: Four, beta: float) -> np.ndarray:
    z = beta * rho(f)
    s = np.std(z / 0.05, ddof=1)
    q = s * np.mean(sig(-z / 0.05))
    q = q + 0.05 * (sig(np.mean(z / 0.05)) - q)
    b = sig(0.1 * np.abs(z / 0.05 - q))
    return b * nls(z) + (1 - b) * relu(1 - z)


def padll(f: Four, beta: float) -> np.ndarray:
    return 0.9 * (1 - 0.5 * (rho(f) < 0)) * nls(beta * rho(f))


def pfl(f: Four, beta: float) -> np.ndarray:
    z = beta * rho(f)
    return np.where(f[0] > f[1], nls(z) / 2, 2 * relu(1 - z))


EQUATIONS: dict[str, Callable[[Four, float], np.ndarray]] = {
    "lrml": lrml, "cell": cell, "dbaql": dbaql, "aql": aql, "aqfl": aqfl, "padll": padll, "pfl": pfl,
}  # fmt: skip


def four(seed: int, n: int = 6) -> Four:
    rng = np.random.default_rng(seed)
    return tuple(-rng.uniform(1, 9, n) for _ in range(4))  # type: ignore[return-value]


def scores_of(f: Four) -> tuple[Scores, list[Tensor]]:
    leaves = [torch.tensor(x, requires_grad=i < 2) for i, x in enumerate(f)]
    lengths = [2, 1, 3, 1, 2, 4][: len(f[0])]
    return Scores.of_pairs(*leaves, chosen_length=lengths, rejected_length=lengths[::-1]), leaves


def test_every_loss_of_the_catalogue_has_an_equation() -> None:
    assert set(LOSSES) == set(EQUATIONS)


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("beta", [0.05, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_follow_the_equation(name: str, beta: float, seed: int) -> None:
    """Nothing is detached: the slope is the equation's own, through gates and batch statistics too."""
    f = four(seed)
    scores, leaves = scores_of(f)
    loss = o.discovered(name, beta)(scores)
    assert loss.per_contrast.detach().numpy() == pytest.approx(EQUATIONS[name](f, beta), abs=1e-12)
    found = torch.autograd.grad(loss.mean(scores), leaves[:2])
    h = 1e-6
    for side in range(2):
        for i in range(len(f[0])):
            slopes = []
            for sign in (1, -1):
                moved = [x.copy() for x in f]
                moved[side][i] += sign * h
                slopes.append(EQUATIONS[name](tuple(moved), beta).mean())  # type: ignore[arg-type]
            assert found[side][i].item() == pytest.approx((slopes[0] - slopes[1]) / (2 * h), abs=1e-8)


def test_losses_on_batch_statistics_take_the_step_as_one_batch() -> None:
    assert {name for name in LOSSES if traits(o.discovered(name))[2]} == {"dbaql", "aql", "aqfl"}


@pytest.mark.parametrize("name", ["dbaql", "aql", "aqfl"])
def test_a_batch_of_one_and_a_batch_without_spread_are_numbers(name: str) -> None:
    for f in (four(0, 1), tuple(np.full(3, -1.0) for _ in range(4))):
        scores, leaves = scores_of(f)  # type: ignore[arg-type]
        loss = o.discovered(name)(scores).mean(scores)
        gradients = torch.autograd.grad(loss, leaves[:2])
        assert torch.isfinite(loss) and all(bool(torch.isfinite(g).all()) for g in gradients)


def curve(z: float) -> float:
    return float(LogRatioModulated()(torch.tensor(z, dtype=torch.float64)))


def slope(z: float) -> float:
    x = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(LogRatioModulated()(x), x)[0])


def test_the_ends_of_lrml_are_the_logistic_and_the_exponential_loss() -> None:
    assert curve(-3.0) - float(nls(np.array(-3.0))) == pytest.approx(0, abs=1e-12)
    assert curve(3.0) / np.exp(-3.0) == pytest.approx(1, abs=1e-12)
    assert curve(0.0) == pytest.approx(0.5 * np.log(2) + 0.5, abs=1e-12)


def test_lrml_has_two_stationary_points_and_no_more() -> None:
    assert curve(-0.118570) == pytest.approx(0.785924, abs=1e-6) and curve(0.072006) == pytest.approx(
        0.878290, abs=1e-6
    )
    assert slope(-0.118570) == pytest.approx(0, abs=1e-4) and slope(0.072006) == pytest.approx(0, abs=1e-4)
    signs = np.sign([slope(float(z)) for z in np.linspace(-4, 4, 1601)])
    assert (np.diff(signs) != 0).sum() == 2


def test_the_gate_of_lrml_carries_gradient() -> None:
    """With the gate detached the slope at 0 would be -(0.5 * 0.5 + 0.5); its own part is (1 - log 2)/4 tau."""
    assert slope(0.0) == pytest.approx(-0.75 + (1 - np.log(2)) / (4 * 0.05), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pair_that_is_far_wrong_is_still_a_number(dtype: torch.dtype) -> None:
    z = torch.tensor([-500.0, -90.0, 90.0], dtype=dtype, requires_grad=True)
    loss = LogRatioModulated()(z)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert bool(torch.isfinite(loss).all()) and bool(torch.isfinite(gradient).all())
    assert gradient[0].item() == pytest.approx(-1)
