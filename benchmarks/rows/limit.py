"""The limit: a training step's arithmetic a second over what the machine's own matrix multiply does.

Only the arithmetic that the prefix tree needs is counted (``benchmarks.work``), forward and backward; norms,
softmax, the loss, the optimiser and everything else that takes time counts as none. The matrix multiply is measured
in turn with the training, with the shapes that the model's linear layers have in that step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks import data, models
from benchmarks.compare import Side, in_turn, opened, told
from benchmarks.models import Product, Shape
from benchmarks.prepared import pairs_of, prepare
from benchmarks.results import target
from benchmarks.rows import Asked
from benchmarks.stats import ratios, spread
from benchmarks.work import tree_work
from prefine.policies.base import Limits

BATCH, STEPS, MAX_LENGTH = 8, 3, 1024


def limit(asked: Asked, *, shape: Shape, steps: int = STEPS) -> dict[str, Any]:
    shape = asked.shape(shape)
    texts = data.find("pairs", asked.file("pairs"))
    policy, reference = (models.directory(shape, texts, seed) for seed in (0, 1))
    ready = prepare(f"pairs-{texts.key}-{shape.name}", pairs_of(texts), policy, Limits(max_length=MAX_LENGTH))
    order = data.order(len(ready.rows), asked.seed)
    size = BATCH * steps
    rounds = [{"indices": order[i * size : (i + 1) * size]} for i in range(asked.pairs + 1)]
    needed = [tree_work(ready.rows[i] for i in r["indices"]) for r in rounds[1:]]
    flops = [work.flops(shape) for work in needed]
    tokens, scored = (round(sum(each) / len(needed) / steps) for each in zip(*((w.tokens, w.scored) for w in needed)))
    products = {"products": with_gradients(shape.products(tokens, scored))}
    trained = {
        "policy": str(policy), "reference": str(reference), "contrasts": str(ready.contrasts), "batch": BATCH,
        "lr": 1e-6, "max_length": MAX_LENGTH, "precomputed": True, "objective": ["dpo", {"beta": 0.1}],
    }  # fmt: skip
    sides = [Side("prefine", "prefine_train", trained), Side("matrix multiply", "matmul", products)]
    with opened(sides) as workers:
        prefine, matmul = in_turn(workers, rounds)
    achieved = [f / s for f, s in zip(flops, prefine.values("seconds"), strict=True)]
    share = ratios(achieved, matmul.values("rate"))
    return {
        "data": {"source": texts.source, "generated": texts.generated, **ready.told()},
        "settings": {
            "model": shape.told(), "batch": BATCH, "steps_a_round": steps, "precision": "float32",
            "counted": "6 W t + 6 D V s + 12 D L a: prefixes t, those scored s, pairs of token and ancestor a",
            "tokens_a_step": tokens, "scored_a_step": scored,
        },
        "seeds": [asked.seed],
        "checks": [],
        "sides": {"prefine": told(prefine, [f / 1e9 for f in flops], "gflops"), "matrix multiply": told(matmul)},
        "ratios": {
            "achieved over the matrix multiply with the model's shapes": share,
            "achieved over the best large square": ratios(achieved, matmul.values("square_rate")),
        },
        "figures": {
            "gflops_per_second": {
                "achieved": spread([a / 1e9 for a in achieved]),
                "matrix multiply, the model's shapes": spread([r / 1e9 for r in matmul.values("rate")]),
                "matrix multiply, 2048 x 2048": spread([r / 1e9 for r in matmul.values("square_rate")]),
            },
            "share_of_arithmetic": _shares(needed, shape),
        },
        "targets": [target("share of the matrix-multiply rate", share["median"], 0.7)],
    }  # fmt: skip


def with_gradients(products: list[Product]) -> list[Product]:
    """Of each product: itself, the gradient of its input, the gradient of its weight."""
    return [
        (*each, count) for m, k, n, count in products for each in ((m, k, n), (m, n, k), (n, m, k))
    ]  # fmt: skip


def _shares(needed: Any, shape: Shape) -> dict[str, float]:
    total = sum(w.flops(shape) for w in needed)
    parts = {
        "layers": sum(6.0 * shape.layer_weights * shape.layers * w.tokens for w in needed),
        "head": sum(6.0 * shape.hidden * shape.vocabulary * w.scored for w in needed),
        "attention": sum(12.0 * shape.hidden * shape.layers * w.attended for w in needed),
    }
    return {name: round(part / total, 3) for name, part in parts.items()}


small = partial(limit, shape=models.SMALL)
large = partial(limit, shape=models.LARGE, steps=1)
