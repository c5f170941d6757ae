"""098 rDPO: provably robust DPO, aligning language models with noisy feedback. arXiv 2403.00409 (ICML 2024).

When every label is flipped with a known rate eps < 1/2, the expectation of DPO's loss over the flips is that of
another problem, and label smoothing changes it further. The unbiased estimate of the clean loss is

    L_rob(w, l) = [ (1 - eps) L(w, l) - eps L(l, w) ] / (1 - 2 eps),    L(w, l) = -log sigma( beta h )

with gradient -beta zeta grad h, zeta = (1-eps)/(1-2eps) sigma(-beta h) + eps/(1-2eps) sigma(beta h) > 0: unlike
conservative DPO's, sigma(-beta h) - eps, it never turns round. The loss has no lower bound, so train no longer than
needed, or cut L(l, w) off (``most``). The construction takes any pair loss (``over``), a reward model's too:
``--objective robust:bradley-terry`` in Python's ``run.fit``. "R-DPO" elsewhere means a length penalty (see ilr-dpo).
"""

from __future__ import annotations

from collections.abc import Mapping

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.with_values import with_values
from prefine.errors import InputError
from prefine.formats import pairs_of
from prefine.objectives import Objective
from prefine.registry import Part
from prefine.run import Run
from prefine.worlds.loglinear import LogLinear


@system(
    98, "rdpo", "rDPO: provably robust DPO, aligning language models with noisy feedback", family="objective",
    paper="arXiv 2403.00409", on_worlds={"lr": 1e-3, "epochs": 2}, question="implicit-reward", data="noisy-pairs",
    reference="fixed, none",
)  # fmt: skip
def rdpo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    eps: float = 0.1,
    beta: float | None = None,
    over: Part | None = None,
    by: str = "",
    most: float | None = None,
) -> PolicyHandle:
    """DPO on labels of which a known share is wrong: in expectation over the flips, DPO on the clean ones.

    Use it when the rate of wrong labels is known, from labels given twice or from a check of a sample (`prefine
    advise` estimates it). Not when it is not: too large an eps overfits the labels it trusts (see lcpo, which
    learns it), nor for long training without ``most``.

    eps: share of labels that are wrong, below 0.5. beta: closeness to the reference (0.1). over: another pair loss
    than DPO, with its own beta, as simpo(beta=2.5). by: a value of the pairs that holds each pair's own eps. most: cut
    L(l, w) off there.
    """
    if over is not None and beta is not None:
        raise InputError(
            f"beta={beta:g} would be DPO's, and the loss is {over}",
            remedy="leave it out, or give the other loss its own, as --over simpo(beta=2.5)",
        )
    loss = objectives.read(over) if over is not None else objectives.dpo(0.1 if beta is None else beta)
    loss = objectives.robust(loss, eps, by or None, most)
    known = run.curate(pairs, with_values(by, option="--by COLUMN")) if by else pairs
    return run.train(policy, known, objective=loss)


@claim(
    "rdpo",
    statement="On 8,000 pairs of a known log-linear reward with 30% of the labels flipped, rDPO's relative "
    "parameter error after the same training is below half of DPO's, and conservative DPO's is above DPO's.",
    baseline="dpo; dpo with label_smoothing = 0.3",
    holds=lambda f: bool(
        f["error_rdpo"].mean() < 0.5 * f["error_dpo"].mean() and f["error_cdpo"].mean() > f["error_dpo"].mean()
    ),
)
def parameters_from_flipped_labels(lab: Lab, seed: int) -> Mapping[str, float]:
    """d = 5, beta = 1, 30% flips; the same optimiser steps for all."""
    world = LogLinear(pairs=8000, dimensions=5, flips=(0.3,), seed=seed)
    run = lab.run("flips", seed, lr=0.1, batch_size=200, epochs=3, warmup=0.0, clip=None, log_every=200)
    base = run.policy(world.base(lab.root / "bases"))
    pairs = run.curate(run.slates(world.slates()), lambda slates, rng: pairs_of(slates))

    def error(loss: Objective) -> float:
        return world.error(run.train(base, pairs, objective=loss).load())  # type: ignore[arg-type]

    return {
        "error_dpo": error(objectives.dpo(1.0)),
        "error_cdpo": error(objectives.dpo(1.0, label_smoothing=0.3)),
        "error_rdpo": error(objectives.robust(objectives.dpo(1.0), 0.3)),
    }
