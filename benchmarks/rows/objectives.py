"""Objectives alone: loss and gradient of given log-probabilities, against the same losses in plain torch."""

from __future__ import annotations

from typing import Any

from benchmarks.compare import Measured, Side, agree, in_turn, opened, told
from benchmarks.rows import Asked
from benchmarks.stats import ratios, spread

PAIRS, LENGTH, TIMES = 32, 256, 300


def objectives(asked: Asked) -> dict[str, Any]:
    settings = {"pairs": PAIRS, "length": LENGTH, "times": TIMES}
    sides = [
        Side("prefine", "prefine_objectives", settings),
        Side("plain torch", "torch_objectives", settings, peer=True),
    ]
    with opened(sides) as workers:
        checks = [agree(workers, {}, "losses and gradients of five objectives")]
        measured = in_turn(workers, [{}] * (asked.pairs + 1))
    micros = [_micros(m) for m in measured]
    found = {s.name: told(m) for s, m in zip(sides, measured, strict=True)}
    for side, each in zip(found.values(), micros, strict=True):
        side["microseconds_a_call"] = {name: spread(values) for name, values in each.items()}
    return {
        "settings": {"pairs": PAIRS, "tokens_a_response": LENGTH, "calls_of_each": TIMES, "what": "loss and gradient"},
        "seeds": [0],
        "checks": checks,
        "sides": found,
        "ratios": {
            f"{name}: prefine's time over plain": ratios(micros[0][name], micros[1][name]) for name in micros[0]
        },
        "targets": [],
    }


def _micros(measured: Measured) -> dict[str, list[float]]:
    return {name: [r["micros"][name] for r in measured.rounds] for name in measured.rounds[0]["micros"]}
