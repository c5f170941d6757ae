"""On a GPU: train on pairs with a model of Qwen's 0.5B shape in bfloat16, against TRL where it is installed."""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks import models
from benchmarks.compare import Failed, python
from benchmarks.rows import Asked, pairs

BATCH, STEPS = 16, 4


def why_not() -> str | None:
    """Why no GPU row can be measured here; None if one can."""
    import torch

    if torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} sees no CUDA device, and these rows are measured on one"


def train(asked: Asked, *, precomputed: bool) -> dict[str, Any]:
    """As ``train-pairs-*``; losses are compared in float32 before bfloat16 is timed."""
    if (why := why_not()) is not None:
        raise Failed(why)
    return pairs.train(
        asked, shape=models.QWEN, steps=STEPS, batch=BATCH, precomputed=precomputed, faster=1.6, memory=0.5,
        device="cuda", precision="bfloat16", peer=_peer(), settings={"tokens_per_microbatch": 16384},
    )  # fmt: skip


def _peer() -> bool:
    """Whether TRL can be asked: in the peers' environment, or in this one if it was installed here by hand."""
    try:
        python(peer=True)
    except Failed:
        try:
            import trl  # noqa: F401
        except ImportError:
            print("    TRL is not installed here: prefine's padded path is the other side", flush=True)
            return False
        os.environ["BENCH_PEER_PYTHON"] = sys.executable
    return True
