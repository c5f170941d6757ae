"""A run directory as a run would leave it, without running anything: what the tests of the report look at."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml


def write_run(
    path: Path,
    *,
    rounds: int = 3,
    steps: int = 60,
    seed: int = 0,
    chosen_slope: float = -6.0,
    rejected_slope: float = -14.0,
    growth: float = 0.02,
    finished: bool = True,
    sample_text: str = "Sure. Press the red switch, wait for the light, then lift the lid.",
) -> Path:
    """Three rounds of something: evaluations at the start and after each, metrics, samples and a journal."""
    rng = random.Random(seed)
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "system": "sppo", "number": 18, "title": "SPPO", "paper": "arXiv 2405.00675",
        "inputs": {"world": "assistant"}, "options": {"rounds": rounds, "n": 5, "eta": 1000.0},
        "seed": seed, "versions": {"prefine": "0.1.0", "torch": "2.13.0"},
    }  # fmt: skip
    (path / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    journal: list[dict[str, Any]] = [_event(0.0, "start", "run")]
    metrics, evaluations, samples = [], [], []
    evaluations.append(_evaluation(None, "start", 0.42, None, None, 24.0, rng))
    clock = 1.0
    for r in range(rounds):
        for verb, label, seconds, figures in (
            ("sample", "sample 5 a prompt", 9.0, {"slates": 256, "candidates": 1280, "tokens": 31_000}),
            ("judge", "judge perfect", 0.6, {"slates": 256, "labels": 1280, "abstained": 0}),
            ("curate", "curate extremes", 0.2, {"slates": 256, "contrasts": 231, "without": 25}),
            ("logps", "score the reference", 2.1, {"contrasts": 231}),
            ("train", "train squared win rate", 14.0, {"contrasts": 231, "steps": steps, "tokens": 61_000}),
        ):
            key = f"{verb}{r}" + "0" * 20
            journal.append(_event(clock, "start", verb, label=label, key=key, round=r))
            took = seconds * rng.uniform(0.9, 1.1)
            clock += took
            journal.append(_event(clock, "done", verb, label=label, key=key, round=r, seconds=took, figures=figures))
        for step in range(1, steps + 1):
            t = step / steps
            margin = 2.2 * (1 - math.exp(-2.5 * t)) + rng.gauss(0, 0.25)
            metrics.append({
                "key": f"train{r}" + "0" * 20, "label": "train squared win rate", "round": r, "step": step,
                "steps": steps, "loss": 0.69 * math.exp(-1.2 * t) + rng.gauss(0, 0.03), "lr": 1e-4 * (1 - t),
                "grad_norm": 1.2 + abs(rng.gauss(0, 0.4)), "margin": margin,
                "chosen/logp": -31 + chosen_slope * t + rng.gauss(0, 0.8),
                "rejected/logp": -33 + rejected_slope * t + rng.gauss(0, 0.8),
                "chosen/ratio": chosen_slope * t + rng.gauss(0, 0.3),
                "rejected/ratio": rejected_slope * t + rng.gauss(0, 0.3),
                "accuracy": min(1.0, max(0.0, 0.5 + 0.4 * (1 - math.exp(-4 * t)) + rng.gauss(0, 0.05))),
            })  # fmt: skip
        gain = 1 - math.exp(-0.8 * (r + 1))
        evaluations.append(
            _evaluation(r, f"round{r}", 0.42 + 0.35 * gain, 0.5 + 0.27 * gain, 7.0 * gain * (r + 1) / 2,
                        24.0 * (1 + growth * (r + 1) / rounds), rng)
        )  # fmt: skip
        for i in range(6):
            samples.append({
                "round": r, "prompt": f"How do I open the box number {i + 1}?",
                "before": "the box is is a box and the the box box", "after": sample_text,
                "before_score": 0.2 + 0.05 * i, "after_score": 0.9 - 0.03 * i,
            })  # fmt: skip
    if finished:
        journal.append(_event(clock, "done", "run", error=""))
        (path / "policy").mkdir(exist_ok=True)
    _write(path / "journal.jsonl", journal)
    _write(path / "metrics.jsonl", metrics)
    _write(path / "evaluations.jsonl", evaluations)
    _write(path / "samples.jsonl", samples)
    _write(path / "notes.jsonl", [{"round": 0, "kept": 0.9}])
    return path


def _event(time: float, event: str, verb: str, round: int | None = None, **row: Any) -> dict[str, Any]:
    return {"time": 1.7e9 + time, "event": event, "verb": verb, "round": round, **row}


def _evaluation(
    round: int | None, key: str, reward: float, wins: float | None, kl: float | None, length: float, rng: random.Random
) -> dict[str, Any]:
    figures = {"length": length, "length_se": 0.6, "finished": 0.97, "finished_se": 0.01, "reward": reward,
               "reward_se": 0.021}  # fmt: skip
    if wins is not None and kl is not None:
        figures |= {"win_rate": wins, "win_rate_se": 0.022, "kl": kl, "kl_se": 0.05 * kl}
    return {"round": round, "name": "held-out", "key": key, "figures": figures}


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
