"""069 ScPO: self-consistency preference optimisation. arXiv 2411.04109 (ICML 2025).

Votes instead of gold answers: V(y) = how many of k samples end in the same final answer as y. A response with
the most votes is preferred to one with the fewest, a prompt is kept when V(y+) >= tau k, and each pair weighs
w = (V(y+) - V(y-))/k, a constant:

    L = w [ -log sigma( beta h ) - alpha log pi(y+|x)/|y+| ]

h with token sums against the round's start; only the likelihood term is divided by the length. w = 1 is IRPO's
loss, w = 0 gives no gradient. From the second round on extra samples at a higher temperature look for rejected
answers (they do not vote), and tau grows. The model also writes new problems, kept only when its own votes on
them are concentrated enough. Temperature 0.7 and top-p 0.9 of the voters are reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.run import Run
from prefine.sampling import new_problems


@system(
    69, "scpo", "ScPO: self-consistency preference optimization", family="reasoning", paper="arXiv 2411.04109",
    world="arithmetic", on_worlds={"lr": 1e-3, "epochs": 2, "self_instruct": 0.5},
)  # fmt: skip
def scpo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    *,
    rounds: int = 2,
    n: int = 8,
    tau: tuple[float, ...] = (0.5, 0.7),
    beta: float = 0.5,
    alpha: float = 1.0,
    temperature: float = 0.7,
    top_p: float = 0.9,
    extra: int = 8,
    extra_temperature: float = 1.2,
    self_instruct: float = 0.0,
    answer: str = "auto",
) -> PolicyHandle:
    """Prefer what the model itself mostly answers to what it rarely does; no gold answers, no judge.

    Use it on problems with short final answers when the majority is right more often than a single sample.
    Not where the model is systematically wrong: the majority is then amplified too.

    tau: share of votes the winner needs, by round. extra: further samples from round 2 on, for rejected
    answers. self_instruct: new problems written by the model, as a share of the prompts.
    answer: how a final answer is found in a response (see judging.final_answer).
    """
    vote = judging.votes(answer, voters="voter")
    for t in run.rounds(rounds):
        keep = tau[min(t, len(tau) - 1)]
        problems = prompts
        if self_instruct:
            written = run.bare(new_problems(run, policy, prompts, count=int(self_instruct * len(prompts))))
            trial = run.judge(run.sample(policy, written, n=n, temperature=temperature, top_p=top_p, role="voter"), vote)
            problems = run.join(prompts, run.bare(run.slates(curating.concentrated(keep)(trial))))
        slates = run.sample(policy, problems, n=n, temperature=temperature, top_p=top_p, role="voter")
        if t > 0 and extra:
            slates = run.sample(policy, slates, n=extra, temperature=extra_temperature, role="extra")
        pairs = run.curate(run.judge(slates, vote), curating.vote_pairs(keep, voters="voter"))
        policy = run.train(policy, pairs, objective=objectives.scpo(beta, alpha))
        run.watch(policy)
    return policy
