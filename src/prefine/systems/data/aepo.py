"""103 AEPO: annotation-efficient preference optimisation, the two of N samples that are worth a label. arXiv 2405.13541
(Findings of ACL 2025).

Samples are cheap and labels are not. Of N samples of a prompt those k go to the annotator that stand for all and are
unlike one another,

    f(X) = 1/((N-1) k) sum_{i in X} sum_j M_ij - lambda/(k (k-1)) sum_{i, j in X} M_ij,   M the similarity, M_ii = 0,

the first term being what minimum Bayes risk decoding takes for quality. X = argmax f; then DPO on the better against
the worse. All subsets are tried where there are at most 10,000 of them (2 of 140), else the released greedy search
with swaps; the released code's first evaluation still has the diagonal, ours never.

With cosines around 0 and lambda = 1 the second term is the stronger one: the k are then much less alike, and somewhat
less like all others, than random ones.

Roles: the policy given is sampled once, its hidden states compare the samples, and it is DPO's frozen reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives, selecting
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.base import Curator
from prefine.curating.vectors import STATES
from prefine.errors import InputError
from prefine.judging.base import Judge, asked_as, spoken_by
from prefine.registry import one_of
from prefine.run import Run
from prefine.selecting import Selector
from prefine.worlds.clusters import Clusters


@system(
    103, "aepo", "AEPO: annotation-efficient preference optimization", family="data", paper="arXiv 2405.13541",
    on_worlds={"lr": 1e-3, "n": 12}, question="online", data="pairs, lists", learning="active",
)  # fmt: skip
def aepo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    *,
    n: int = 32,
    k: int = 2,
    lam: float = 1.0,
    vectors: str = STATES,
    select: Literal["representative", "random", "west-of-n"] = "representative",
    pairs: Literal["best-worst", "all"] = "best-worst",
    beta: float = 0.1,
    temperature: float = 1.0,
) -> PolicyHandle:
    """DPO on few labels: of many samples a prompt, only the k most telling ones are shown to the annotator.

    Use it when annotators are the bottleneck and sampling is not. Not with a reward model that scores everything for
    nothing: then label all (sweet-spot).

    k: labels a prompt. lam: how much being unlike counts; 0 picks near duplicates. vectors: what responses are
    compared by: "states" (the policy's hidden states), "words", or the directory of a sentence encoder.
    select: "random" k of n; "west-of-n": all n of so many prompts as cost the same. pairs: of k > 2, the best against
    the worst or every pair.
    """
    if not 2 <= k <= n:
        raise InputError(
            f"k={k} of n={n} samples cannot be compared", remedy="give k of at least 2, and n of at least k"
        )
    selectors: Mapping[str, Selector] = {
        "representative": selecting.representative(k, lam, vectors),
        "random": selecting.random_responses(k),
        "west-of-n": selecting.everything,
    }
    selector = one_of("select", select, selectors)
    as_many = max(1, len(prompts) * k // n)
    asking = run.select(prompts, selecting.at_random(as_many)) if select == "west-of-n" else prompts
    drawn = run.sample(policy, asking, n=n, temperature=temperature)
    labelled = run.judge(
        selecting.chosen(run, drawn, selector, policy, policy), spoken_by(judge, policy), role=asked_as(judge, policy)
    )
    run.note(labels=k * len(prompts) if select != "west-of-n" else n * len(asking))
    curators: Mapping[str, Curator] = {"best-worst": curating.extremes(), "all": curating.all_pairs()}
    return run.train(policy, run.curate(labelled, one_of("pairs", pairs, curators)), objective=objectives.dpo(beta))


@claim(
    "aepo",
    statement="With two labels a prompt, DPO on representative and unlike samples ends at a higher expected gold "
    "reward than on two random ones (beyond two standard errors over 16 seeds); the labelled pairs are less alike and "
    "further apart in gold; without the term for diversity (lambda = 0) that gap is less than a third of random's.",
    baseline="two random samples of the same 24, equal labels and steps",
    seeds=tuple(range(16)),
    holds=lambda f: bool(
        (gain := f["gold_aepo"] - f["gold_random"]).mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain))
        and (f["gap_aepo"] > f["gap_random"]).all()
        and (f["alike_aepo"] < f["alike_random"]).all()
        and f["gap_undiverse"].mean() < f["gap_random"].mean() / 3
    ),
)
def two_labels(lab: Lab, seed: int) -> Mapping[str, float]:
    """128 prompts with 24 samples of 3 kinds and odd ones; Bradley-Terry labels; 24 steps of 16 pairs."""
    world = Clusters(prompts=128, kinds=3, dimensions=16, seed=seed)
    run = lab.run("arms", seed, lr=0.03, batch_size=16, max_steps=24, schedule="constant", warmup=0.0)
    base, prompts = run.policy(world.base(lab.root)), run.slates(world.slates())
    judge, drawn = world.annotator(1.0), run.sample(base, prompts, n=24, temperature=1.0)
    arms = {"aepo": ("representative", 1.0), "random": ("random", 1.0), "undiverse": ("representative", 0.0)}
    figures: dict[str, float] = {}
    for name, (select, lam) in arms.items():
        if name != "undiverse":
            policy = aepo(run, base, prompts, judge, n=24, select=select, lam=lam, beta=0.3)  # type: ignore[arg-type]
            figures[f"gold_{name}"] = world.value(policy.load())  # type: ignore[arg-type]
        rule = selecting.random_responses() if name == "random" else selecting.representative(2, lam, STATES)
        told = [world.told(slate) for slate in selecting.chosen(run, drawn, rule, base, base)]
        figures |= {f"{what}_{name}": float(np.mean([t[i] for t in told])) for i, what in enumerate(("gap", "alike"))}
    return figures
