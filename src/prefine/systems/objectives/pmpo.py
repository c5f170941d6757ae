"""043 PMPO: preference optimisation as probabilistic inference (later: learning from negative feedback, or positive
feedback, or both). arXiv 2410.04166 (ICLR 2025).

Policy improvement as EM on the probability of a preferred outcome. Rewriting p(preferred) = 1 - p(dispreferred) adds a
term that lowers the likelihood of rejected samples, bounded only together with a KL to the reference:

    L = -alpha mean_{D_a} log pi(y|x) + (1 - alpha) mean_{D_r} log pi(y|x) + beta KL( ref || pi )

Token sums; a mean for each set of a prompt, then over prompts; either set may be empty, so accepted only (alpha = 1),
rejected only (alpha = 0) and both can be learnt from. The KL has the reference first, so that it covers: in closed form
over the vocabulary at every position of the reference's samples. With w = alpha p_a - (1 - alpha) p_r + beta ref >= 0
the minimiser is w / (2 alpha - 1 + beta); with w < 0 somewhere there is none (``objectives.pmpo_optimum`` says so for
tables): a language model then needs few steps, a small learning rate or a larger beta.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.annotators import dice
from prefine.judging.base import Judge, Scored
from prefine.policies.tabular import Tabular
from prefine.registry import given_for
from prefine.run import Run
from prefine.slate import REJECTED, Slate
from prefine.worlds.bandit import Bandit


@system(
    43, "pmpo", "PMPO: preference optimization as probabilistic inference",
    family="objective", paper="arXiv 2410.04166", on_worlds={"lr": 1e-3, "beta": 1.0},
    question="feedback", data="labels, rewards", learning="online, offline", loss="likelihood", reference="moving",
    divergence="forward-kl",
)  # fmt: skip
def pmpo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates | None = None,
    judge: Judge | None = None,
    labels: Contrasts | None = None,
    *,
    learn_from: Literal["samples", "labels"] = "samples",
    alpha: float = 0.5,
    beta: float = 0.5,
    split: str = "half",
    n: int = 4,
    rounds: int = 3,
) -> PolicyHandle:
    """Raise accepted and lower rejected responses, independently of each other, held by a KL that covers.

    Use it when feedback comes one response at a time, or of one kind only: failures alone are enough to learn from.
    Not without the KL when there are rejected responses: nothing else bounds the loss.

    alpha: 1 learns from accepted responses alone, 0 from rejected ones alone (then beta of 1 to 2). learn_from: samples
    (n of the policy, split by the judge's score in halves, at the mean, or at a number; the reference moves every
    round) or labels (--data; the reference stays, and n samples of it a prompt say where it covers).
    """
    given = {"labels": labels, "samples": None if prompts is None or judge is None else prompts}
    source = given_for("learn_from", learn_from, given)
    objective = objectives.pmpo(alpha, beta, "all" if learn_from == "samples" else "other")
    if learn_from == "labels":
        sets = run.curate(source, curating.gathered)  # type: ignore[arg-type]
        drawn = run.sample(policy, run.slates(curating.prompts_of(sets)), n=n)
        return run.train(policy, run.curate((sets, drawn), curating.with_samples), objective=objective)
    halves = curating.sets(_number(split), one_sided=True, others=True)
    for t in run.rounds(rounds):
        slates = run.judge(run.sample(policy, run.slice(source, t, rounds), n=n), judge)  # type: ignore[arg-type]
        policy = run.train(policy, run.curate(slates, halves), objective=objective)
        run.watch(policy)
    return policy


def _number(split: str) -> str | float:
    """A word, or the number that is written."""
    try:
        return float(split)
    except ValueError:
        return split


@claim(
    "pmpo",
    statement="On a 10-armed bandit with noisy scores, PMPO goes at least 80% of the way from the uniform policy's "
    "reward to the best arm's from rejected responses alone (alpha 0, beta 2), from accepted ones alone and from both, "
    "in every seed; maximum likelihood of preferred responses does not move at all when only rejected ones are given.",
    baseline="EM: the likelihood of preferred responses",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        min(f[f"{name}_reached"].min() for name in ("rejected", "accepted", "both")) >= 0.8
        and f["em_moved"].max() == 0.0
    ),
)
def one_kind_of_feedback(lab: Lab, seed: int) -> Mapping[str, float]:
    """K = 4 of 10 actions, 16 groups a step, the reference refreshed every 10 steps (a round), plain gradient steps."""
    rounds, bandit = 6, Bandit(actions=10, seed=seed, spread=0.0)
    rewards, uniform = bandit.rewards, float(bandit.rewards.mean())

    def noisy(slate: Slate) -> list[float]:
        errors = np.random.default_rng(dice("scores", seed, slate).getrandbits(64)).normal(scale=0.3, size=len(slate))
        return [float(rewards[int(c.text)] + e) for c, e in zip(slate.candidates, errors, strict=True)]

    run = lab.run(
        "bandit", seed, lr=1.0, batch_size=16, optimizer="sgd", schedule="constant", warmup=0.0, clip=None
    )  # fmt: skip
    start, prompts = run.policy(bandit.base(Path(run.dir))), run.slates(bandit.prompts(rounds * 160))
    figures = {"uniform": uniform, "best": float(rewards.max())}
    for name, (alpha, beta) in {"rejected": (0.0, 2.0), "accepted": (1.0, 0.0), "both": (0.5, 1.0)}.items():
        done = pmpo(run, start, prompts, Scored(noisy), alpha=alpha, beta=beta, rounds=rounds)
        figures[name] = bandit.value(Tabular.load(done.path))
        figures[f"{name}_reached"] = (figures[name] - uniform) / (rewards.max() - uniform)
    slates = run.judge(run.sample(start, prompts, n=4), Scored(noisy))
    points = curating.as_points(curating.sets("half"))
    failures = run.curate(slates, lambda rows, rng: [c for c in points(rows, rng) if c.roles == (REJECTED,)])
    em = run.train(start, failures, objective=objectives.pmpo(alpha=1.0, beta=0.0), max_steps=50)
    tables = [Tabular.load(handle.path).logp_PA() for handle in (em, start)]
    figures["em_moved"] = float((tables[0] - tables[1]).detach().abs().max())
    return figures
