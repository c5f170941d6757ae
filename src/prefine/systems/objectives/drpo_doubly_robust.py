"""052 DRPO (doubly robust): doubly robust alignment for large language models. arXiv 2506.01183 (2025).

The probability that the policy beats the logging policy mu, estimated so that one of two models may be wrong:

    psi(pi) = E_{a* ~ pi}[ g(a*, a2) ] + E_data[ (pi/mu)(a1) (z - g(a1, a2)) ]

right if either the preference model g or mu (the reference) is. Rows (x, a1, a2, z) come in both orders, z = 1 if a1
was preferred. The loss has the policy gradient of psi, and a KL:

    L = -mean sg[ clip(pi/mu, 1/C, C) (z - g(a1, a2)) ] log pi(a1)  -  mean sg[ g(a*, a2) ] log pi(a*)
        + beta sum_t [ exp(d_t) - d_t - 1 ],   d = log ref - log pi on a*, with gradient

(The ratio modes, where gradients stop and the defaults follow the released code. Its branch that adds noise to g is
left out.) The release samples for every step. Here every round samples for its part of the pairs from the policy as it
stands, and where a round has several steps samples are weighted by pi/pi_round, cut to [1/C, C]; as many rounds as
there are batches is the release's loop. It samples at 0.66 to 0.88 and divides the logits by as much; here both are
at temperature 1, where the score function needs no such correction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Compared, Judge
from prefine.policies.tabular import Tabular
from prefine.registry import at_least
from prefine.run import Run
from prefine.slate import Slate


@system(
    52, "drpo-doubly-robust", "DRPO: doubly robust alignment for large language models",
    family="objective", paper="arXiv 2506.01183",
    on_worlds={"lr": 5e-4, "rounds": 8, "schedule": "constant", "C": 2.5},
    question="online", data="noisy-pairs, rewards", learning="offline, online", loss="policy-gradient",
    aim="self-play", shift="corrected",
)  # fmt: skip
def drpo_doubly_robust(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    preference: Judge,
    *,
    rounds: int = 16,
    n: int = 2,
    beta: float = 0.04,
    C: float = 2.5,
    ratio: Literal["clip", "none", "self-normalised"] = "clip",
    estimator: Literal["doubly-robust", "direct", "importance"] = "doubly-robust",
    baseline: float = 0.0,
    unfinished: float = 0.0,
) -> PolicyHandle:
    """Policy gradient on a preference model's word for fresh samples, corrected on the logged pairs.

    Use it when there are pairs *and* a preference model and neither is to be trusted alone: a reward model that may
    be wrong, or a reference that may not be what wrote the data. Not without a preference model worth asking (it is
    then importance sampling, with its variance), nor when sampling while training costs too much.

    policy: what wrote the pairs, or near it: it is the reference. n: fresh samples a pair. C: cut of the ratios.
    estimator: one half alone, to see what it does. unfinished: taken off g for a sample cut before its end.
    """
    at_least(1, n=n, rounds=rounds)
    objective = objectives.doubly_robust(beta, C, ratio, estimator, baseline, "sampler")
    judged = curating.both_orders(model=estimator != "importance", unfinished=unfinished)
    start = policy
    for t in run.rounds(rounds):
        part = run.curate(pairs, curating.part(t, rounds))
        own = run.sample(
            policy, run.slates(curating.prompts_of(part), label="prompts"), n=n, temperature=1.0, top_p=1.0
        )
        beside = run.slates(curating.beside_samples(part, own), label="pairs beside samples")
        rows = run.curate(run.judge(beside, preference), judged)
        policy = run.train(policy, rows, objective=objective, reference={"reference": start, "sampler": policy})
        run.watch(policy)
    return policy


@claim(
    "drpo-doubly-robust",
    statement="10-armed preference bandit, true win rate over the logging policy: with an indifferent preference model "
    "(1/2 everywhere) and the right reference, DRPO exceeds 0.62 on average and 0.57 in every seed, where the direct "
    "method alone stays at chance (0.45 to 0.55); with the true preference model DRPO exceeds 0.65.",
    baseline="the direct method (a preference model alone), on the same pairs and samples",
    holds=lambda f: (
        f["indifferent"].mean() > 0.62
        and f["indifferent"].min() > 0.57
        and bool(np.all(abs(f["direct_indifferent"] - 0.5) < 0.05))
        and f["true"].mean() > 0.65
    ),
)
def wrong_model(lab: Lab, seed: int) -> Mapping[str, float]:
    """25 rounds of 6 SGD steps, 64 pairs and 2 samples a pair each; win rates are exact."""
    from prefine.worlds.bandit import Bandit

    world = Bandit(actions=10, seed=seed, spread=0.5)
    rounds, size = 25, 64
    run = lab.run(
        "bandit", seed, lr=1.0, optimizer="sgd", schedule="constant", warmup=0.0, clip=None, batch_size=size,
        max_steps=6, log_every=6, save_every=10_000,
    )  # fmt: skip
    base = run.policy(world.base(lab.root))
    slates = run.sample(base, run.slates(world.prompts(rounds * size)), n=2)
    pairs = run.curate(run.judge(slates, world.labels()), curating.random_pairs("score"))
    P = 1 / (1 + np.exp(-np.subtract.outer(world.rewards, world.rewards)))
    mu: Tabular = base.load()  # type: ignore[assignment]

    def arm(g: np.ndarray, estimator: Literal["doubly-robust", "direct"]) -> float:
        def table(slate: Slate) -> list[list[float]]:
            at = [int(c.text) for c in slate.candidates]
            return g[np.ix_(at, at)].tolist()

        judge = Compared(table)
        policy = drpo_doubly_robust(run, base, pairs, judge, rounds=rounds, estimator=estimator)
        won = policy.load().probabilities(0).numpy() @ P @ mu.probabilities(0).numpy()  # type: ignore[attr-defined]
        return float(won)

    half = np.full_like(P, 0.5)
    return {
        "true": arm(P, "doubly-robust"),
        "indifferent": arm(half, "doubly-robust"),
        "direct_indifferent": arm(half, "direct"),
    }
