"""Supervised fine-tuning on good responses."""

from __future__ import annotations

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import system
from prefine.run import Run


@system(
    None, "sft", "Supervised fine-tuning", family="objective", on_worlds={"lr": 1e-3, "epochs": 2},
    question="alignment-tax", data="demos", reference="none", divergence="none", loss="likelihood",
)  # fmt: skip
def sft(run: Run, policy: PolicyHandle, demos: Contrasts, *, prompt_in_nll: bool = False) -> PolicyHandle:
    """Raise the likelihood of demonstrated responses: the token mean of -log pi(y|x).

    Use it before preference optimisation when the model does not yet answer in the right form, and as the
    baseline that preference methods must beat. It cannot learn what to avoid.

    prompt_in_nll: learn the prompts' tokens too.
    """
    return run.train(policy, demos, objective=objectives.sft(prompt_in_nll))
