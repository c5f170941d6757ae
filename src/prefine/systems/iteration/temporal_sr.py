"""013 Temporal self-rewarding: chosen from the future, rejected from the past. arXiv 2508.06026.

Self-rewarding stalls because chosen and rejected come from the same improving model and grow alike. Each round,
with everything scored by the current model M_i:

    past     rejected = the worst of M_0's responses if it scores below the worst of M_i's, else M_i's worst;
             chosen = M_i's best.  M_f = DPO(M_i) on these pairs
    future   chosen = the best of M_f's responses if it scores above the best of M_i's, else M_i's best;
             rejected as before.   M_{i+1} = DPO(M_i) on these pairs, and M_f is thrown away

A pair is used only when its chosen scores above its rejected. DPO with token sums, started from and referred to
M_i both times. The scale of the self-judgement (0 to 5) and the optimiser's constants are reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge, spoken_by
from prefine.run import Run


@system(
    13, "temporal-sr", "Temporal self-rewarding language models: decoupling chosen-rejected via past-future",
    family="iteration", paper="arXiv 2508.06026", on_worlds={"lr": 1e-3},
)  # fmt: skip
def temporal_sr(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    *,
    rounds: int = 2,
    n: int = 7,
    beta: float = 0.1,
    temperature: float = 1.0,
    past: bool = True,
    future: bool = True,
) -> PolicyHandle:
    """Self-rewarding whose pairs stay apart: rejected by the first model, chosen by a model one step ahead.

    Use it when iterative training on a judge's best and worst stalls because the pairs become alike. With
    ``--judge self`` the current model grades by prompt, as in the paper; any other judge works too.

    past, future: switch either half off, for ablation (both off: plain self-rewarding).
    """
    start = current = policy
    for t in run.rounds(rounds):
        part, grade = run.slice(prompts, t, rounds), spoken_by(judge, current)
        slates = run.sample(current, part, n=n, temperature=temperature, role="current")
        if past:
            slates = run.sample(start, slates, n=n, temperature=temperature, role="past")
        judged = run.judge(slates, grade)
        ahead = run.train(current, run.curate(judged, curating.temporal_past()), objective=objectives.dpo(beta))
        if future:
            answers = run.sample(ahead, part, n=n, temperature=temperature, role="future")
            judged = run.combine(judged, run.judge(answers, grade))
            pairs = run.curate(judged, curating.temporal_future())
            ahead = run.train(current, pairs, objective=objectives.dpo(beta))
        current = ahead
        run.watch(current)
    return current
