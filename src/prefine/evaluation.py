"""Measuring a policy: reward, win rate, KL and length of fresh samples; margins and accuracy on held-out pairs.

Everything is estimated over prompts, with the standard error over prompts beside it (``name_se``).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.judging.base import Judge, compares
from prefine.slate import Contrast, Slate, point, prompt_text

if TYPE_CHECKING:
    import random

    from prefine.run import Run

EXCERPTS = 12
"""How many prompts go into the report with their answers before and after."""


@dataclass(frozen=True)
class Yardstick:
    """What a run is measured with: held-out prompts, a judge where there is one, held-out pairs where there
    are some, and the policy to compare with."""

    start: PolicyHandle | None
    prompts: Slates | None = None
    judge: Judge | None = None
    pairs: Contrasts | None = None
    n: int = 1
    temperature: float = 1.0
    unit: str = "logp"
    """What the policy's numbers on held-out pairs are: log-probabilities, or rewards of a reward model."""

    def measure(self, run: Run, policy: PolicyHandle, name: str = "held-out") -> dict[str, float]:
        """Figures of the policy, written to the run's logs as one row."""
        figures: dict[str, float] = {}
        if self.prompts is not None:
            figures |= _samples(run, policy, self.prompts, self.judge, self.start, self.n, self.temperature)
        if self.pairs is not None and self.start is not None:
            figures |= PAIRS[self.unit](run, policy, self.start, self.pairs)
        run.record("evaluations.jsonl", {"name": name, "key": policy.key, "figures": figures})
        return figures


def _samples(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge | None,
    start: PolicyHandle | None,
    n: int,
    temperature: float,
) -> dict[str, float]:
    rival = judge if judge is not None and compares(judge) else None
    judge = None if rival is not None else judge
    with _outside_rounds(run):
        after = drawn(run, policy, prompts, judge, n, temperature)
        before = None if start is None else drawn(run, start, prompts, judge, n, temperature)
        figures = {
            **_mean("length", [float(np.mean([_tokens(c) for c in s.candidates])) for s in after]),
            **_mean("finished", [float(np.mean([c.stop != "length" for c in s.candidates])) for s in after]),
        }
        if judge is not None:
            column = score_column(after)
            figures |= _mean("reward", [_average(s.column(column)) for s in after])
            if before is not None and start is not None and start.key != policy.key:
                wins = [beats(a.column(column), b.column(column)) for a, b in zip(after, before, strict=True)]
                figures |= _mean("win_rate", wins)
                figures |= _mean(
                    "win_rate_same_length", [same_length(a, b, column) for a, b in zip(after, before, strict=True)]
                )
        if rival is not None and before is not None and start is not None and start.key != policy.key:
            both = run.judge(run.combine(after, before), rival, role="evaluation", label="held-out judgement")
            figures |= _mean("win_rate", [against(slate, n) for slate in both])
        if start is not None and start.key != policy.key:
            points = run.curate(after, every_candidate, label="held-out samples as points")
            own, other = (run.logps(p, points, label="score held-out samples").sums() for p in (policy, start))
            kl = [o[0] - s[0] for o, s in zip(own, other, strict=True)]
            figures |= _mean("kl", [float(np.mean(kl[i : i + n])) for i in range(0, len(kl), n)])
    if before is not None:
        _excerpts(run, before, after, judge is not None)
    return figures


def drawn(
    run: Run, policy: PolicyHandle, prompts: Slates, judge: Judge | None, n: int = 1, temperature: float = 1.0
) -> Slates:
    """Held-out samples of a policy, judged: the same whoever asks, so drawn once."""
    slates = run.sample(policy, prompts, n=n, temperature=temperature, role="evaluation", label="held-out samples")
    return slates if judge is None else run.judge(slates, judge, role="evaluation", label="held-out judgement")


def _pairs(run: Run, policy: PolicyHandle, start: PolicyHandle, pairs: Contrasts) -> dict[str, float]:
    """How the policy ranks held-out pairs, and where their log-probabilities went."""
    with _outside_rounds(run):
        own = np.asarray(run.logps(policy, pairs, label="score held-out pairs").sums())
        base = np.asarray(run.logps(start, pairs, label="score held-out pairs").sums())
    ratio = own - base
    figures = {**_mean("pair_chosen_logp", own[:, 0]), **_mean("pair_rejected_logp", own[:, 1])}
    figures |= _mean("pair_ranking_accuracy", (own[:, 0] > own[:, 1]).astype(float))
    if policy.key != start.key:
        figures |= {**_mean("pair_chosen_ratio", ratio[:, 0]), **_mean("pair_rejected_ratio", ratio[:, 1])}
        margin = ratio[:, 0] - ratio[:, 1]
        figures |= _mean("pair_margin", margin)
        figures |= _mean("pair_accuracy", np.where(margin == 0, 0.5, margin > 0).astype(float))
    return figures


def _rewarded(run: Run, model: PolicyHandle, start: PolicyHandle, pairs: Contrasts) -> dict[str, float]:
    """How a reward model ranks held-out pairs; nothing here is a log-probability."""
    with _outside_rounds(run):
        reward = np.asarray(run.logps(model, pairs, label="score held-out pairs").sums())
    figures = {**_mean("pair_chosen_reward", reward[:, 0]), **_mean("pair_rejected_reward", reward[:, 1])}
    margin = reward[:, 0] - reward[:, 1]
    return figures | _mean("pair_accuracy", np.where(margin == 0, 0.5, margin > 0).astype(float))


PAIRS: Mapping[str, Callable[[Run, PolicyHandle, PolicyHandle, Contrasts], dict[str, float]]] = {
    "logp": _pairs,
    "reward": _rewarded,
}


def beats(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float:
    """Share of all couples (ours, theirs) that ours wins; a tie is half a win.

    >>> beats([1.0, 0.0], [0.0])
    0.75
    """
    couples = [(a, b) for a in ours for b in theirs if a is not None and b is not None]
    if not couples:
        return math.nan
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in couples) / len(couples)


def against(slate: Slate, ours: int) -> float:
    """The same from a judge that compares: the mean P(i beats j) of the first ``ours`` over the others."""
    P = next(column.values for column in slate.feedback.values() if column.kind == "table")
    return float(np.mean([P[i][j] for i in range(ours) for j in range(ours, len(slate))]))


def same_length(ours: Slate, theirs: Slate, column: str, within: float = 0.1) -> float:
    """The same over couples whose lengths differ by at most a tenth: better, and not by being longer or shorter.

    NaN where a prompt has no such couple.
    """
    a, b = ([(_tokens(c), v) for c, v in zip(s.candidates, s.column(column), strict=True)] for s in (ours, theirs))
    wins = [beats([v], [w]) for m, v in a for n, w in b if abs(m - n) <= within * max(m, n)]
    known = [win for win in wins if not math.isnan(win)]
    return float(np.mean(known)) if known else math.nan


def every_candidate(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """A curator: each finished response as a point of its own."""
    for slate in slates:
        for leaf in slate.leaves():
            yield point(slate, leaf, good=True)


def _mean(name: str, values: Iterable[float]) -> dict[str, float]:
    """Mean and standard error, NaN (abstentions) left out."""
    x = np.asarray(list(values), dtype=float)
    x = x[np.isfinite(x)]
    if not len(x):
        return {}
    error = float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else 0.0
    return {name: float(x.mean()), f"{name}_se": error}


def _average(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else math.nan


def score_column(slates: Slates) -> str:
    """The judge's score column: "score" itself, else the last one that holds numbers."""
    named = [name for name, column in slates[0].feedback.items() if column.kind == "score"]
    return "score" if "score" in named else named[-1]


def _tokens(candidate: Any) -> int:
    return len(candidate.tokens) if candidate.tokens is not None else len(candidate.text.split())


def _excerpts(run: Run, before: Slates, after: Slates, judged: bool) -> None:
    column = score_column(after) if judged else None
    for a, b, _ in zip(before, after, range(EXCERPTS), strict=False):
        row: dict[str, Any] = {
            "prompt": prompt_text(a.prompt),
            "before": a.response(0),
            "after": b.response(0),
        }
        if column is not None:
            row |= {"before_score": a.column(column)[0], "after_score": b.column(column)[0]}
        run.record("samples.jsonl", row)


@contextlib.contextmanager
def _outside_rounds(run: Run) -> Iterator[None]:
    """Held-out samples of the same policy are the same in every round, so they are drawn once."""
    now, run.round = run.round, None
    try:
        yield
    finally:
        run.round = now
