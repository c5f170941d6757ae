"""Exact checks of loops that closed forms exist for, on tabular policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prefine.artifacts import PolicyHandle
from prefine.curating.elliptical import Covariance, pessimistic
from prefine.policies.tabular import Tabular
from prefine.run import Run

BETA, ALPHA = 0.5, 0.4
C = [1.0, 2.4, 3.96, 5.584, 7.2336, 8.89344]


@pytest.fixture
def bandit(tmp_path: Path) -> tuple[Run, PolicyHandle, np.ndarray]:
    rng = np.random.default_rng(3)
    base = Tabular(["x"], list("abcde"), rng.normal(size=(1, 5)))
    base.save(tmp_path / "base")
    run = Run(tmp_path / "run")
    return run, run.policy(tmp_path / "base"), rng.normal(size=(1, 5))


def exactly_solved(run: Run, policy: PolicyHandle, reward: np.ndarray, name: str) -> PolicyHandle:
    """The inner solve in closed form: multiply by exp(r/beta), normalise."""
    path = run.dir / name
    policy.load().tilted(reward, BETA).save(path)  # type: ignore[attr-defined]
    return run.policy(path)


def test_momentum_on_trained_iterates_follows_its_recursion(bandit: tuple[Run, PolicyHandle, np.ndarray]) -> None:
    """hat_t = softmax(log pi_0 + c_t r/beta), c_{t+1} = c_t + alpha (c_t - c_{t-1}) + 1 (sheet 005)."""
    run, start, reward = bandit
    base = start.load().logp_PA().detach()  # type: ignore[attr-defined]
    policy = trained = start
    for t in range(6):
        last, trained = trained, exactly_solved(run, policy, reward, f"hat-{t}")
        want = (base + C[t] * torch.as_tensor(reward) / BETA).log_softmax(-1)
        assert torch.allclose(trained.load().logp_PA(), want, atol=1e-10)  # type: ignore[attr-defined]
        policy = run.merge({trained: 1 + ALPHA, last: -ALPHA})


def test_without_momentum_the_coefficients_count_rounds(bandit: tuple[Run, PolicyHandle, np.ndarray]) -> None:
    """alpha = 0: c_t = t, plain iteration; and with momentum c_T is its closed sum."""
    run, start, reward = bandit
    base = start.load().logp_PA().detach()  # type: ignore[attr-defined]
    policy = trained = start
    for t in range(1, 5):
        last, trained = trained, exactly_solved(run, policy, reward, f"plain-{t}")
        want = (base + t * torch.as_tensor(reward) / BETA).log_softmax(-1)
        assert torch.allclose(trained.load().logp_PA(), want, atol=1e-10)  # type: ignore[attr-defined]
        policy = run.merge({trained: 1.0, last: -0.0})
    for T in range(1, 7):
        assert sum((1 - ALPHA**k) / (1 - ALPHA) for k in range(1, T + 1)) == pytest.approx(C[T - 1])


def test_momentum_against_the_extrapolated_policy_does_not(bandit: tuple[Run, PolicyHandle, np.ndarray]) -> None:
    run, start, reward = bandit
    base = start.load().logp_PA().detach()  # type: ignore[attr-defined]
    policy = start
    for t in range(3):
        trained = exactly_solved(run, policy, reward, f"wrong-{t}")
        policy = run.merge({trained: 1 + ALPHA, policy: -ALPHA})
    want = (base + C[2] * torch.as_tensor(reward) / BETA).log_softmax(-1)
    assert not torch.allclose(trained.load().logp_PA(), want, atol=0.1)  # type: ignore[attr-defined]


def test_uncertainty_never_grows_when_the_same_differences_are_added() -> None:
    rng = np.random.default_rng(0)
    differences, probe = rng.normal(size=(30, 4)), rng.normal(size=(7, 4))
    seen = Covariance.ridge(4)
    before = seen.norm(probe)
    for row in differences:
        seen = seen.add(row[None])
        now = seen.norm(probe)
        assert np.all(now <= before + 1e-12)
        before = now


def test_the_elliptical_norm_is_the_quadratic_form() -> None:
    rng = np.random.default_rng(1)
    z, v = rng.normal(size=(5, 3)), rng.normal(size=(2, 4, 3))
    sigma = np.eye(3) * 0.5 + sum(np.outer(row, row) for row in z)
    want = np.sqrt(np.einsum("abi,ij,abj->ab", v, np.linalg.inv(sigma), v))
    assert np.allclose(Covariance.ridge(3, 0.5).add(z).norm(v), want)


def test_pessimism_takes_off_more_where_less_was_seen() -> None:
    seen = Covariance.ridge(2).add(np.array([[10.0, 0.0]]))
    phi = np.eye(2)
    known, unknown = pessimistic(np.zeros(2), phi, np.zeros(2), seen, 1.0)
    assert unknown < known < 0
