"""AMPO's loss against its equation, written in numpy; its limits; what it does to each member."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prefine import objectives
from prefine.errors import InputError
from prefine.objectives import Scores

ROLES = [1, -1, -1, -1, 1, 1, -1, 0]
GROUPS = [0, 0, 0, 0, 1, 1, 1, 1]
LENGTHS = [3, 2, 1, 4, 2, 2, 3, 1]
REWARDS = [1.5, -2.0, 0.3, -0.4, 0.9, 0.5, -1.0, 7.0]


def batch(logp: np.ndarray, **values: list[float]) -> Scores:
    """Token sums spread evenly over tokens, padded."""
    width = max(LENGTHS)
    mask = torch.tensor([[float(t < n) for t in range(width)] for n in LENGTHS], dtype=torch.float64)
    token = torch.as_tensor(logp, dtype=torch.float64) / torch.tensor(LENGTHS, dtype=torch.float64)
    given = {"score": REWARDS, **values}
    return Scores(
        token[:, None] * mask, mask, torch.tensor(ROLES), torch.tensor(GROUPS),
        values={name: torch.tensor(v, dtype=torch.float64) for name, v in given.items()},
    )  # fmt: skip


LOGP = np.random.default_rng(0).normal(-4, 2, size=8)


def equation(logp: np.ndarray, beta: float, alpha: float, absolute: bool, mean: list[float] | None) -> float:
    total = 0.0
    for g in (0, 1):
        inside = [i for i in range(8) if GROUPS[i] == g and ROLES[i] != 0]
        around = np.mean([REWARDS[i] for i in inside]) if mean is None else mean[g]
        s = {}
        for i in inside:
            away = abs(REWARDS[i] - around) if absolute else REWARDS[i] - around
            s[i] = beta * logp[i] / LENGTHS[i] + alpha * away
        total -= np.log(sum(np.exp(s[i]) for i in inside if ROLES[i] > 0) / sum(np.exp(v) for v in s.values()))
    return total / 2


@pytest.mark.parametrize("deviation", ["signed", "absolute"])
@pytest.mark.parametrize("mean", [None, [0.25, -0.5]])
def test_value_and_gradient_are_the_equation_s(deviation: str, mean: list[float] | None) -> None:
    values = {} if mean is None else {"mean_score": mean}
    tensor = torch.tensor(LOGP, requires_grad=True)
    lengths = torch.tensor(LENGTHS, dtype=torch.float64)
    scores = batch(LOGP, **values)
    live = Scores(
        (tensor / lengths)[:, None] * scores.mask_NT, scores.mask_NT, scores.role_N, scores.group_N, {}, scores.values
    )
    loss = objectives.ampo(2.0, 0.7, deviation)(live).mean(live)
    absolute = deviation == "absolute"
    assert loss.item() == pytest.approx(equation(LOGP, 2.0, 0.7, absolute, mean), rel=1e-12)
    (slope,) = torch.autograd.grad(loss, tensor)
    for i in range(8):
        up, down = LOGP.copy(), LOGP.copy()
        up[i] += 1e-6
        down[i] -= 1e-6
        by_hand = (equation(up, 2.0, 0.7, absolute, mean) - equation(down, 2.0, 0.7, absolute, mean)) / 2e-6
        assert float(slope[i]) == pytest.approx(by_hand, abs=1e-8)


def test_signed_offsets_do_not_depend_on_the_mean_and_absolute_ones_do() -> None:
    signed, absolute = (objectives.ampo(1.0, 1.0, kind) for kind in ("signed", "absolute"))
    far = {"mean_score": [3.0, 3.0]}
    assert float(signed(batch(LOGP)).mean(batch(LOGP))) == pytest.approx(
        float(signed(batch(LOGP, **far)).mean(batch(LOGP, **far)))
    )
    assert float(absolute(batch(LOGP)).mean(batch(LOGP))) != pytest.approx(
        float(absolute(batch(LOGP, **far)).mean(batch(LOGP, **far)))
    )


def test_with_a_signed_offset_the_worst_is_pushed_least_and_with_an_absolute_one_most() -> None:
    """Three equally likely rejected responses: the pull on s_i is its share of the softmax."""
    pulls = {}
    for kind in ("signed", "absolute"):
        logp = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        scores = Scores(
            logp[:, None], torch.ones(4, 1, dtype=torch.float64), torch.tensor([1, -1, -1, -1]),
            torch.zeros(4, dtype=torch.long), {}, {"score": torch.tensor([1.0, -1.0, -2.0, -3.0]).double()},
        )  # fmt: skip
        (slope,) = torch.autograd.grad(objectives.ampo(1.0, 1.0, kind)(scores).mean(scores), logp)
        pulls[kind] = slope[1:].tolist()
    assert pulls["signed"] == sorted(pulls["signed"], reverse=True)
    assert pulls["absolute"][-1] == max(pulls["absolute"])


def test_one_against_one_without_offsets_is_simpo_without_a_margin() -> None:
    pair = Scores.of_pairs(
        torch.tensor([-4.0, -1.0]).double(),
        torch.tensor([-6.0, -9.0]).double(),
        chosen_length=[2, 1],
        rejected_length=[3, 2],
        score=torch.ones(2, 2),
    )
    ours, theirs = objectives.ampo(2.5, 0.0), objectives.simpo(2.5, 0.0)
    assert torch.allclose(ours(pair).per_contrast, theirs(pair).per_contrast)


def test_rewards_are_constants_and_there_is_no_reference() -> None:
    rewards = torch.tensor(REWARDS, dtype=torch.float64, requires_grad=True)
    plain = batch(LOGP)
    scores = Scores(plain.logp_NT, plain.mask_NT, plain.role_N, plain.group_N, {}, {"score": rewards})
    assert not objectives.ampo()(scores).mean(scores).requires_grad
    assert objectives.ampo().references == ()
    with pytest.raises(InputError, match="deviation"):
        objectives.ampo(deviation="none")
