"""002 EVOLVE (first called ARIES): evolving a model's self-refinement, in training and at inference. arXiv 2502.05605.

One model learns to answer, pi(. | x), and to improve an answer it is shown, pi(. | x, y, z). From labelled pairs:

    stage 1   L = -log pi(y_w | x) - log pi(y_w | x, y_l, z)
    stage 2   L = (1 - a) L_dpo + a L_r,   L_r = sum over y_s = y_l, y_w of ( 1/2 - beta [h(y_w|y_s) - h(y_l|y_s)] )^2

then rounds: n turns of self-refinement give a slate of answers, a judge's best and worst of it are new pairs for
stage 2. L_r comes from max E[P(y_2 beats y_1)] - beta KL, whose optimum is pi ~ ref exp(P(y_2 > y_1)/beta) (a test).

Roles: current writes, refines and is trained; the round's start is the reference; the judge, which may be the current
policy itself, scores (without one, the last turn is taken to be better than the first).

Reconstructed (no release): the closed form, a, beta, and the rule without a judge. The two squares are one pair loss
under two prompts: (1/2 + beta [h(y_l|y_w) - h(y_w|y_w)])^2 is the pair's own square in the context of y_w.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prefine import curating, objectives, sampling
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge, asked_as, spoken_by
from prefine.policies.refining import REFINE, Refining
from prefine.registry import between
from prefine.run import Run
from prefine.slate import Candidate, Slate, scores
from prefine.worlds import spelling


@system(
    2, "evolve", "EVOLVE: evolving LLMs' self-refinement via synergistic training-inference optimization",
    family="iteration", paper="arXiv 2502.05605", question="online", learning="offline, online", reference="moving",
    loss="logistic, squared", world="spelling", on_worlds={"lr": 1e-3, "turns": 2},
    by_world={"spelling": {"lr": 2e-4, "epochs": 1, "template": spelling.REFINE}},
)  # fmt: skip
def evolve(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    pairs: Contrasts,
    judge: Judge | None = None,
    *,
    rounds: int = 2,
    turns: int = 4,
    beta: float = 0.1,
    a: float = 0.5,
    form: Literal["squared", "logistic"] = "squared",
    strategy: Literal["chain", "first", "all", "none"] = "chain",
    min_gap: float = 0.0,
    temperature: float = 1.0,
    template: str = REFINE,
    activate: bool = True,
) -> PolicyHandle:
    """Train a model to answer and to improve its answers, on what it improves itself.

    Use it when the model may take several turns at inference, or to get better pairs out of one model. Not when
    answers have no parts that could be improved one at a time: a second sample is then as good. The model that takes
    its turns by itself is in RUN/refining: it can be evaluated and served like any other.

    turns: answers of a prompt, each shown the one before. a: weight of refining against answering. form: of the
    refining loss. strategy: what a turn is shown (the last answer, the first, all, none). min_gap: between best and
    worst for a prompt to be kept. template: shows {prompt} and {previous}. activate: stage 1, fine-tuning on both.
    """
    between(0, 1.0000001, a=a)
    loss, both = objectives.evolve(beta, a, form), curating.with_refinements(template)
    if activate:
        demos = run.curate(pairs, curating.refinement_demos(template))
        policy = run.train(policy, demos, objective=objectives.sft(), label="answering and refining")
    policy = run.train(policy, run.curate(pairs, both), objective=loss, label="given pairs")
    for t in run.rounds(rounds):
        part = run.slice(prompts, t, rounds)
        slates = sampling.refined(
            run, policy, part, turns, template=template, strategy=strategy, temperature=temperature
        )
        if judge is None:
            found = run.curate(slates, curating.last_over_first)
        else:
            judged = run.judge(slates, spoken_by(judge, policy), role=asked_as(judge, policy))
            found = run.curate(judged, curating.extremes("score", min_gap=min_gap))
        policy = run.train(policy, run.curate(found, both), objective=loss)
        run.watch(policy)
    run.note(**sampling.by_turn(run, policy, turns, template))
    Refining(policy.load(), turns, template).save(Path(run.dir) / "refining")
    return policy


@claim(
    "evolve",
    statement="From drafts and their edited versions: before training the second turn is not better than the first (by "
    "more than 0.02); after EVOLVE it is, by more than two standard errors over seeds, and by more than twice what "
    "direct training alone (a = 0, stage 1 on answers alone) leads to; the first answer is better than at the start in "
    "every seed; the best of a chain of 4 turns is better than the best of 4 samples, in the mean.",
    baseline="iterative DPO on direct answers (a = 0), and independent samples",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        (f["start_2"] - f["start_1"]).mean() <= 0.02
        and (gain := f["evolve_2"] - f["evolve_1"]).mean() > 2 * gain.std(ddof=1) / len(gain) ** 0.5
        and gain.mean() > 2 * (f["direct_2"] - f["direct_1"]).mean()
        and bool(np.all(f["evolve_1"] > f["start_1"]))
        and f["best_chain"].mean() > f["best_samples"].mean()
    ),
)
def turns_help(lab: Lab, seed: int) -> Mapping[str, float]:
    """300 drafts with an editor's half of the corrections, 2 rounds of 75 prompts; gold on 192 held-out prompts."""
    world = spelling.WORLD
    figures: dict[str, float] = {}
    arms: dict[str, dict[str, Any]] = {"start": {}, "evolve": {}, "direct": {"a": 0.0, "activate": False}}
    for name, options in arms.items():
        with lab.run(name, seed, world=world, lr=2e-4, batch_size=32) as run:
            policy, prompts = lab.base(run, world), lab.prompts(run, world, 150)
            drafts = run.sample(policy, lab.prompts(run, world, 300, seed=1000 + seed))
            pairs = run.curate(run.slates(map(edited, drafts)), curating.extremes("gold"))
            shared = {"template": spelling.REFINE, "turns": 2, **options}
            if name == "direct":
                policy = run.train(policy, pairs, objective=objectives.sft())
            if name != "start":
                policy = evolve(run, policy, prompts, pairs, world.annotators["perfect"], **shared)
            test = lab.prompts(run, world, 192, split="test")
            gold = golds(run, policy, test, world.gold, "chain")
            figures |= {f"{name}_1": float(gold[:, 0].mean()), f"{name}_2": float(gold[:, 1].mean())}
            if name == "evolve":
                figures["best_chain"] = float(gold.max(1).mean())
                figures["best_samples"] = float(golds(run, policy, test, world.gold, "none").max(1).mean())
    return figures


def golds(run: Run, policy: PolicyHandle, prompts: Slates, gold: Judge, strategy: str) -> np.ndarray:
    """(prompts, 4) gold reward of every turn."""
    slates = sampling.refined(run, policy, prompts, 4, template=spelling.REFINE, strategy=strategy)
    return np.array([slate.column("gold") for slate in run.judge(slates, gold)])


def edited(slate: Slate) -> Slate:
    """A draft and what an editor made of it: half of its wrong words corrected."""
    rng, letters = random.Random(f"editor {slate.id}"), slate.meta["letters"]
    heard = slate.response(0).split()
    better = [
        spelling.WORDS[letter][0] if rng.random() < 0.5 else word for word, letter in zip(heard, letters, strict=False)
    ]
    two = (Candidate("".join(f" {word}" for word in better)), Candidate(slate.response(0)))
    gold = [spelling.share(letters, candidate.text) for candidate in two]
    return Slate(slate.prompt, two, {"gold": scores(gold)}, slate.meta)
