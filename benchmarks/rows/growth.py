"""Growth: a training step's time as a slate grows in responses, in prompt, in depth; trees against padded rows.

Slates of made-up words whose prefixes are shared exactly as said; the reference is known before the clock starts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks import data, models
from benchmarks.compare import Side, agree, in_turn, opened, told
from benchmarks.prepared import prepare
from benchmarks.rows import Asked
from benchmarks.stats import ratios
from prefine.policies.base import Limits
from prefine.slate import Candidate, Contrast, Slate, group

WORDS = ("the", "to", "and", "of", "in", "that", "you", "it", "is", "for")

RESPONSE = 64
"""Tokens of a response."""


def flat(prompt: int, responses: int, rng: random.Random) -> Contrast:
    """``responses`` answers of 64 tokens to a prompt of so many words."""
    slate = Slate(_prompt(prompt, rng), tuple(_sampled(RESPONSE, rng) for _ in range(responses)))
    return _graded(slate, range(responses))


def deep(depth: int, rng: random.Random, step: int = 32, prompt: int = 128) -> Contrast:
    """A step tree: every step of 32 tokens goes on in two ways, ``depth`` times; its leaves are the members."""
    candidates: list[Candidate] = []
    level: list[int | None] = [None]
    for _ in range(depth):
        below: list[int | None] = []
        for parent in level:
            for _ in range(2):
                candidates.append(_sampled(step, rng, parent))
                below.append(len(candidates) - 1)
        level = below
    return _graded(Slate(_prompt(prompt, rng), tuple(candidates)), [i for i in level if i is not None])


def _graded(slate: Slate, members: Sequence[int]) -> Contrast:
    k = len(members)
    return group(slate, members, (1, *(0,) * (k - 2), -1), win=tuple(1 - i / (k - 1) for i in range(k)))


def _sampled(count: int, rng: random.Random, parent: int | None = None) -> Candidate:
    """So many made-up ids, as if they had been sampled."""
    return Candidate("", parent, tuple(rng.randrange(300, 5000) for _ in range(count)), stop="length")


def _prompt(words: int, rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=words))


AXES: dict[str, tuple[str, Sequence[int], Callable[[int, random.Random], Contrast]]] = {
    "responses": ("responses to a prompt of 256 words", (2, 4, 8, 16, 32, 64), lambda n, rng: flat(256, n, rng)),
    "prompt": ("words of a prompt with 4 responses", (64, 128, 256, 512, 1024, 2048), lambda n, rng: flat(n, 4, rng)),
    "depth": ("depth of a binary tree of steps", (1, 2, 3, 4, 5, 6), deep),
}


def growth(asked: Asked, *, axis: str) -> dict[str, Any]:
    label, points, make = AXES[axis]
    texts = data.find("pairs", asked.file("pairs"))
    shape = asked.shape(models.SMALL)
    policy, reference = (models.directory(shape, texts, seed) for seed in (0, 1))
    rng = random.Random(f"{axis} {asked.seed}")
    ready = prepare(f"growth-{axis}-{texts.key}-{shape.name}", [make(p, rng) for p in points], policy, Limits())
    common = {
        "policy": str(policy), "reference": str(reference), "contrasts": str(ready.contrasts), "batch": 1, "lr": 1e-6,
        "max_length": None, "precomputed": True, "objective": ["sppo", {"eta": 4.0}],
    }  # fmt: skip
    sides = [Side(n, "prefine_train", {**common, "route": r}) for n, r in (("prefine", "auto"), ("padded", "padded"))]
    series: list[dict[str, Any]] = []
    checks = []
    with opened(sides) as workers:
        for k, point in enumerate(points):
            print(f"    {label}: {point}", flush=True)
            if k in (0, len(points) // 2):
                checks.append(agree(workers, {"indices": [k]}, f"loss at {point}"))
            prefine, padded = in_turn(workers, [{"indices": [k]}] * (asked.pairs + 1), warmup=True)
            work = [ready.tokens([k])] * asked.pairs
            series.append(
                {
                    "at": point,
                    "plain_tokens": work[0],
                    "sides": {"prefine": told(prefine, work), "padded": told(padded, work)},
                    "ratio": ratios(padded.values("seconds"), prefine.values("seconds")),
                }
            )
    return {
        "data": {"source": "made-up slates", "generated": True},
        "settings": {
            "model": shape.told(), "objective": "sppo over all members", "slates_a_step": 1, "precision": "float32",
        },
        "seeds": [asked.seed],
        "checks": checks,
        "series": {"label": label, "points": series},
        "targets": [],
    }  # fmt: skip


responses, prompt, depth = (partial(growth, axis=axis) for axis in AXES)
