"""061 SPAC: self-play with an adversarial critic, pessimism for offline pairs. arXiv 2406.04274 (2024).

A Stackelberg game on fixed pairs. The critic must explain them, and for the rest rates the policy as low as it
can, on average; the policy takes a mirror step on the critic:

    f_t = argmin_f  lam E_D[ -log sigma( f(y_w) - f(y_l) ) ] + E_{y' ~ pi_t}[ f(y') ] - E_D[ (f(y_w) + f(y_l))/2 ]
    pi_{t+1}(y|x) ~ pi_t(y|x) exp( f_t(x,y)/beta )

With f = beta log(pi/pi_t) + c(x) both steps are one loss over (y_w, y_l, y'), y' a sample of pi_t:

    L = lam * -log sigma( beta q(y_w) - beta q(y_l) ) + C,    q = log pi/pi_t, token sums
    C = beta q(y') - beta/2 (q(y_w) + q(y_l))   (``form="linear"``), or -log sigma(-C)   ("smooth")

Settled: lam weighs the data (a public note on Algorithm 2 puts 1/lam on the critic). The centring of C is not in
that note, which only says that both responses estimate the data's side; it is forced: a reward is defined up to
c(x), and only a C whose weights add up to zero does not see c(x), so that the two forms agree (a test). "smooth" is
the note's log-sigmoid: bounded below, where the linear C is not on a free softmax. lam, T and beta are
reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.run import Run
from prefine.worlds.uncovered import Uncovered


@system(
    61, "spac", "SPAC: self-play with adversarial critic, provable and scalable offline alignment",
    family="nash", paper="arXiv 2406.04274", on_worlds={"lr": 1e-3, "epochs": 1},
    question="online", learning="offline, online", aim="self-play", reference="moving", shift="corrected",
)  # fmt: skip
def spac(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    rounds: int = 3,
    beta: float = 0.1,
    lam: float = 1.0,
    form: Literal["smooth", "linear"] = "smooth",
    n: int = 1,
    average: bool = False,
) -> PolicyHandle:
    """Learn from fixed pairs against a critic that rates down whatever they do not support.

    Use it when pairs are few or cover little of what the policy says: DPO is free to raise what they never show.
    It needs no judge and no new labels, one sample a prompt and round. Not when the pairs are the policy's own
    samples and plenty, where pessimism only slows.

    lam: weight of the pairs (large: DPO in rounds, reference following). form: "smooth", or "linear" as in the
    theory. n: samples y' a prompt. average: give back the mean of the rounds' weights, which stands in for the
    mixture of their policies that the theory takes, instead of the last.
    """
    objective = objectives.spac(beta, lam, form)
    prompts = run.slates(curating.prompts_of(pairs), label="prompts of the pairs")
    policies = []
    for _ in run.rounds(rounds):
        own = run.sample(policy, prompts, n=n, temperature=1.0, top_p=1.0)
        policy = run.train(policy, run.curate((pairs, own), curating.with_samples), objective=objective)
        policies.append(policy)
        run.watch(policy)
    return run.merge(dict.fromkeys(policies, 1 / rounds), label="average") if average else policy


@claim(
    "spac",
    statement="Log-linear policy, data that compare A and B alone (A wins 80%) and never show C, 5 rounds: DPO in "
    "rounds drives pi(C) above 0.95; SPAC (lam 1) keeps it below 0.6 with pi(A) > pi(B), in every seed, and pi(C) is "
    "higher with lam 4.",
    baseline="iterated DPO on the same pairs (the critic left out)",
    holds=lambda f: (
        f["dpo_c"].min() > 0.95
        and f["spac_c"].max() < 0.6
        and bool(np.all(f["spac_a"] > f["spac_b"]))
        and bool(np.all(f["spac_c_lam4"] > f["spac_c"]))
    ),
)
def uncovered(lab: Lab, seed: int) -> Mapping[str, float]:
    """5 pairs, 64 samples y' each a round, 50 full-batch SGD steps of 0.2 a round; probabilities are exact."""
    world = Uncovered(preferred=0.8)
    plain: dict[str, Any] = {
        "optimizer": "sgd",
        "lr": 0.2,
        "schedule": "constant",
        "warmup": 0.0,
        "clip": None,
        "max_steps": 50,
    }
    run = lab.run("uncovered", seed, batch_size=5, save_every=1000, log_every=50, **plain)
    base = run.policy(world.base(lab.root))
    pairs = run.curate(run.slates(world.labelled(5)), curating.extremes("score"))

    def probabilities(policy: PolicyHandle) -> np.ndarray:
        return np.asarray(policy.load().probabilities(0))  # type: ignore[attr-defined]

    follower = base
    for _ in run.rounds(5):
        follower = run.train(follower, pairs, objective=objectives.dpo(0.5))
    cautious, bolder = (
        probabilities(spac(run, base, pairs, rounds=5, beta=0.5, lam=lam, form="linear", n=64)) for lam in (1.0, 4.0)
    )
    return {
        "dpo_c": float(probabilities(follower)[2]),
        **{f"spac_{name}": float(p) for name, p in zip("abc", cautious, strict=True)},
        "spac_c_lam4": float(bolder[2]),
    }
