"""Train on slates of 6: a list objective in prefix trees, the same on the padded path, and TRL on pairs.

The equivalent pairs of a slate are its best response against each of the other five: every response is trained on,
as the list does it, with the fewest rows that a pair trainer needs for "the best should win" (10 a slate). All sides
are credited with the tokens of the slate's own plain layout, 6 rows; TRL's speed in tokens of its 10 rows is
reported besides. prefine trains on those pairs too, where its loss can be compared with TRL's.
"""

from __future__ import annotations

from typing import Any

from benchmarks import data, models
from benchmarks.compare import Side, agree, in_turn, opened, told
from benchmarks.prepared import best_against_rest, lists_of, prepare
from benchmarks.results import target
from benchmarks.rows import Asked
from benchmarks.stats import ratios
from prefine.policies.base import Limits

SLATES = 2
"""A step."""

MAX_LENGTH = 1024
LR = 1e-6
BETA = 0.1
ETA = 4.0
"""Targets of the list objective: eta (win - 1/2), win the share of the others that a response beats."""


def train(asked: Asked) -> dict[str, Any]:
    texts = data.find("slates", asked.file("slates"))
    shape = asked.shape(models.SMALL)
    policy, reference = (models.directory(shape, texts, seed) for seed in (0, 1))
    limits = Limits(max_length=MAX_LENGTH)
    lists = prepare(f"lists-{texts.key}-{shape.name}", lists_of(texts), policy, limits)
    pairs = prepare(
        f"listpairs-{texts.key}-{shape.name}", [p for ps in best_against_rest(texts) for p in ps], policy, limits
    )
    each = len(pairs.rows) // len(lists.rows)
    order = data.order(len(lists.rows), asked.seed)
    rounds = [{"indices": order[i * SLATES : (i + 1) * SLATES]} for i in range(asked.pairs + 1)]
    work = [lists.tokens(r["indices"]) for r in rounds[1:]]
    common = {
        "policy": str(policy), "reference": str(reference), "lr": LR, "max_length": MAX_LENGTH, "precomputed": False,
        "seed": asked.seed,
    }  # fmt: skip
    listwise = {**common, "contrasts": str(lists.contrasts), "batch": SLATES, "objective": ["sppo", {"eta": ETA}]}
    paired = {**common, "batch": SLATES * each, "contrasts_an_index": each}
    sides = [
        Side("prefine", "prefine_train", {**listwise, "route": "auto"}),
        Side("prefine padded", "prefine_train", {**listwise, "route": "padded"}),
        Side(
            "prefine on pairs",
            "prefine_train",
            {**paired, "contrasts": str(pairs.contrasts), "objective": ["dpo", {"beta": BETA}]},
        ),
        Side("TRL on pairs", "trl_train", {**paired, "ids": str(pairs.ids), "beta": BETA, "accumulate": 5}, peer=True),
    ]
    with opened(sides) as workers:
        first = {"indices": order[:SLATES]}
        checks = [
            agree(workers[:2], first, f"list loss of a first step on {SLATES} slates"),
            agree(workers[2:], first, f"pair loss of a first step on {SLATES} slates"),
        ]
        trees, padded, on_pairs, trl = in_turn(workers, rounds)
    over_padded = ratios(padded.values("seconds"), trees.values("seconds"))
    over_trl = ratios(trl.values("seconds"), trees.values("seconds"))
    own = [pairs.tokens(i * each + k for i in r["indices"] for k in range(each)) for r in rounds[1:]]
    return {
        "data": {"source": texts.source, "generated": texts.generated, **lists.told()},
        "settings": {
            "model": shape.told(), "slates_a_step": SLATES, "steps_a_round": 1, "max_length": MAX_LENGTH,
            "objective": f"SPPO's regression of all 6 members, eta {ETA}; on pairs DPO, beta {BETA}",
            "equivalent pairs": f"the best against each of the others: {each} pairs a slate, "
            f"{SLATES * each} a step (TRL in 5 accumulated batches)",
            "optimiser": f"AdamW, lr {LR}, constant, no weight decay, clip 1", "precision": "float32",
            "reference": "prefine scores it once and keeps it, TRL in every step; both inside the clock",
        },
        "seeds": [asked.seed],
        "checks": checks,
        "sides": {s.name: told(m, work) for s, m in zip(sides, (trees, padded, on_pairs, trl), strict=True)},
        "ratios": {
            "padded time over prefine's": over_padded,
            "TRL's time over prefine's": over_trl,
            "TRL's time over prefine's on the same pairs": ratios(trl.values("seconds"), on_pairs.values("seconds")),
        },
        "figures": {"TRL, tokens of its own 10 rows a second": told(trl, own)["tokens_per_second"]["median"]},
        "targets": [
            target("throughput over our own padded path", over_padded["median"], 2.5),
            target("throughput over TRL's on the equivalent pairs", over_trl["median"], 8.0),
        ],
    }  # fmt: skip
