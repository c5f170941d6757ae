"""prefine reads a data file, keeps it as artifacts and trains from them: the way of ``prefine run --data``.

Settings: policy (directory), data (a JSONL file of pairs), logps (a directory with a reference's log-probabilities of
them), work (a directory for the run), steps.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.worker import memory
from prefine import formats
from prefine.artifacts import Logps
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.objectives import dpo, simpo
from prefine.policies import load_policy
from prefine.run import Run
from prefine.slate import Contrast, Slate


def as_they_come(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    return formats.pairs_of(slates)


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    work = Path(settings["work"])
    how = TrainSettings(lr=1e-4, batch_size=8, max_steps=settings["steps"], save_seconds=None)

    def round(**_: Any) -> dict[str, Any]:
        phases: dict[str, dict[str, float]] = {}

        def phase(name: str, do: Callable[[], Any]) -> Any:
            started = time.perf_counter()
            made = do()
            phases[name] = {"seconds": time.perf_counter() - started, "peak_bytes": memory()["peak"]}
            return made

        begun = time.perf_counter()
        run = Run(work / "run", store=work / "store", settings=how)
        policy = run.policy(settings["policy"])
        phase("load the model", policy.load)
        found = phase("read and check the file", lambda: formats.read_for_training(settings["data"]))
        slates = phase("keep as slates", lambda: run.slates(found))
        contrasts = phase("curate pairs", lambda: run.curate(slates, as_they_come))
        phase(f"train {how.max_steps} steps, no reference", lambda: run.train(policy, contrasts, objective=simpo()))
        reference = Logps("made-up", Path(settings["logps"]))
        learner = load_policy(settings["policy"], device="cpu")
        phase(
            f"train {how.max_steps} steps, reference on disk",
            lambda: train(learner, contrasts, dpo(), references={"reference": reference}, settings=how),
        )
        return {"seconds": time.perf_counter() - begun, "phases": phases}

    return {"round": round}
