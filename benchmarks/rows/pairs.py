"""Train on pairs: prefine against TRL's DPOTrainer, with the reference to be scored and with it known before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks import data, models
from benchmarks.compare import Measured, Side, Worker, agree, in_turn, opened, told
from benchmarks.models import Shape
from benchmarks.prepared import pairs_of, prepare
from benchmarks.results import target
from benchmarks.rows import Asked
from benchmarks.stats import ratios
from prefine.policies.base import Limits

BATCH = 8
MAX_LENGTH = 1024
"""Tokens a row may have, TRL's default; on both sides, cut as prefine cuts (the peer gets the cut ids)."""

LR = 1e-6
BETA = 0.1
WRITTEN = {"float32": "float32", "bfloat16": "bfloat16 by autocast, weights in float32"}
CHECKED = 8
"""Pairs on which the losses are compared."""


def train(
    asked: Asked,
    *,
    shape: Shape,
    steps: int,
    precomputed: bool,
    faster: float,
    memory: float | None,
    batch: int = BATCH,
    device: str = "cpu",
    precision: str = "float32",
    peer: bool = True,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """``steps`` optimiser steps of ``batch`` pairs a round, every round on fresh pairs of the file. ``settings``: more
    of prefine's."""
    shape = asked.shape(shape)
    texts = data.find("pairs", asked.file("pairs"))
    policy, reference = (models.directory(shape, texts, seed) for seed in (0, 1))
    ready = prepare(f"pairs-{texts.key}-{shape.name}", pairs_of(texts), policy, Limits(max_length=MAX_LENGTH))
    order = data.order(len(ready.rows), asked.seed)
    size = batch * steps
    rounds = [
        {"indices": [order[j % len(order)] for j in range(i * size, (i + 1) * size)]} for i in range(asked.pairs + 1)
    ]
    work = [ready.tokens(r["indices"]) for r in rounds[1:]]
    common = {
        "policy": str(policy), "reference": str(reference), "batch": batch, "lr": LR, "max_length": MAX_LENGTH,
        "precomputed": precomputed, "seed": asked.seed, "device": device, "precision": precision,
    }  # fmt: skip
    ours = {**common, "contrasts": str(ready.contrasts), "objective": ["dpo", {"beta": BETA}], "train": settings or {}}
    theirs = {**common, "ids": str(ready.ids), "beta": BETA}
    other = Side("TRL", "trl_train", theirs, peer=True)
    if not peer:
        other = Side("prefine padded", "prefine_train", {**ours, "route": "padded"})
    sides = [Side("prefine", "prefine_train", ours), other]
    with opened(sides) as workers:
        checks = [agree(workers, {"indices": order[:CHECKED]}, f"loss of a first step on {CHECKED} pairs")]
        measured = in_turn(workers, rounds)
        if device != "cpu":
            measured = _on_device(workers, measured)
    mine, others = measured
    speed = ratios(others.values("seconds"), mine.values("seconds"))
    losses = [a - b for a, b in zip(mine.values("loss"), others.values("loss"), strict=True)]
    targets = [target(f"throughput over {other.name}'s", speed["median"], faster)]
    if memory is not None:
        targets.append(target(f"share of {other.name}'s peak memory", mine.peak / others.peak, memory, at_most=True))
    return {
        "data": {"source": texts.source, "generated": texts.generated, **ready.told()},
        "settings": {
            "model": shape.told(), "batch": batch, "steps_a_round": steps, "max_length": MAX_LENGTH, "beta": BETA,
            "optimiser": f"AdamW, lr {LR}, constant, no weight decay, clip 1", "precision": WRITTEN[precision],
            "device": _device_name(device),
            "reference": "known before the clock starts" if precomputed else
            "prefine scores it once and keeps it, TRL in every step; both inside the clock",
            "TRL": "SDPA attention, no gradient checkpointing, no logging or saving, rows tokenised beforehand",
        },
        "seeds": [asked.seed],
        "checks": checks,
        "largest_difference_of_training_losses": max(abs(x) for x in losses),
        "sides": {side.name: told(m, work) for side, m in zip(sides, measured, strict=True)},
        "ratios": {f"{other.name}'s time over prefine's": speed},
        "targets": targets,
    }  # fmt: skip


def _on_device(workers: Sequence[Worker], measured: Sequence[Measured]) -> list[Measured]:
    """The same with the peak memory of the device instead of the process's."""
    return [Measured(m.rounds, w.do("device_peak")["bytes"]) for w, m in zip(workers, measured, strict=True)]


def _device_name(device: str) -> str:
    if device == "cpu":
        return "cpu"
    import torch

    return torch.cuda.get_device_name()


small = partial(train, shape=models.SMALL, steps=3, precomputed=False, faster=6.0, memory=0.25)
small_precomputed = partial(train, shape=models.SMALL, steps=3, precomputed=True, faster=5.0, memory=None)
large = partial(train, shape=models.LARGE, steps=1, precomputed=False, faster=9.0, memory=1 / 3)
large_precomputed = partial(train, shape=models.LARGE, steps=1, precomputed=True, faster=9.0, memory=None)
