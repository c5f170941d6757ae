"""Score only: log-probabilities of pairs, in prefix trees, padded, and with transformers at its best."""

from __future__ import annotations

from typing import Any

from benchmarks import data, models
from benchmarks.compare import Side, agree, in_turn, opened, told
from benchmarks.prepared import pairs_of, prepare
from benchmarks.rows import Asked
from benchmarks.stats import ratios
from prefine.policies.base import Limits

PAIRS = 32
MAX_LENGTH = 1024


def score(asked: Asked) -> dict[str, Any]:
    texts = data.find("pairs", asked.file("pairs"))
    shape = asked.shape(models.SMALL)
    policy = models.directory(shape, texts)
    ready = prepare(f"pairs-{texts.key}-{shape.name}", pairs_of(texts), policy, Limits(max_length=MAX_LENGTH))
    order = data.order(len(ready.rows), asked.seed)
    rounds = [{"indices": order[i * PAIRS : (i + 1) * PAIRS]} for i in range(asked.pairs + 1)]
    work = [ready.tokens(r["indices"]) for r in rounds[1:]]
    ours = {"policy": str(policy), "contrasts": str(ready.contrasts), "max_length": MAX_LENGTH}
    sides = [
        Side("prefine", "prefine_score", {**ours, "route": "auto"}),
        Side("prefine padded", "prefine_score", {**ours, "route": "padded"}),
        Side("transformers", "transformers_score", {"policy": str(policy), "ids": str(ready.ids)}, peer=True),
    ]
    with opened(sides) as workers:
        checks = [agree(workers, {"indices": order[:8]}, "log-probabilities of 16 responses")]
        measured = in_turn(workers, rounds)
    seconds = [m.values("seconds") for m in measured]
    return {
        "data": {"source": texts.source, "generated": texts.generated, **ready.told()},
        "settings": {
            "model": shape.told(), "pairs_a_round": PAIRS, "max_length": MAX_LENGTH, "precision": "float32",
            "transformers": "batches of 4096 padded tokens by length, SDPA, inference mode, head on responses only",
        },
        "seeds": [asked.seed],
        "checks": checks,
        "sides": {s.name: told(m, work) for s, m in zip(sides, measured, strict=True)},
        "ratios": {
            "transformers' time over prefine's": ratios(seconds[2], seconds[0]),
            "padded time over prefine's": ratios(seconds[1], seconds[0]),
        },
        "targets": [],
    }  # fmt: skip
