"""139 Curry-DPO: curriculum learning over ranked preferences. arXiv 2403.07230 (Findings of EMNLP 2024).

Several pairs a prompt, the best response against each of the others, from easy (a large gap) to hard, in stages:

    (R1, R4), then (R1, R3), then (R1, R2);   M_k = DPO from M_{k-1} on stage k, with M_{k-1} as its reference

M_0 is the start; optimiser and schedule begin anew in every stage. Easy is a large gap of the scores, of the ranks, or
of the log-probabilities under the start. "local" orders within every prompt, "global" the pairs of all prompts. With an
exact optimum in every stage the log-ratios to the start add up over stages. Responses as good as the best give no pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.registry import at_least, one_of
from prefine.run import Run
from prefine.worlds import words

ORDERS: Mapping[str, Callable[..., Any]] = {
    "local": curating.local_stage, "global": curating.global_stage,
}  # fmt: skip
DIFFICULTIES = {"gap": "gap", "rank": "rank_gap", "likelihood": "likelihood_gap"}


@system(
    139, "curry-dpo", "Curry-DPO: enhancing alignment using curriculum learning and ranked preferences",
    family="iteration", paper="arXiv 2403.07230", on_worlds={"lr": 1e-3, "batch_size": 16, "epochs": 1},
    question="feedback", data="lists, graded-pairs", reference="moving",
)  # fmt: skip
def curry_dpo(
    run: Run,
    policy: PolicyHandle,
    lists: Slates,
    *,
    beta: float = 0.1,
    stages: int = 3,
    order: Literal["local", "global"] = "local",
    difficulty: Literal["gap", "rank", "likelihood"] = "gap",
    hard_first: bool = False,
    reference: Literal["previous", "start"] = "previous",
) -> PolicyHandle:
    """DPO in stages, from pairs that differ clearly to pairs that are close, the reference moving along.

    Use it with three or more scored responses a prompt. Not with one pair a prompt, except in the global order.

    order: within every prompt, or over all. difficulty: what makes a pair easy: a large gap of the scores, of the
    ranks, or of the likelihoods under the start. hard_first: the reverse, for comparison. reference: of a stage, the
    policy as the stage before left it, or the start. stages=1 is DPO on all pairs of the best.
    """
    at_least(1, stages=stages)
    stage, by = one_of("order", order, ORDERS), one_of("difficulty", difficulty, DIFFICULTIES)
    anchors = {"previous": None, "start": policy}
    anchor, objective = one_of("reference", reference, anchors), objectives.dpo(beta)
    pairs = run.curate(lists, curating.best_against_each())
    if difficulty == "likelihood":
        pairs = run.curate((pairs, run.logps(policy, pairs)), curating.with_likelihood_gap)  # type: ignore[arg-type]
    parts = [run.curate(pairs, stage(k, stages, by, hard_first), label=f"stage {k + 1}") for k in range(stages)]
    for k in run.rounds(stages):
        policy = run.train(policy, parts[k], objective=objective, reference=anchor)
        run.watch(policy)
    return policy


@claim(
    "curry-dpo",
    statement="With 4 graded responses a prompt, many of which have one coarse fault, and as many steps, three "
    "stages from easy to hard with a moving reference reach a higher gold reward than DPO on the best and the worst "
    "alone, at the better of two betas, and at least that of the stages from hard to easy, in the mean over seeds.",
    baseline="DPO on single pairs; the reversed curriculum",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: bool(
        f["curry"].mean() > max(f["single"].mean(), f["single_close"].mean())
        and f["curry"].mean() >= f["reversed"].mean()
    ),
)
def easy_to_hard(lab: Lab, seed: int) -> Mapping[str, float]:
    """Two writers of five shout, which outweighs what else they say: the best and the worst of four differ in that, and
    what is good among those who do not shout is in the closer pairs. (Where one scale alone separates responses, the
    best and the worst are the most telling pair there is, and single pairs come out ahead.) The order decides nothing
    where stages reach their optima, since log-ratios to a moving reference add up: on development seeds the two orders
    are apart by less than their noise."""
    world = words.world(words.Writer(begins=tuple(f" {mark}" for mark in "...!!")))
    run = lab.run("stages", seed, world=world, lr=1e-3, batch_size=16, epochs=4, log_every=1000)
    base, held_out = lab.base(run, world), lab.prompts(run, world, 56, split="test")
    judged = run.judge(run.sample(base, lab.prompts(run, world, 100), n=4), world.annotators["perfect"])
    four = run.slates(slate for slate in judged if len(set(slate.column("score"))) == 4)
    single: Contrasts = run.curate(four, curating.extremes("score"))
    arms = {
        "curry": curry_dpo(run, base, four, beta=1.0),
        "reversed": curry_dpo(run, base, four, beta=1.0, hard_first=True),
        "single": run.train(base, single, objective=objectives.dpo(0.1), epochs=12),
        "single_close": run.train(base, single, objective=objectives.dpo(1.0), epochs=12),
    }
    figures: dict[str, float] = {}
    for name, policy in {"base": base, **arms}.items():
        found = run.evaluate(policy, held_out, judge=world.gold, start=base, n=16)
        figures |= {name: found["reward"], f"{name}_kl": found.get("kl", 0.0)}
    return figures
