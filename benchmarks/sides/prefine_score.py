"""prefine scores contrasts, with shared prefixes or padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.sides.prefine_train import ROUTES
from benchmarks.worker import timed
from prefine.artifacts import Contrasts
from prefine.engine.score import score_contrasts
from prefine.policies.base import Limits
from prefine.slate import Contrast


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    path = Path(settings["contrasts"])
    contrasts = Contrasts(path.stem, path, Contrast.from_json)
    policy = ROUTES[settings["route"]].load(settings["policy"], device="cpu")
    limits = Limits(max_length=settings["max_length"])

    def score(indices: list[int]) -> list[float]:
        scored = score_contrasts(policy, [contrasts[i] for i in indices], limits)
        return [float(row.sum(dtype="float64")) for rows in scored for row in rows]

    def round(indices: list[int]) -> dict[str, Any]:
        with timed() as t:
            score(indices)
        return t.taken

    return {"check": lambda indices: {"numbers": score(indices)}, "round": round}
