"""053 MaPPO: maximum a posteriori preference optimisation with prior knowledge. arXiv 2507.21183.

(Not multi-agent PPO, which has the same acronym.) DPO takes every pair as decided and may push both responses
down. With rewards r in [0, 1] as prior and D = r_w - r_l, a constant, the rejected log-ratio counts D times:

    L = -log sigma( beta A - D beta B ),   A = log pi(y_w)/ref(y_w),  B = log pi(y_l)/ref(y_l),  token sums

D = 1 is DPO; D = 0 learns from the chosen response alone. Hosts: DPO, SimPO, IPO, CPO (``objectives.mappo``), or
any pair loss (``objectives.prior_gap``). Raw rewards are taken through a logistic. Offline: n = 8 responses of the
initial model, best against worst, one pass. Online: K = 3 equal parts of the prompts, each sampled from, and
trained on, the policy of the moment; the reference stays the initial model unless told to move.

The printed prior factor of one version is the inverse of what gives this loss; the loss is what counts, and follows
from prior (e^{R_w} + e^{R_l})/(e^{R_w} + e^{D R_l}) times the Bradley-Terry likelihood.
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
from prefine.judging.base import Judge
from prefine.policies.tabular import Tabular
from prefine.registry import given_for, one_of
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair


@system(
    53, "mappo", "MaPPO: maximum a posteriori preference optimization with prior knowledge",
    family="objective", paper="arXiv 2507.21183", on_worlds={"lr": 1e-3, "n": 4},
    question="implicit-reward", data="graded-pairs, rewards", learning="offline, online", likelihood="guarded",
)  # fmt: skip
def mappo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates | None = None,
    judge: Judge | None = None,
    pairs: Contrasts | None = None,
    *,
    learn_from: Literal["samples", "pairs"] = "samples",
    host: Literal["dpo", "simpo", "ipo", "cpo"] = "dpo",
    rounds: int = 3,
    n: int = 8,
    beta: float = 0.1,
    gamma: float = 1.0,
    lam: float = 0.2,
    bounded: bool = False,
    reference: Literal["start", "previous"] = "start",
) -> PolicyHandle:
    """Pair losses that punish the rejected response only as far as a reward model says it is worse.

    Use it when pairs are made from scores and many are near-ties, or when DPO lowers the likelihood of the chosen.
    Not when all there is are labels: without scores there is no prior.

    learn_from: samples (n a prompt, scored by the judge, best against worst; rounds=1 is the offline form), or pairs
    with scores ("score_chosen" and "score_rejected" in --data). bounded: the scores are in [0, 1] already, else they
    go through a logistic. gamma, lam: of the hosts SimPO and CPO.
    """
    objective = objectives.mappo(host, beta, gamma, lam, bounded=bounded)
    given = {"pairs": pairs, "samples": None if prompts is None or judge is None else prompts}
    source = given_for("learn_from", learn_from, given)
    if learn_from == "pairs":
        curating.need(source, "score")  # type: ignore[arg-type]
        scored = run.curate(source, curating.with_columns("score"))  # type: ignore[arg-type]
        return run.train(policy, scored, objective=objective)
    start, moves = policy, one_of("reference", reference, {"start": False, "previous": True})
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(source, t, rounds), n=n)  # type: ignore[arg-type]
        judged = run.judge(slates, judge)  # type: ignore[arg-type]
        found = run.curate(judged, curating.extremes("score", carry="score"))
        policy = run.train(policy, found, objective=objective, reference=policy if moves else start)
        run.watch(policy)
    return policy


@claim(
    "mappo",
    statement="A near-tie whose two responses share most of their features, beside an unseen third: DPO lowers the "
    "log-probability of the chosen response by more than 1, MaPPO with D = 0.1 does not lower it, in every seed.",
    baseline="dpo (D = 1)",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: f["dpo_chosen"].max() < -1.0 and f["mappo_chosen"].min() >= 0.0,
)
def squeezing(lab: Lab, seed: int) -> Mapping[str, float]:
    """Log-linear policy, features (1, 0.1), (1, -0.1) and (0, 5), the last two coordinates scaled by the seed; start
    (3, 0), beta 0.1, gradient descent with rate 0.5, 300 steps."""
    rng = np.random.default_rng(seed)
    apart, away = 0.1 * rng.uniform(0.8, 1.2), 5.0 * rng.uniform(0.9, 1.1)
    features = np.array([[[1.0, apart], [1.0, -apart], [0.0, away]]])
    run = lab.run("squeezing", seed, lr=0.5, optimizer="sgd", schedule="constant", warmup=0.0, clip=None, max_steps=300)
    Tabular(["x"], ["w", "l", "z"], features_PAD=features, theta_D=np.array([3.0, 0.0])).save(Path(run.dir) / "base")
    base = run.policy(Path(run.dir) / "base")
    slates = run.slates([Slate("x", (Candidate("w"), Candidate("l")))])
    before = base.load().logp_PA().detach().numpy()[0]  # type: ignore[attr-defined]
    figures: dict[str, float] = {}
    for name, gap in {"dpo": 1.0, "mappo": 0.1}.items():
        pairs = run.curate(slates, lambda rows, rng, gap=gap: [pair(s, 0, 1, gap=gap) for s in rows])
        trained = run.train(base, pairs, objective=objectives.mappo(beta=0.1, by="gap"))
        moved = trained.load().logp_PA().detach().numpy()[0] - before  # type: ignore[attr-defined]
        figures |= {f"{name}_chosen": float(moved[0]), f"{name}_rejected": float(moved[1])}
    return figures
