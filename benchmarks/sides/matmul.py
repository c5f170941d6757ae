"""The machine's own matrix multiply, with the shapes that a model's linear layers have.

Settings: ``products`` as [rows, in, out, how many]. ``alone`` is how long all of them take, and nothing else.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.worker import timed

LEAST_SECONDS = 0.15
SQUARE = 2048


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])

    def round(**_: Any) -> dict[str, Any]:
        with timed() as t:
            seconds = flops = 0.0
            for m, k, n, count in settings["products"]:
                once = _seconds(m, k, n)
                seconds, flops = seconds + once * count, flops + 2.0 * m * k * n * count
            square = 2.0 * SQUARE**3 / _seconds(SQUARE, SQUARE, SQUARE)
        return {**t.taken, "alone": seconds, "rate": flops / seconds, "square_rate": square}

    return {"round": round}


def _seconds(m: int, k: int, n: int) -> float:
    """Of one product, from as many as fill ``LEAST_SECONDS`` (the best of three such)."""
    a, b, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
    torch.mm(a, b, out=out)
    best = float("inf")
    for _ in range(3):
        times, started = 0, time.perf_counter()
        while time.perf_counter() - started < LEAST_SECONDS / 3:
            torch.mm(a, b, out=out)
            times += 1
        best = min(best, (time.perf_counter() - started) / times)
    return best
