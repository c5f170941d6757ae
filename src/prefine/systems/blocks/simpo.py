"""SimPO: a reference-free pair loss on length-normalised likelihoods."""

from __future__ import annotations

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import system
from prefine.run import Run

TINY = {"lr": 5e-4, "epochs": 2}


@system(
    None, "simpo", "Simple Preference Optimization", family="objective", paper="arXiv 2405.14734", on_worlds=TINY,
    question="reference", reference="none", divergence="none", length="normalised",
)  # fmt: skip
def simpo(run: Run, policy: PolicyHandle, pairs: Contrasts, *, beta: float = 2.0, gamma: float = 1.0) -> PolicyHandle:
    """Contrast mean token log-probabilities directly, with a target margin and without a reference.

    L = -log sigma( beta/|y_w| log pi(y_w) - beta/|y_l| log pi(y_l) - gamma ).

    Use it when memory or time for a reference is short and lengths differ much. Without a reference nothing
    holds the policy back but the learning rate, so watch the KL in the report.

    beta: scale of the mean log-probability. gamma: target margin.
    """
    return run.train(policy, pairs, objective=objectives.simpo(beta, gamma))
