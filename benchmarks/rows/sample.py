"""Sample: 64 new tokens for prompts of the pairs file, n a prompt, against transformers' ``generate``.

What "the same" means where randomness differs: the peer computes the log-probabilities of responses that prefine
sampled, and they agree. Tokens that were sampled count, on each side its own. Measured in turn with both: the linear
layers alone, for the prompts once and a token a row at a time, with no attention, draw or Python: the limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import data, models
from benchmarks.compare import Measured, Side, agreed, in_turn, opened, told
from benchmarks.prepared import pairs_of, prepare
from benchmarks.results import target
from benchmarks.rows import Asked
from benchmarks.stats import ratios
from prefine.policies.base import Limits

MAX_TOKENS = 64
LEFT = "the matrix multiplies alone, over prefine's time"
BOUND = "generate's time over the matrix multiplies alone"
"""What the ratio over ``generate`` would be if nothing but the linear layers took time."""


@dataclass(frozen=True)
class Plan:
    """How many prompts a round. ``generate`` is called as its users call it, once for all of them, and again in
    batches of at most ``BATCH`` rows, which on a CPU is faster for it where there are more.

    At n = 64 a round of all 16 prompts would take one call of ``generate`` many minutes and more memory than there
    is; all sides get 4 of the 16, others every round.
    """

    n: int
    prompts: int
    faster: float


BATCH = 64


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
    theirs = {**common, "ids": str(ready.ids)}
    rows = plan.n * plan.prompts
    sides = [
        Side("prefine", "prefine_sample", {**common, "contrasts": str(ready.contrasts)}),
        Side("generate", "transformers_generate", {**theirs, "rows_at_once": rows}, peer=True),
    ]
    if rows > BATCH:
        name = f"generate, {BATCH} rows a call"
        sides.append(Side(name, "transformers_generate", {**theirs, "rows_at_once": BATCH}, peer=True))
    prompt_tokens = round(sum(lengths) * plan.prompts / 16)
    prompt = shape.products(prompt_tokens, plan.prompts)
    steps = [(m, k, n, count * (MAX_TOKENS - 1)) for m, k, n, count in shape.products(rows, rows)]
    limit = Side("matrix multiply", "matmul", {"products": [*prompt, *steps]})
    with opened([*sides, limit]) as workers:
        drawn = workers[0].do("draw", indices=chosen[:4])
        again = {
            w.side.name: w.do("check", indices=chosen[:4], tokens=drawn["tokens"])["numbers"] for w in workers[1:-1]
        }
        numbers = {"prefine": drawn["numbers"], **again}
        checks = [agreed(numbers, "log-probabilities of 4 responses that prefine sampled")]
        measured = {side.name: result for side, result in zip([*sides, limit], in_turn(workers, rounds), strict=True)}
    prefine, matmul = measured["prefine"], measured.pop("matrix multiply")
    speed = {name: ratios(_speeds(prefine), _speeds(other)) for name, other in measured.items() if other is not prefine}
    return {
        "data": {"source": texts.source, "generated": texts.generated, "prompt_tokens": lengths},
        "settings": {
            "model": shape.told(), "n": plan.n, "prompts_a_round": plan.prompts, "max_tokens": MAX_TOKENS,
            "temperature": 1.0, "precision": "float32",
        },
        "seeds": list(range(1, asked.pairs + 1)),
        "checks": checks,
        "sides": {
            **{name: told(side, side.values("tokens")) for name, side in measured.items()},
            "matrix multiply": told(matmul),
        },
        "ratios": {
            **{f"prefine's tokens a second over {name}": ratio for name, ratio in speed.items()},
            LEFT: ratios(matmul.values("alone"), prefine.values("seconds")),
            BOUND: ratios(measured["generate"].values("seconds"), matmul.values("alone")),
        },
        "targets": [target("throughput over generate's", speed["generate"]["median"], plan.faster)],
    }  # fmt: skip


def _speeds(side: Measured) -> list[float]:
    return [t / s for t, s in zip(side.values("tokens"), side.values("seconds"), strict=True)]


one = partial(sample, plan=Plan(n=1, prompts=16, faster=4.0))
eight = partial(sample, plan=Plan(n=8, prompts=16, faster=8.0))
many = partial(sample, plan=Plan(n=64, prompts=4, faster=8.0))
