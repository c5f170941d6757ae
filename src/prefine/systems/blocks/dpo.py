"""Direct Preference Optimization: the baseline of the field."""

from __future__ import annotations

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import system
from prefine.run import Run

TINY = {"lr": 1e-3, "epochs": 2, "batch_size": 32}


@system(
    None, "dpo", "Direct Preference Optimization", family="objective", paper="arXiv 2305.18290", on_worlds=TINY,
    question="implicit-reward",
)  # fmt: skip
def dpo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    following: str = "fixed",
) -> PolicyHandle:
    """Fit the policy's own log-ratios to pairwise preferences; no reward model, no sampling.

    L = -log sigma( beta [ log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l) ] ), token sums, a reference that is frozen
    unless it is told to follow.

    Use it first: it is cheap, stable and what everything else is measured against. Not when preferences are
    deterministic and training long (see ipo), when answers must not grow longer (see ilr-dpo), or when the
    likelihood of the chosen responses must not fall (see rpo-regularized).

    beta: how closely the policy stays with the reference (large: close).
    label_smoothing: share of labels assumed to be wrong.
    following: what the reference does in training: fixed, synced:every=64 (becomes the policy every so many steps)
    or trailing:alpha=0.6,every=64 (goes that share of the way to it).
    """
    return run.train(policy, pairs, objective=objectives.dpo(beta, label_smoothing), following=following)
