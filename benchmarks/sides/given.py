"""Log-probabilities made up from a seed, the same in both environments, and how a loss on them is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.worker import timed


@dataclass(frozen=True)
class Given:
    """Of 2P responses, chosen and rejected in turn."""

    logp_NT: torch.Tensor
    reference_NT: torch.Tensor
    mask_NT: torch.Tensor


def given(pairs: int, length: int, seed: int = 0) -> Given:
    generator = torch.Generator().manual_seed(seed)
    lengths_N = torch.randint(length // 4, length + 1, (2 * pairs,), generator=generator)
    mask_NT = (torch.arange(length)[None] < lengths_N[:, None]).float()
    logp_NT, reference_NT = (-torch.rand(2 * pairs, length, generator=generator) * mask_NT for _ in range(2))
    return Given(logp_NT.requires_grad_(), reference_NT, mask_NT)


def per_call(calls: Mapping[str, Callable[[], torch.Tensor]], leaf: torch.Tensor, times: int) -> dict[str, Any]:
    """Operations: loss and gradient norm of every call, and seconds for ``times`` of each."""

    def once(call: Callable[[], torch.Tensor]) -> float:
        leaf.grad = None
        loss = call()
        loss.backward()
        return float(loss)

    def check() -> dict[str, Any]:
        numbers = []
        for call in calls.values():
            loss = once(call)
            assert leaf.grad is not None
            numbers += [loss, float(leaf.grad.norm())]
        return {"numbers": numbers}

    def round(**_ignored: Any) -> dict[str, Any]:
        micros = {}
        with timed() as t:
            for name, call in calls.items():
                started = time.perf_counter()
                for _time in range(times):
                    once(call)
                micros[name] = 1e6 * (time.perf_counter() - started) / times
        return {**t.taken, "micros": micros}

    return {"check": check, "round": round}
