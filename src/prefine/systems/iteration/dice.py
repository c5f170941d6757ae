"""085 DICE: bootstrapping with DPO's implicit rewards. arXiv 2406.09760 (ICLR 2025).

After one DPO run the policy and its reference define a reward, r(x,y) = log pi(y|x) - log ref(y|x) (token sums;
the factor beta only rescales alpha). Each round samples, scores with that reward minus alpha characters, where one
alpha for the whole round makes chosen and rejected equally long on average, mixes in a share gamma of the human
pairs on other prompts, and runs DPO again.

Roles: the scoring pair is (pi_0, SFT) in round 1 and (pi_1, pi_0) in round 2, so the scoring reference lags one
round; DPO's own reference is the round's start.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.run import Run


@system(
    85, "dice", "DICE: bootstrapping language models with DPO implicit rewards", family="iteration",
    paper="arXiv 2406.09760", on_worlds={"lr": 1e-3, "temperature": 1.0, "min_characters": 1},
)  # fmt: skip
def dice(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    pairs: Contrasts,
    *,
    rounds: int = 2,
    n: int = 16,
    beta: float = 0.1,
    gamma: float = 0.5,
    temperature: float = 0.9,
    top_p: float = 1.0,
    min_survivors: int = 8,
    min_characters: int = 3,
    max_characters: int = 6700,
    alpha: float | None = None,
    trained_from: str = "",
) -> PolicyHandle:
    """Let a DPO-trained policy judge its own samples by its implicit reward, without growing longer.

    Use it to get more out of a few human pairs: no judge, no new labels. Not when the first DPO run ranks
    held-out pairs badly: the loop amplifies what the implicit reward believes.

    trained_from: directory of the model that the given policy was DPO-trained from; without it the policy is
    taken to be the SFT model, and the first DPO run on the pairs is made here.
    gamma: share of human pairs in each round. alpha: a fixed length penalty instead of the search.
    """
    if trained_from:
        current, before = policy, run.policy(trained_from)
    else:
        current, before = run.train(policy, pairs, objective=objectives.dpo(beta), label="first DPO"), policy
        run.watch(current)
    balanced = curating.length_balanced(
        "implicit", min_survivors, min_characters=min_characters, max_characters=max_characters, alpha=alpha
    )
    for _ in run.rounds(rounds):
        slates = run.sample(current, prompts, n=n, temperature=temperature, top_p=top_p)
        judged = run.judge(slates, judging.implicit_reward(current, before))
        lessons = run.curate(judged, curating.replay_mix(balanced, pairs, gamma))
        current, before = run.train(current, lessons, objective=objectives.dpo(beta)), current
        run.watch(current)
    return current
