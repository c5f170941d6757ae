"""prefine's objectives on given log-probabilities: loss and gradient."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.sides.given import Given, given, per_call
from prefine import objectives
from prefine.objectives.scores import Scores

OPTIONS: dict[str, dict[str, Any]] = {
    "dpo": {"beta": 0.1},
    "ipo": {"tau": 0.1},
    "simpo": {"beta": 2.0, "gamma": 1.0},
    "sppo-single": {"eta": 10.0, "hard": True},
    "orpo": {"lam": 0.1, "prompt_in_nll": False},
}


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    them = given(settings["pairs"], settings["length"])
    calls = {name: caller(objectives.make(name, **options), them) for name, options in OPTIONS.items()}
    return per_call(calls, them.logp_NT, settings["times"])


def caller(objective: Any, them: Given) -> Any:
    rows = torch.arange(len(them.mask_NT))
    fixed: dict[str, Any] = {"mask_NT": them.mask_NT, "role_N": 1 - 2 * (rows % 2), "group_N": rows // 2}

    def loss() -> torch.Tensor:
        scores = Scores(logp_NT=them.logp_NT, references={"reference": them.reference_NT}, **fixed)
        return objective(scores).mean(scores)

    return loss
