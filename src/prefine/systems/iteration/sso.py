"""041 SSO: aligning large language models via self-steering optimization. arXiv 2410.17131.

No labels and no judge: told to be good (s+) and told to be bad (s-), the policy writes y+ and y-; told nothing, y0. A
pair stays if each is likeliest where it was asked for, near what the policy says unasked, and clearly apart (three
rules on mean log-probabilities). Then

    L = l(x; y+, y-) + W g [ l(s+, x; y+, y-) + l(s-, x; y0, y+) ]
    W = sigma( -[ alpha lbar(y+) + (1 - alpha) lbar(y-) ] ),   lbar: mean log-probability a token under the policy, on x

l is DPO, or any pair loss. Roles: current writes all three and scores them; the round's start is the reference.

The third pair is the one the release's list order means: under the bad principle the plain answer beats the good one.
``third=expected`` takes y- in its place, as the text suggests. W has a gradient, as there. Principles are our own
words, from a list or a file; the release has the model write them too. With very few prompts the third rule keeps none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from prefine import curating, objectives, sampling
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.registry import Part
from prefine.run import Run
from prefine.worlds import spelling


@system(
    41, "sso", "SSO: aligning large language models via self-steering optimization", family="iteration",
    paper="arXiv 2410.17131", question="online", learning="online", reference="moving",
    world="spelling", on_worlds={"lr": 1e-3, "rules": 0, "temperature": 1.0, "top_p": 1.0},
    by_world={"spelling": {"lr": 5e-4, "principles": "words"}},
)  # fmt: skip
def sso(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    *,
    rounds: int = 3,
    objective: Part = Part("dpo(beta=0.2)"),  # noqa: B008 (a text)
    g: float = 0.1,
    alpha: float = 0.66,
    weigh: Literal["extra", "pair", "none"] = "extra",
    ftx: float = 0.0,
    third: Literal["released", "expected"] = "released",
    rules: int = 3,
    principles: str = "general",
    features: int = 2,
    bound: float = 0.2,
    ask: bool = False,
    temperature: float = 0.7,
    top_p: float = 0.8,
) -> PolicyHandle:
    """Make the policy's own pairs by telling it to be good and to be bad, and keep it able to tell the two apart.

    Use it with a model that follows instructions, where nobody labels. Not with one that ignores them: then y+ and y-
    differ by chance, and the rules keep little.

    objective: the pair loss. g: weight of the pairs under principles. alpha: share of y+ in W. weigh: W on the pairs
    under principles, on the plain pair alone, or nowhere. ftx: weight of likelihood. third: who beats y+ under the bad
    principle. rules: how many of the three filters. principles: general, words (good and bad), or a JSON file
    {feature: [good, bad]}. features: how many a prompt gets. bound: how often brevity is one more. ask: the policy
    names the features that matter.
    """
    loss = objectives.steered(objectives.read(objective), g, alpha, weigh, ftx=ftx)
    told = sampling.principles(principles, features, bound)
    for t in run.rounds(rounds):
        part = run.slice(prompts, t, rounds)
        slates = sampling.contrasted(run, policy, part, told, ask=ask, temperature=temperature, top_p=top_p)
        views = run.curate(slates, curating.steering_views)
        scored: Any = run.logps(policy, views)
        lessons = run.curate((views, scored), curating.steered(rules, third))
        run.note(kept=len(lessons) / len(part))
        policy = run.train(policy, lessons, objective=loss)
        run.watch(policy)
    return policy


@claim(
    "sso",
    statement="Over 3 rounds without any label, the share of pairs whose y+ has the higher gold reward is in round 3 "
    "not below round 1 by more than 0.02 with SSO, in the mean, and its change is above that of plain contrastive DPO "
    "on unfiltered pairs; the gold reward of answers to plain prompts is above the start's in every seed.",
    baseline="3 rounds of DPO on unfiltered (y+, y-) pairs",
    holds=lambda f: (
        (f["sso_right_3"] - f["sso_right_1"]).mean() >= -0.02
        and (f["sso_right_3"] - f["sso_right_1"]).mean() > (f["plain_right_3"] - f["plain_right_1"]).mean()
        and bool(np.all(f["sso_gold"] > f["start"]))
    ),
)
def three_rounds(lab: Lab, seed: int) -> Mapping[str, float]:
    """300 prompts a round; equal numbers of optimiser steps; ties in gold count half."""
    world, figures = spelling.WORLD, {}
    arms: dict[str, dict[str, Any]] = {"sso": {}, "plain": {"rules": 0, "g": 0.0, "weigh": "none"}}
    for name, options in arms.items():
        with lab.run(name, seed, world=world, lr=5e-4, batch_size=16, max_steps=12) as run:
            policy, told = lab.base(run, world), sampling.principles("words")
            test = lab.prompts(run, world, 96, split="test")
            figures["start"] = run.evaluate(policy, test, judge=world.gold, n=4)["reward"]
            for t in (1, 2, 3):
                prompts = lab.prompts(run, world, 300, seed=10 * seed + t)
                slates = sampling.contrasted(run, policy, prompts, told, temperature=1.0, top_p=1.0)
                views = run.curate(slates, curating.steering_views)
                scored: Any = run.logps(policy, views)
                pairs = run.curate((views, scored), curating.steered(options.get("rules", 3)))
                figures[f"{name}_right_{t}"] = right(pairs)
                loss = objectives.sso(0.2, options.get("g", 0.1), weigh=options.get("weigh", "extra"))
                policy = run.train(policy, pairs, objective=loss)
            figures[f"{name}_gold"] = run.evaluate(policy, test, judge=world.gold, n=4)["reward"]
    return figures


def right(pairs: Contrasts) -> float:
    """The share of pairs whose y+ has the higher gold reward; a tie counts half."""
    golds = [[spelling.share(c.slate.meta["letters"], c.response(i)) for i in (0, 1)] for c in pairs]
    return float(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in golds]))
