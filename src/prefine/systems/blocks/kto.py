"""KTO: learning from single responses labelled good or bad."""

from __future__ import annotations

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import system
from prefine.curating.base import as_is
from prefine.run import Run

TINY = {"lr": 1e-3, "epochs": 2}


@system(
    None, "kto", "Kahneman-Tversky Optimization", family="objective", paper="arXiv 2402.01306", on_worlds=TINY,
    question="feedback", data="labels", loss="other",
)  # fmt: skip
def kto(
    run: Run,
    policy: PolicyHandle,
    labels: Contrasts,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> PolicyHandle:
    """Push good responses above, and bad ones below, a reference point: the batch's own KL.

    r = log pi(y|x)/ref(y|x);  z0 = max(0, mean r of mismatched prompts and responses), detached;
    good: w_d (1 - sigma(beta (r - z0))),  bad: w_u (1 - sigma(beta (z0 - r))).

    Use it when feedback is thumbs up and down on single responses. Pairs are split into labels. With very
    unequal numbers of good and bad, set the weights so that their products with the counts are alike.
    """
    objective = objectives.kto(beta, desirable_weight, undesirable_weight)
    mixed = run.curate(labels, curating.mismatched(as_is))
    return run.train(policy, mixed, objective=objective)
