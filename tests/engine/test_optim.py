"""Optimisers and schedules, by their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from prefine.engine.optim import OPTIMIZERS, SCHEDULES, factor, optimizer_for, parameter_groups, set_learning_rate
from prefine.engine.settings import TrainSettings


def curve(name: str, steps: int = 10, warmup: float = 0.2) -> list[float]:
    return [factor(name, s, steps, warmup) for s in range(steps)]


def test_schedules_follow_their_formulas_after_warmup() -> None:
    after = range(8)
    assert curve("constant")[2:] == [1.0] * 8
    assert curve("linear")[2:] == pytest.approx([1 - s / 8 for s in after])
    assert curve("cosine")[2:] == pytest.approx([math.cos(math.pi * s / 16) ** 2 for s in after])
    assert curve("inverse-sqrt")[2:] == pytest.approx([(1 + s) ** -0.5 for s in after])


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_rises_in_equal_steps_and_no_step_is_wasted_at_zero(name: str) -> None:
    assert curve(name, steps=20, warmup=0.25)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(0 < value <= 1 for warmup in (0.0, 0.1, 0.9) for value in curve(name, 7, warmup))
    assert curve(name, steps=1, warmup=0.5) == [1.0]
    assert curve(name, steps=3, warmup=0.0)[0] == 1.0


def test_weight_decay_is_on_matrices_only() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    settings = TrainSettings(weight_decay=0.1)
    matrices, vectors = parameter_groups(module.parameters(), settings, 0.5)
    assert [p.ndim for p in matrices["params"]] == [2] and matrices["weight_decay"] == 0.1
    assert [p.ndim for p in vectors["params"]] == [1, 1, 1] and vectors["weight_decay"] == 0.0


def test_frozen_parameters_have_no_group() -> None:
    module = nn.Linear(3, 2)
    module.weight.requires_grad_(False)
    (group,) = parameter_groups(module.parameters(), TrainSettings(), 0.5)
    assert group["params"] == [module.bias]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_goes_downhill_at_the_learning_rate_it_is_given(name: str) -> None:
    x = nn.Parameter(torch.full((2, 2), 3.0))
    settings = TrainSettings(optimizer=name, lr=0.1, weight_decay=0.01)
    optimizer = optimizer_for(parameter_groups([x], settings, settings.lr), settings)
    set_learning_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.05
    for _ in range(20):
        optimizer.zero_grad()
        (x**2).sum().backward()
        optimizer.step()
    assert bool((x < 3.0).all())


def test_sgd_is_gradient_descent() -> None:
    x = nn.Parameter(torch.tensor([[2.0]]))
    settings = TrainSettings(optimizer="sgd", lr=0.1)
    optimizer = optimizer_for(parameter_groups([x], settings, settings.lr), settings)
    (x**2).sum().backward()
    optimizer.step()
    assert x.item() == pytest.approx(2.0 - 0.1 * 4.0)
