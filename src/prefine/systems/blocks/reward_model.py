"""A Bradley-Terry reward model."""

from __future__ import annotations

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import system
from prefine.run import Run

TINY = {"lr": 1e-3, "epochs": 3}


@system(
    None, "reward-model", "Bradley-Terry reward model", family="reward", paper="arXiv 1706.03741", on_worlds=TINY,
    question="implicit-reward", reference="none", divergence="none",
)  # fmt: skip
def reward_model(run: Run, policy: PolicyHandle, pairs: Contrasts, *, label_smoothing: float = 0.0) -> PolicyHandle:
    """Fit a scalar head on the policy's backbone so that sigma(r(y_w) - r(y_l)) predicts the labels.

    L = -log sigma( r(x, y_w) - r(x, y_l) ). The result is a judge: ``--judge reward-model:RUN/policy``.

    Use it when a loop needs a judge and there are pairs to learn one from.
    """
    return run.fit(policy, pairs, objective=objectives.bradley_terry(label_smoothing=label_smoothing))
