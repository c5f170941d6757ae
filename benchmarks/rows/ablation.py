"""A second ablation on the same data: another beta, and the reference is already there."""

from __future__ import annotations

from typing import Any

from benchmarks import data, models
from benchmarks.compare import BUILD, Side, in_turn, opened
from benchmarks.prepared import pairs_of, prepare
from benchmarks.results import target
from benchmarks.rows import Asked
from benchmarks.stats import ratios, spread
from prefine.policies.base import Limits

PAIRS, BATCH, MAX_LENGTH = 32, 8, 1024


def ablation(asked: Asked) -> dict[str, Any]:
    """Two runs a round, of 32 pairs each, fresh ones every round."""
    texts = data.find("pairs", asked.file("pairs"))
    shape = asked.shape(models.SMALL)
    policy = models.directory(shape, texts)
    ready = prepare(f"pairs-{texts.key}-{shape.name}", pairs_of(texts), policy, Limits(max_length=MAX_LENGTH))
    order = data.order(len(ready.rows), asked.seed)
    rounds = [{"indices": order[i * PAIRS : (i + 1) * PAIRS], "name": f"round{i}"} for i in range(asked.pairs + 1)]
    settings = {
        "policy": str(policy), "contrasts": str(ready.contrasts), "batch": BATCH, "max_length": MAX_LENGTH,
        "work": str(BUILD / "ablation"),
    }  # fmt: skip
    with opened([Side("prefine", "prefine_ablation", settings)]) as workers:
        (measured,) = in_turn(workers, rounds)
    runs = {which: [r[which] for r in measured.rounds] for which in ("first", "second")}
    shares = {
        which: ratios([r["reference_seconds"] for r in these], [r["seconds"] for r in these])
        for which, these in runs.items()
    }
    return {
        "data": {"source": texts.source, "generated": texts.generated, **ready.told()},
        "settings": {"model": shape.told(), "pairs_a_run": PAIRS, "batch": BATCH, "max_length": MAX_LENGTH},
        "seeds": [asked.seed],
        "checks": [],
        "sides": {
            f"{which} run": {
                "seconds": spread([r["seconds"] for r in these]),
                "reference_seconds": spread([r["reference_seconds"] for r in these]),
            }
            for which, these in runs.items()
        },
        "ratios": {f"reference's share of the {which} run": share for which, share in shares.items()},
        "targets": [target("reference's share of the second run", shares["second"]["median"], 0.01, at_most=True)],
    }
