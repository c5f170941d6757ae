"""prefine trains: the public trainer on the contrasts of a round.

Settings: policy, reference (directories), contrasts (file), objective (name, options), batch, lr, max_length,
precomputed (whether the reference's log-probabilities are there before the clock starts), route, seed,
contrasts_an_index (how many contrasts of the file belong to one index of a round, 1 by default).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.worker import timed
from prefine import objectives
from prefine.artifacts import Contrasts
from prefine.engine.score import logp_of, score_contrasts
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.policies import CausalLM
from prefine.policies.base import Batch
from prefine.slate import Contrast


class PaddedLM(CausalLM):
    """The plain path: every row whole, padded to the longest."""

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        return logp_of(self.model, batch.rows, width=batch.mask_NT.shape[1], with_prompt=with_prompt, route="padded")


ROUTES = {"auto": CausalLM, "padded": PaddedLM}


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    device = settings.get("device", "cpu")
    kind = ROUTES[settings.get("route", "auto")]
    path = Path(settings["contrasts"])
    contrasts = Contrasts(path.stem, path, Contrast.from_json)
    name, options = settings["objective"]
    objective = objectives.make(name, **options)
    train_settings = TrainSettings(
        lr=settings["lr"],
        batch_size=settings["batch"],
        schedule="constant",
        warmup=0.0,
        shuffle=False,
        weight_decay=0.0,
        max_length=settings["max_length"],
        precision=settings.get("precision", "float32"),
        seed=settings.get("seed", 0),
        **settings.get("train", {}),
    )
    policy = kind.load(settings["policy"], device=device)
    reference = kind.load(settings["reference"], device=device)

    def references(here: Sequence[Contrast], how: TrainSettings) -> dict[str, Any]:
        scored = score_contrasts(reference, here, how.limits, how.tokens_per_microbatch, how.precision)
        return {"reference": scored}

    def run(
        learner: CausalLM, here: Sequence[Contrast], known: dict[str, Any] | None, how: TrainSettings = train_settings
    ) -> list[float]:
        given = references(here, how) if known is None else known
        result = train(learner, here, objective, references=given, settings=how)
        return [row["loss"] for row in result.metrics]

    each = settings.get("contrasts_an_index", 1)

    def picked(indices: Sequence[int]) -> list[Contrast]:
        return [contrasts[i * each + k] for i in indices for k in range(each)]

    def check(indices: list[int]) -> dict[str, Any]:
        """The loss of the first step in float32, from the policy's own weights, on weights that are thrown away."""
        learner = kind.load(settings["policy"], device=device)
        exact = replace(train_settings, precision="float32", max_steps=1)
        return {"numbers": run(learner, picked(indices), None, exact)}

    def round(indices: list[int]) -> dict[str, Any]:
        here = picked(indices)
        known = references(here, train_settings) if settings["precomputed"] else None
        _synchronise(device)
        with timed() as t:
            losses = run(policy, here, known)
            _synchronise(device)
        return {**t.taken, "loss": sum(losses) / len(losses)}

    return {"check": check, "round": round, "device_peak": lambda: _device_peak(device)}


def _synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _device_peak(device: str) -> dict[str, Any]:
    return {"bytes": torch.cuda.max_memory_allocated() if device != "cpu" else 0}
