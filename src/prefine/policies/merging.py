"""Weight arithmetic: policies of one shape added up."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefine.artifacts import PolicyHandle
from prefine.errors import InputError
from prefine.policies.base import Policy


def merged(parts: Sequence[tuple[PolicyHandle, float]]) -> Policy:
    """The sum of weight x parameters, in float64, in the first policy's form. What is not a floating-point number
    (a counter, a mask) is the first policy's."""
    total = parts[0][0].fresh()
    assert total.module is not None
    target = total.module.state_dict()
    sums = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in target.items() if t.is_floating_point()}
    for handle, weight in parts:
        other = handle.load().module
        assert other is not None
        state = other.state_dict()
        if state.keys() != target.keys():
            raise InputError(
                "cannot merge policies of different shapes", remedy="merge policies with a common ancestor"
            )
        for name, sum_ in sums.items():
            sum_.add_(state[name].double(), alpha=weight)
    with torch.no_grad():
        for name, sum_ in sums.items():
            target[name].copy_(sum_)
    return total
