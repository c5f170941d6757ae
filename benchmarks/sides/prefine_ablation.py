"""prefine runs the same data twice with another beta: what the reference costs the second time.

Settings: policy, contrasts (file), max_length, steps, batch, work.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from prefine.artifacts import Contrasts
from prefine.engine.settings import TrainSettings
from prefine.objectives import dpo
from prefine.run import Run
from prefine.slate import Contrast, Slate, pair


def all_pairs(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    return (pair(slate, 0, 1) for slate in slates)


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    path = Path(settings["contrasts"])
    everything = Contrasts(path.stem, path, Contrast.from_json)
    how = TrainSettings(
        lr=1e-6, batch_size=settings["batch"], max_length=settings["max_length"], weight_decay=0.0, precision="float32"
    )
    work = Path(settings["work"])

    def one(name: str, beta: float, indices: list[int], store: Path) -> dict[str, float]:
        """A run: seconds in all, and of the verb that gives the reference's log-probabilities."""
        started = time.perf_counter()
        with Run(work / name, store=store, settings=how) as run:
            policy = run.policy(settings["policy"])
            contrasts = run.curate(run.slates(everything[i].slate for i in indices), all_pairs)
            asked = time.perf_counter()
            run.logps(policy, contrasts, settings=how)
            scored = time.perf_counter() - asked
            run.train(policy, contrasts, objective=dpo(beta=beta))
        return {"seconds": time.perf_counter() - started, "reference_seconds": scored}

    def round(indices: list[int], name: str) -> dict[str, Any]:
        store = work / f"store-{name}"
        first = one(f"{name}-first", 0.1, indices, store)
        second = one(f"{name}-second", 0.3, indices, store)
        shutil.rmtree(work, ignore_errors=True)
        return {"seconds": first["seconds"] + second["seconds"], "cpu_seconds": 0.0, "first": first, "second": second}

    return {"round": round}
