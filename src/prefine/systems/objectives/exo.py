"""059 EXO: efficient exact optimisation. arXiv 2402.00856 (ICML 2024).

Alignment minimises the reverse KL( pi || pi* ), pi* ~ ref exp(r/beta_r); DPO the forward one over a few candidates.
With K candidates y_i drawn from the reference, s_i = beta log pi(y_i)/ref(y_i) (token sums), log f = log_softmax(s):

    EXO-rw     L = sum_i f_i ( log f_i - log p_i ),   log p = log_softmax( r_i / beta_r )
    EXO-pref   the same for K = 2 with p = (1 - eps, eps) on (chosen, rejected)

f carries gradient in both places, and with many candidates the gradient is that of KL( pi || pi* ) for any policy
class. DPO-rw, the baseline, is -sum_i p_i log f_i on the same inputs. The release leaves the pair target (0, -10)
unnormalised (eps = 4.5e-5). It samples at temperature 0.8 and divides both models' logits by 0.8 in the loss; here
scores are at temperature 1, so candidates are drawn at 1, which is the same method at another temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge
from prefine.policies.tabular import Tabular
from prefine.registry import given_for
from prefine.run import Run
from prefine.worlds.bumps import Bumps


@system(
    59, "exo", "EXO: towards efficient and exact optimization of language model alignment",
    family="objective", paper="arXiv 2402.00856",
    on_worlds={"lr": 1e-3, "learn_from": "samples", "beta_r": 0.5, "beta": 0.5},
    question="implicit-reward", data="pairs, lists, rewards", loss="divergence",
)  # fmt: skip
def exo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts | None = None,
    lists: Slates | None = None,
    prompts: Slates | None = None,
    judge: Judge | None = None,
    *,
    learn_from: Literal["pairs", "lists", "samples"] = "pairs",
    beta: float = 0.1,
    beta_r: float = 0.1,
    eps: float = 1e-3,
    n: int = 8,
    size: int = 8,
    divergence: Literal["reverse", "forward"] = "reverse",
) -> PolicyHandle:
    """Match the reward's distribution over candidates in the reverse KL: seek its modes, do not cover them.

    Use it where DPO spreads over everything that is not bad, with rewards of several candidates a prompt or with
    pairs. Not with candidates from elsewhere than the reference: the estimate assumes they are its samples.

    learn_from: pairs (--data), lists (several scored responses a prompt, --data), or samples: n responses of the
    policy, scored by the judge. beta, beta_r: of the policy's and of the target's distribution (0.1 IMDb, 0.5
    HH and TL;DR). eps: label smoothing of pairs. size: K; more candidates are split in consecutive groups.
    divergence: forward is the baseline DPO-rw.
    """
    given = {"pairs": pairs, "lists": lists, "samples": None if prompts is None or judge is None else prompts}
    source = given_for("learn_from", learn_from, given)
    rewards = objectives.exo_rewards(beta, beta_r, divergence)
    if learn_from == "pairs":
        return run.train(policy, source, objective=objectives.exo(beta, eps))  # type: ignore[arg-type]
    if learn_from == "samples":
        drawn = run.sample(policy, source, n=n, temperature=1.0, top_p=1.0)  # type: ignore[arg-type]
        source = run.judge(drawn, judge)  # type: ignore[arg-type]
    return run.train(policy, run.curate(source, curating.scored_groups(size)), objective=rewards)  # type: ignore[arg-type]


@claim(
    "exo",
    statement="Two reward bumps at +-3 and a policy that is one bump: with the same 64-candidate groups, EXO-rw ends "
    "with less than 5% of its mass between the bumps (|x| < 1.5), DPO-rw with more than 20%, in every seed; EXO's "
    "reverse KL to the optimum is the lower one.",
    baseline="DPO-rw: the forward KL on the same candidates",
    holds=lambda f: (
        f["exo_between"].max() < 0.05 and f["dpo_between"].min() > 0.2 and bool(np.all(f["exo_kl"] < f["dpo_kl"]))
    ),
)
def mode_seeking(lab: Lab, seed: int) -> Mapping[str, float]:
    """64 groups of 64 candidates of the uniform reference, beta = beta_r = 1; both start between the bumps."""
    world = Bumps()
    run = lab.run("bumps", seed, lr=0.2, batch_size=4, schedule="constant", warmup=0.0, clip=None, max_steps=250)
    start, uniform = (run.policy(path) for path in world.saved(run.dir))
    drawn = run.sample(uniform, run.slates(world.prompts(64)), n=64)
    groups = run.curate(run.judge(drawn, world.gold), curating.scored_groups(64))
    figures: dict[str, float] = {}
    for name, divergence in {"exo": "reverse", "dpo": "forward"}.items():
        objective = objectives.exo_rewards(1.0, 1.0, divergence)
        policy = Tabular.load(run.train(start, groups, objective=objective, reference=uniform).path)
        figures |= {f"{name}_between": world.between(policy), f"{name}_kl": world.kl_to_optimum(policy, 1.0)}
    return figures
