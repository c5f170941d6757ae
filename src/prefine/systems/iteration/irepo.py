"""049 iREPO: implicit reward pairwise difference based empirical preference optimisation. arXiv 2405.15230.

Each round the policy pi_t samples responses, h annotators compare them, and the difference of implicit rewards is
fitted to the logit of the empirical preference by least squares:

    P = (votes for y_1)/h,  clipped to [eps, 1 - eps];   q = log P/(1 - P)
    L = ( beta [ log pi(y_1)/pi_t(y_1) - log pi(y_2)/pi_t(y_2) ] - q )^2,   token sums, q a constant

With more than two responses Bradley-Terry strengths are fitted to the wins by Zermelo's iteration, the strongest is
compared with the weakest. Then pi_t moves: reference and sampler are the new policy. If P comes from a reward r, a
rich enough class gives pi_{t+1} ~ pi_t exp(r/beta) each round, so T rounds give pi_0 exp(T r/beta).

Reconstructed (abstract and reviews only, no release): the reference pi_t, which the fixed point asks for, the clip
eps = 1/(2h) for votes and 0.01 for probabilities, beta and the learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge
from prefine.judging.polls import Polled
from prefine.policies.tabular import Tabular
from prefine.registry import at_least
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair


@system(
    49, "irepo", "iREPO: implicit reward pairwise difference based empirical preference optimization",
    family="iteration", paper="arXiv 2405.15230", on_worlds={"lr": 1e-3, "votes": 9, "n": 4},
    question="online", data="graded-pairs", learning="online", loss="squared", reference="moving",
)  # fmt: skip
def irepo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    preference: Judge,
    *,
    rounds: int = 2,
    n: int = 2,
    votes: int = 0,
    beta: float = 0.1,
) -> PolicyHandle:
    """Regress the implicit reward difference on the logit of how annotators voted, round after round.

    Use it when several annotators (or a judge with probabilities) compare: a pair they split on gets a small margin,
    and no margin runs away. Not with a single yes-or-no label a pair: the clip alone then decides the margin.

    votes: 0 takes the judge's table as it is (probabilities, or shares of a panel's votes); h polls each pair h times,
    one vote each with the table's probability.
    """
    at_least(0, votes=votes)
    eps = 1 / (2 * votes) if votes > 1 else 0.01
    objective = objectives.irepo(beta, eps)
    for t in run.rounds(rounds):
        asked = Polled(preference, votes, seed=t) if votes else preference
        slates = run.judge(run.sample(policy, run.slice(prompts, t, rounds), n=n), asked)
        policy = run.train(policy, run.curate(slates, curating.strongest_weakest()), objective=objective)
        run.watch(policy)
    return policy


@claim(
    "irepo",
    statement="On pairs with 9 votes each at a true preference of 0.8, every margin of iREPO ends within 0.05 of the "
    "logit of its (clipped) share of votes and moves by at most 0.05 when trained 10 times longer; DPO on the majority "
    "label goes on: its mean margin is larger by at least 1.",
    baseline="DPO on the majority label",
    holds=lambda f: f["irepo_error"].max() < 0.05 and f["irepo_moved"].max() < 0.05 and f["dpo_moved"].min() >= 1.0,
)
def soft_and_hard_labels(lab: Lab, seed: int) -> Mapping[str, float]:
    """24 prompts with two actions each, an exact table; beta 1, the same number of steps for both."""
    votes, prompts = 9, [f"pair {i}" for i in range(24)]
    shares = np.random.default_rng(seed).binomial(votes, 0.8, size=len(prompts)) / votes
    run = lab.run("votes", seed, optimizer="sgd", lr=3.0, schedule="constant", warmup=0.0, clip=None, batch_size=24)
    Tabular(prompts, ["a", "b"]).save(Path(run.dir) / "base")
    base = run.policy(Path(run.dir) / "base")
    slates = run.slates(Slate(p, (Candidate("a"), Candidate("b"))) for p in prompts)
    soft = run.curate(slates, lambda rows, rng: [pair(s, 0, 1, preference=p) for s, p in zip(rows, shares.tolist())])
    majority = [(0, 1) if p > 0.5 else (1, 0) for p in shares.tolist()]
    towards = np.where(shares > 0.5, 1, -1)
    hard = run.curate(slates, lambda rows, rng: [pair(s, *sides) for s, sides in zip(rows, majority)])

    def margins(objective: objectives.Objective, pairs: object, steps: int) -> np.ndarray:
        trained = run.train(base, pairs, objective=objective, max_steps=steps).load()  # type: ignore[arg-type]
        logp = trained.logp_PA().detach().numpy()  # type: ignore[attr-defined]
        return logp[:, 0] - logp[:, 1]

    clipped = shares.clip(1 / (2 * votes), 1 - 1 / (2 * votes))
    ours = [margins(objectives.irepo(1.0, 1 / (2 * votes)), soft, steps) for steps in (20, 200)]
    theirs = [towards * margins(objectives.dpo(1.0), hard, steps) for steps in (20, 200)]
    return {
        "irepo_error": float(np.abs(ours[0] - np.log(clipped / (1 - clipped))).max()),
        "irepo_moved": float(np.abs(ours[1] - ours[0]).max()),
        "irepo_margin": float(ours[1].mean()),
        "dpo_margin": float(theirs[1].mean()),
        "dpo_moved": float((theirs[1] - theirs[0]).mean()),
    }
