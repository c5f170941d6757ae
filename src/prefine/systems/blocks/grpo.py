"""GRPO: a clipped policy gradient with a group of samples in place of a value model."""

from __future__ import annotations

from typing import Literal

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import system
from prefine.judging.base import Judge, asked_as, spoken_by
from prefine.registry import at_least
from prefine.run import Run

TINY = {"lr": 1e-3, "rounds": 6, "n": 8, "batch_size": 8}


@system(
    None, "grpo", "Group relative policy optimisation", family="reasoning", paper="arXiv 2402.03300",
    on_worlds=TINY, question="online", data="rewards, lists", learning="online", loss="policy-gradient",
    length="normalised",
)  # fmt: skip
def grpo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    *,
    rounds: int = 20,
    n: int = 16,
    temperature: float = 1.0,
    beta: float = 0.04,
    clip: float = 0.2,
    clip_high: float | None = None,
    deviation: bool = True,
    per: Literal["response", "token"] = "response",
    unfinished: float | None = None,
    epochs: float = 1.0,
) -> PolicyHandle:
    """Sample a group a prompt, and raise the probability of responses by how much they beat the group's mean.

    A_i = (r_i - mean r) / std r;
    L = mean_i 1/|y_i| sum_t [ max(-A rho, -A clip(rho, 1 - clip, 1 + clip)) + beta (ref/pi - log ref/pi - 1) ].

    Use it where answers can be checked and a value model is too much: it takes n samples a prompt instead. Not where
    most groups are all right or all wrong: they teach nothing.

    rounds: batches of prompts, sampled from the policy of the moment. n: responses a prompt. beta: closeness to the
    start. clip_high: another upper edge of the ratio. deviation: false leaves advantages undivided.
    per: what the mean is over, responses or tokens. unfinished: the score of a response cut before its end, if set.
    epochs: passes over the samples of a round.
    """
    at_least(2, n=n)
    objective, start = objectives.grpo(clip, beta, deviation, per, clip_high), policy
    draw = curating.rollouts(unfinished=unfinished, fewest=2)
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature)
        groups = run.curate(run.judge(slates, spoken_by(judge, policy), role=asked_as(judge, policy)), draw)
        policy = run.train(
            policy, groups, objective=objective, reference={"reference": start, "old": policy},
            epochs=epochs, schedule="constant", warmup=0.0,
        )  # fmt: skip
        run.watch(policy)
    return policy
