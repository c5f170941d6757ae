"""158 TRPA: trust region preference approximation. arXiv 2504.04524.

Online, with answers that can be checked. Every step samples a group of n answers a prompt, puts each on a level by
rules (1 right, 2 wrong in form, 3 unreadable or no gold answer, 4 out of form), and takes all pairs across levels
within a group:

    h_ij = [kappa if level_i = 1] beta ( rho_i - rho_j ),   rho = token mean of log pi/ref,  level_i < level_j
    L    = mean over the pairs of -log sigma(h_ij)  +  c mean over tokens of k3( old, pi )

ref is the first policy and never moves; old is the policy that sampled, k3 = e^d - d - 1, d = log old - log pi, cut
to 10 (``root``: c sqrt(k3 + 1/4)). Means are pooled over the step, so groups with more pairs count for more; a step
without any pair falls back to -log sigma( +-rho_i ). Only levels matter, no size of a reward and no advantage. A
group is one contrast here, so that no micro-batch can lose its pairs.

One round is one batch of prompts: sample, check, one pass of training. The optimiser starts anew each round, where
the release keeps its state; its entropy bonus is off by default and left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge
from prefine.registry import at_least
from prefine.run import Run

UNKNOWN = 3.0
"""The level of responses to a prompt without a gold answer, as of an empty answer."""


@system(
    158, "trpa", "TRPA: trust region preference approximation for LLM reasoning",
    family="reasoning", paper="arXiv 2504.04524", world="arithmetic",
    on_worlds={"lr": 1e-3, "n": 8, "rounds": 8, "batch_size": 8, "c": 0.1, "beta": 1.0},
    question="online", data="rewards, lists", learning="online", length="normalised",
)  # fmt: skip
def trpa(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    verifier: Judge,
    *,
    rounds: int = 20,
    n: int = 16,
    temperature: float = 1.0,
    beta: float = 0.1,
    kappa: float = 2.5,
    c: float = 0.001,
    root: bool = False,
    epochs: float = 1.0,
    schedule: str = "constant",
    warmup: float = 0.0,
) -> PolicyHandle:
    """Reinforcement learning on checkable answers as a pair loss across levels, near the policy that sampled.

    Use it where answers can be checked by rules and rewards that could be gamed are unwanted. Not with a reward that
    has degrees: only the order counts.

    rounds: batches of prompts; each is sampled from the policy of the moment. kappa: how much more pairs with a right
    answer count inside the sigmoid. c: weight of the trust region. verifier: 1 right, 0 wrong, less for what
    cannot be read (``--judge tagged`` for answers between tags).
    """
    at_least(2, n=n)
    objective = objectives.trpa(beta, kappa, c, root)
    start = policy
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature)
        groups = run.curate(run.judge(slates, verifier), curating.leveled_groups(unknown=UNKNOWN))
        policy = run.train(
            policy, groups, objective=objective, reference={"reference": start, "old": policy},
            epochs=epochs, schedule=schedule, warmup=warmup,
        )  # fmt: skip
        run.watch(policy)
    return policy


@claim(
    "trpa",
    statement="On sums that can be checked, accuracy rises by more than 20 points over online rounds and malformed "
    "answers fall; it ends above the same objective trained for as many steps on the first round's samples alone, "
    "and above DPO on those; a hundred times larger c keeps a round's KL to its start smaller, in every seed.",
    baseline="DPO offline, on pairs of the first round's samples",
    holds=lambda f: (
        (f["online"] - f["start"]).mean() > 0.2
        and f["online_malformed"].mean() < f["start_malformed"].mean()
        and f["online"].mean() > max(f["offline"].mean(), f["dpo"].mean())
        and bool(np.all(f["kl_tight"] < f["kl_loose"]))
    ),
)
def online_and_offline(lab: Lab, seed: int) -> Mapping[str, float]:
    """240 problems in 6 rounds of 8 samples, or the first round's 40 problems six times; sampled accuracy of 200."""
    world, rounds = lab.world("arithmetic"), 6
    run = lab.run("arms", seed, world=world, lr=1e-3, batch_size=8, schedule="constant", warmup=0.0)
    base, prompts = lab.base(run, world), lab.prompts(run, world, 40 * rounds)
    held_out, checker = lab.prompts(run, world, 200, split="test"), world.verifier
    assert checker is not None

    def verdicts(policy: PolicyHandle) -> np.ndarray:
        judged = run.judge(run.sample(policy, held_out, n=1), checker)
        return np.array([slate.column("verified")[0] for slate in judged])

    first = run.judge(run.sample(base, run.slice(prompts, 0, rounds), n=8), checker)
    groups = run.curate(first, curating.leveled_groups())
    pairs = run.curate(first, curating.all_pairs("verified", limit=4))
    steps = 5 * rounds
    two = {"reference": base, "old": base}
    loose, tight = (run.train(base, groups, objective=objectives.trpa(1.0, c=c), reference=two) for c in (0.1, 10.0))
    arms = {
        "start": base,
        "online": trpa(run, base, prompts, checker, rounds=rounds, n=8, beta=1.0, c=0.1),
        "offline": run.train(base, groups, objective=objectives.trpa(1.0, c=0.1), reference=two, max_steps=steps),
        "dpo": run.train(base, pairs, objective=objectives.dpo(0.1), max_steps=steps, batch_size=32),
    }
    found = {name: verdicts(policy) for name, policy in arms.items()}
    kl = {f"kl_{n}": run.evaluate(p, held_out, judge=None, start=base, n=1)["kl"] for n, p in
          {"loose": loose, "tight": tight}.items()}  # fmt: skip
    return {
        **{name: float((v == 1).mean()) for name, v in found.items()},
        **{f"{name}_malformed": float((v < 0).mean()) for name, v in found.items()},
        **kl,
    }
