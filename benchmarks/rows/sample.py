"""Sample: 64 new tokens for prompts of the pairs file, n a prompt, against transformers' ``generate``.

What "the same" means where randomness differs: the peer computes the log-probabilities of responses that prefine
sampled, and they agree. Tokens that were sampled count, on each side its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import data, models
from benchmarks.compare import Side, agreed, in_turn, opened, told
from benchmarks.prepared import pairs_of, prepare
from benchmarks.results import target
from benchmarks.rows import Asked
from benchmarks.stats import ratios
from prefine.policies.base import Limits

MAX_TOKENS = 64


@dataclass(frozen=True)
class Plan:
    """How many prompts a round, and how many rows ``generate`` gets at once.

    At n = 64 a round of all 16 prompts would take ``generate`` many minutes and more memory than there is; both
    sides get 4 of the 16, others every round. Its batches are of 64 rows (16 at n = 1, all there are).
    """

    n: int
    prompts: int
    rows_at_once: int
    faster: float


def sample(asked: Asked, *, plan: Plan) -> dict[str, Any]:
    texts = data.find("pairs", asked.file("pairs"))
    shape = asked.shape(models.SMALL)
    policy = models.directory(shape, texts)
    ready = prepare(f"prompts-{texts.key}-{shape.name}", pairs_of(texts), policy, Limits())
    chosen = data.order(len(ready.rows), asked.seed)[:16]
    lengths = [len(ready.rows[i][0]) for i in chosen]
    parts = [chosen[i : i + plan.prompts] for i in range(0, 16, plan.prompts)]
    rounds = [{"indices": parts[i % len(parts)], "seed": i} for i in range(asked.pairs + 1)]
    common = {"policy": str(policy), "n": plan.n, "max_tokens": MAX_TOKENS}
    ours = {**common, "contrasts": str(ready.contrasts)}
    theirs = {**common, "ids": str(ready.ids), "rows_at_once": plan.rows_at_once}
    sides = [
        Side("prefine", "prefine_sample", ours),
        Side("generate", "transformers_generate", theirs, peer=True),
    ]
    with opened(sides) as workers:
        drawn = workers[0].do("draw", indices=chosen[:4])
        told_again = workers[1].do("check", indices=chosen[:4], tokens=drawn["tokens"])
        numbers = {"prefine": drawn["numbers"], "generate": told_again["numbers"]}
        checks = [agreed(numbers, "log-probabilities of 4 responses that prefine sampled")]
        prefine, generate = in_turn(workers, rounds)
    speed = ratios(
        [t / s for t, s in zip(prefine.values("tokens"), prefine.values("seconds"), strict=True)],
        [t / s for t, s in zip(generate.values("tokens"), generate.values("seconds"), strict=True)],
    )
    return {
        "data": {"source": texts.source, "generated": texts.generated, "prompt_tokens": lengths},
        "settings": {
            "model": shape.told(), "n": plan.n, "prompts_a_round": plan.prompts, "max_tokens": MAX_TOKENS,
            "temperature": 1.0, "generate_rows_at_once": plan.rows_at_once, "precision": "float32",
        },
        "seeds": list(range(1, asked.pairs + 1)),
        "checks": checks,
        "sides": {
            "prefine": told(prefine, prefine.values("tokens")),
            "generate": told(generate, generate.values("tokens")),
        },
        "ratios": {"prefine's tokens a second over generate's": speed},
        "targets": [target("throughput over generate's", speed["median"], plan.faster)],
    }  # fmt: skip


one = partial(sample, plan=Plan(n=1, prompts=16, rows_at_once=16, faster=4.0))
eight = partial(sample, plan=Plan(n=8, prompts=16, rows_at_once=64, faster=8.0))
many = partial(sample, plan=Plan(n=64, prompts=4, rows_at_once=64, faster=8.0))
