"""The rows: each a function from ``Asked`` to what was found, listed in ``TABLE``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.models import TINY, Shape


@dataclass(frozen=True)
class Asked:
    """What the command line says: a data file a kind (None: the one beside the checkout), how many pairs of
    rounds, and the seed that decides which rows of the data a round gets."""

    pairs: int = 5
    data: Mapping[str, str | None] = field(default_factory=dict)
    seed: int = 0
    smoke: bool = False
    """Only to see that everything works: the tiniest model, whose figures mean nothing."""

    def shape(self, wanted: Shape) -> Shape:
        return TINY if self.smoke else wanted

    def file(self, kind: str) -> str | None:
        return self.data.get(kind)


@dataclass(frozen=True)
class Row:
    """A row of the suite."""

    title: str
    run: Callable[[Asked], dict[str, Any]]
    minutes: float
    """How long it takes, roughly, before results.json knows better."""
    gpu: bool = False
    """Needs CUDA, and is left out unless asked for."""


def table() -> Mapping[str, Row]:
    """Every row by name, in the order they run."""
    from benchmarks.rows import ablation, gpu, growth, limit, memory, objectives, pairs, sample, score, slates

    return {
        "train-pairs-small": Row("Train on pairs, 14M", pairs.small, 3),
        "train-pairs-small-precomputed": Row("Train on pairs, 14M, reference known", pairs.small_precomputed, 2.5),
        "train-pairs-large": Row("Train on pairs, 69M", pairs.large, 6),
        "train-pairs-large-precomputed": Row("Train on pairs, 69M, reference known", pairs.large_precomputed, 5),
        "train-slates": Row("Train on slates of 6, 14M", slates.train, 5),
        "score": Row("Score pairs, 14M", score.score, 1.5),
        "sample-1": Row("Sample 1 a prompt, 14M", sample.one, 1),
        "sample-8": Row("Sample 8 a prompt, 14M", sample.eight, 3),
        "sample-64": Row("Sample 64 a prompt, 14M", sample.many, 5),
        "objectives": Row("Objectives alone", objectives.objectives, 0.5),
        "limit-small": Row("Share of the matrix-multiply limit, 14M", limit.small, 1),
        "limit-large": Row("Share of the matrix-multiply limit, 69M", limit.large, 1.5),
        "growth-responses": Row("Growth with the number of responses", growth.responses, 4),
        "growth-prompt": Row("Growth with the length of the prompt", growth.prompt, 3),
        "growth-depth": Row("Growth with the depth of the tree", growth.depth, 3),
        "memory": Row("Memory from a thousand to a million rows", memory.memory, 4),
        "ablation": Row("A second ablation on the same data", ablation.ablation, 1.5),
        "gpu-train-pairs": Row("Train on pairs, 0.5B on a GPU", partial(gpu.train, precomputed=False), 4, gpu=True),
        "gpu-train-pairs-precomputed": Row(
            "Train on pairs, 0.5B on a GPU, reference known", partial(gpu.train, precomputed=True), 4, gpu=True
        ),
    }
