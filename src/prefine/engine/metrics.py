"""What is measured at every optimiser step, from the scores alone, whatever the objective.

A figure is a (sum, count) pair, so figures add up over micro-batches, steps and processes to exact means.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prefine.objectives.scores import Scores

SIDES = {"chosen": 1, "rejected": -1}


def figure_names(references: Iterable[str]) -> tuple[str, ...]:
    """The names ``figures`` gives, the same in every process and for every micro-batch.

    For each side: ``logp`` (of whole responses), ``logp_per_token``, ``length`` (tokens), ``ratio`` (log-ratio
    of whole responses to the reference called "reference") and ``ratio_NAME`` (to any other).
    ``margin`` is chosen minus rejected, in log-ratios where there is a reference and log-probabilities where
    there is none, each the mean of its side; ``accuracy`` is how often that is above 0, a tie being
    half.
    """
    measures = ["logp", "logp_per_token", "length", *(_ratio_name(r) for r in sorted(references))]
    return ("loss", *(f"{side}/{m}" for side in SIDES for m in measures), "margin", "accuracy")


@torch.no_grad()
def figures(scores: Scores, loss: Tensor) -> Tensor:
    """(M, 2) sums and counts in float64, in the order of ``figure_names``.

    ``loss`` is this micro-batch's part of the step's mean, so its parts add up and its count comes from the
    step (see ``Log``).
    """
    rows = {
        "logp": scores.sum(),
        "logp_per_token": scores.mean(),
        "length": scores.length_N,
        **{_ratio_name(r): scores.ratio(r) for r in sorted(scores.references)},
    }
    pairs = [_sum_count(loss.detach(), torch.zeros_like(loss))]
    for role in SIDES.values():
        here = scores.role_N == role
        pairs.extend(_sum_count(value_N[here], here[here]) for value_N in rows.values())
    margin = _margins(scores, rows.get("ratio", rows["logp"]))
    ones = torch.ones_like(margin)
    pairs += [_sum_count(margin, ones), _sum_count((margin > 0).to(margin.dtype) + 0.5 * (margin == 0), ones)]
    return torch.stack(pairs)


def _margins(scores: Scores, value_N: Tensor) -> Tensor:
    """Chosen minus rejected for every contrast that has both (its mean over each side, for sets)."""
    sides = []
    for role in SIDES.values():
        here = (scores.role_N == role).to(value_N.dtype)
        count = scores.over_group(here)
        sides.append((scores.over_group(torch.where(here > 0, value_N, 0.0)) / count.clamp(min=1), count > 0))
    (chosen, has_chosen), (rejected, has_rejected) = sides
    return (chosen - rejected)[has_chosen & has_rejected]


def _ratio_name(reference: str) -> str:
    return "ratio" if reference == "reference" else f"ratio_{reference}"


def _sum_count(values: Tensor, ones: Tensor) -> Tensor:
    wide = torch.float32 if values.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    return torch.stack([values.sum(dtype=wide), ones.sum(dtype=wide)])


class Log:
    """Rows of metrics: means of the figures over the steps since the last row.

    ``state`` is plain numbers, so a checkpoint keeps it exactly. Times are apart, under "time/": they alone
    differ from one run to the next.
    """

    def __init__(self, names: Sequence[str], state: Mapping[str, Any] | None = None) -> None:
        self.names = names
        self.rows: list[dict[str, float]] = list(state["rows"]) if state else []
        self.sums: dict[str, list[float]] = dict(state["sums"]) if state else {}
        self.tokens, self.since = 0.0, time.perf_counter()

    @property
    def state(self) -> dict[str, Any]:
        return {"rows": self.rows, "sums": self.sums}

    def add(self, sums: Sequence[float], *, tokens: float, **others: float) -> None:
        """The figures of one step: sums and counts in turn, as ``figures`` has them, and plain numbers."""
        for name, total, count in zip(self.names, sums[::2], sums[1::2], strict=True):
            self._count(name, total, 1.0 if name == "loss" else count)
        self.count(**others)
        self.tokens += tokens

    def count(self, **numbers: float) -> None:
        """Plain numbers of one step."""
        for name, value in numbers.items():
            self._count(name, value, 1.0)

    def _count(self, name: str, total: float, count: float) -> None:
        pair = self.sums.setdefault(name, [0.0, 0.0])
        pair[0] += total
        pair[1] += count

    def close_row(self, **where: float) -> dict[str, float]:
        """The means so far as a row, and a fresh start. A figure that nothing was counted for is left out."""
        seconds = time.perf_counter() - self.since
        row = {
            **where,
            **{name: total / count for name, (total, count) in self.sums.items() if count},
            "time/seconds": seconds,
            "time/tokens_per_second": self.tokens / max(seconds, 1e-9),
        }
        self.rows.append(row)
        self.sums, self.tokens, self.since = {}, 0.0, time.perf_counter()
        return row
