"""prefine samples: n responses a prompt, through the policy's own ``sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.worker import timed
from prefine.artifacts import Contrasts
from prefine.policies import CausalLM
from prefine.policies.base import Sampling
from prefine.slate import Candidate, Contrast


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    path = Path(settings["contrasts"])
    contrasts = Contrasts(path.stem, path, Contrast.from_json)
    policy = CausalLM.load(settings["policy"], device="cpu")
    sampling = Sampling(n=settings["n"], max_tokens=settings["max_tokens"])

    def sample(indices: list[int], seed: int, how: Sampling) -> list[list[Candidate]]:
        prompts = [contrasts[i].slate.prompt for i in indices]
        return policy.sample(prompts, how, [seed * 1_000_003 + i for i in indices])

    def draw(indices: list[int]) -> dict[str, Any]:
        """One sample a prompt with its log-probabilities, for the peer to check."""
        drawn = [row[0] for row in sample(indices, 0, Sampling(n=1, max_tokens=16))]
        return {"tokens": [list(c.tokens or ()) for c in drawn], "numbers": [sum(c.logps or ()) for c in drawn]}

    def round(indices: list[int], seed: int) -> dict[str, Any]:
        with timed() as t:
            drawn = sample(indices, seed, sampling)
        return {**t.taken, "tokens": sum(len(c.tokens or ()) for row in drawn for c in row)}

    return {"draw": draw, "round": round}
