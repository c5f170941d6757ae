"""Time what a run spends its time on, on a model of the embedded size: training, scoring and sampling.

    python benchmarks/run.py            writes benchmarks/results.json

Each is done several times after one that does not count; medians and spreads are written with the machine.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from prefine.engine.score import score_contrasts
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.objectives import dpo
from prefine.policies import load_policy
from prefine.policies.base import Limits, Sampling
from prefine.slate import Candidate, Contrast, Slate, pair
from prefine.worlds import find_world

RESULTS = Path(__file__).parent / "results.json"
REPEATS = 5
PAIRS = 128
BUDGET = 8192
"""Padded tokens a forward may have."""

Work = Callable[[], int]
"""Does it once and says how many response tokens were dealt with."""


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        base = find_world("assistant").base(Path(cache))
        timings = [measure(name, work) for name, work in jobs(base).items()]
    RESULTS.write_text(json.dumps({"machine": machine(), "commit": commit(), "timings": timings}, indent=1) + "\n")
    for t in timings:
        print(f"{t['name']:<32} {t['seconds']['median']:8.3f} s  {t['tokens_per_second']['median']:10,.0f} tokens/s")
    print(RESULTS)


def jobs(base: Path) -> dict[str, Work]:
    """What is timed, by name."""
    pairs = answered(PAIRS)
    policy = load_policy(base)
    reference = score_contrasts(policy, pairs, Limits(), BUDGET)
    tokens = sum(len(row) for rows in reference for row in rows)
    prompts = [contrast.slate.prompt for contrast in pairs]

    def score_once() -> int:
        score_contrasts(policy, pairs, Limits(), BUDGET)
        return tokens

    def train_once() -> int:
        settings = TrainSettings(lr=1e-4, epochs=1.0, batch_size=32)
        train(load_policy(base), pairs, dpo(), references={"reference": reference}, settings=settings)
        return tokens

    def sample_once() -> int:
        drawn = policy.sample(prompts, Sampling(n=4, max_tokens=48), list(range(len(prompts))))
        return sum(len(c.tokens or ()) for candidates in drawn for c in candidates)

    return {
        f"score {PAIRS} pairs": score_once,
        f"train dpo on {PAIRS} pairs": train_once,
        f"sample {PAIRS} prompts x 4": sample_once,
    }


def answered(n: int) -> list[Contrast]:
    """Pairs over prompts of the assistant world: a good response against a shuffled one."""
    world = find_world("assistant")
    assert world.demonstrate is not None
    rng = random.Random(0)
    pairs = []
    for slate in world.prompts("train", n, 0):
        good = world.demonstrate(slate, rng)
        words = good.split(" ")
        rng.shuffle(words)
        pairs.append(pair(Slate(slate.prompt, (Candidate(good), Candidate(" ".join(words)))), 0, 1))
    return pairs


def measure(name: str, work: Work) -> dict[str, Any]:
    """Seconds and tokens a second over REPEATS times, one warm-up before."""
    work()
    seconds, speeds = [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        tokens = work()
        seconds.append(time.perf_counter() - started)
        speeds.append(tokens / seconds[-1])
    return {"name": name, "repeats": REPEATS, "seconds": spread(seconds), "tokens_per_second": spread(speeds)}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def machine() -> dict[str, str]:
    return {
        "processor": processor(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    try:
        said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        return said.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    main()
