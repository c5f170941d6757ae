"""108 A survey of direct preference optimization, by component (Liu et al.). arXiv 2503.11701.

The survey sorts methods by the part of the loss that they change. Here the scheme is twofold. It is the catalogue's
own vocabulary (``prefine.facets``: data strategy, learning framework, constraint mechanism, model property), so that

    prefine systems --data noisy-pairs --reference fixed

answers. And it is a method: one choice in every slot of a pair loss (``objectives.slots``), all defaults DPO, one
slot changed IPO (loss), f-DPO (divergence) or rDPO (noise), three SimPO (reference, length, margin).

The survey's comparison of variants on one footing is a command: ``prefine compare dpo simpo slots(loss=hinge)``.
The slots and that layout are inferred from the taxonomy; the survey's own figures were not read.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.evaluation import Yardstick
from prefine.run import Run
from prefine.slate import Contrast


@system(
    108, "dpo-survey-liu", "A survey of direct preference optimization: a method as one choice in every slot",
    family="evaluation", paper="arXiv 2503.11701", on_worlds={"lr": 1e-3, "epochs": 2}, question="reference",
)  # fmt: skip
def dpo_survey_liu(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    beta: float = 0.1,
    loss: Literal["logistic", "squared", "hinge"] = "logistic",
    reference: Literal["fixed", "none"] = "fixed",
    divergence: Literal["reverse-kl", "forward-kl", "jensen-shannon"] = "reverse-kl",
    length: Literal["free", "normalised", "penalised"] = "free",
    margin: float = 0.0,
    noise: float = 0.0,
    likelihood: float = 0.0,
    alpha: float = 0.02,
) -> PolicyHandle:
    """A pair loss with one choice in every slot of the survey's scheme; the defaults are DPO.

    Use it to see what one component changes, the others equal. When the combination is a published method, run that
    one: it brings its paper's settings and its claim.

    beta: closeness to the reference. loss: link of the margin. reference: what the policy is held to.
    divergence: how the distance is counted. length: sums, means, or a penalty a token (alpha). margin: a target.
    noise: share of wrong labels. likelihood: weight of the chosen's negative log-likelihood.
    alpha: the length penalty.
    """
    made = objectives.slots(beta, loss, reference, divergence, length, margin, noise, likelihood, alpha)
    return run.train(policy, pairs, objective=made)


def in_random_order(rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
    """A curator: every pair's label by a coin."""
    for contrast in rows:
        turned = rng.random() < 0.5
        yield replace(contrast, roles=tuple(-role for role in contrast.roles)) if turned else contrast


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% bootstrap interval of a mean over seeds.

    >>> interval(np.array([1.0, 1.0, 1.0]))
    (1.0, 1.0)
    """
    drawn = np.random.default_rng(0).choice(values, size=(4000, len(values))).mean(1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def above(better: np.ndarray, worse: np.ndarray) -> bool:
    """Whether the two intervals do not overlap."""
    return interval(better)[0] > interval(worse)[1]


@claim(
    "dpo-survey-liu",
    statement="On one footing, the all-default slots (DPO) rank held-out pairs and win against the start more often "
    "than the untrained policy and than the same training on labels in random order, with 95% bootstrap intervals "
    "over five seeds that do not overlap; the same seed gives the same table.",
    baseline="the untrained policy; the same on shuffled labels",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: bool(
        above(f["accuracy_dpo"], f["accuracy_untrained"]) and above(f["accuracy_dpo"], f["accuracy_shuffled"])
        and above(f["wins_dpo"], f["wins_untrained"]) and above(f["wins_dpo"], f["wins_shuffled"])
        and (f["repeated_differs"] == 0).all()
    ),
)  # fmt: skip
def one_footing(lab: Lab, seed: int) -> Mapping[str, float]:
    """Pairs of the perfect annotator on 96 prompts; accuracy on held-out pairs, wins on 64 held-out prompts."""
    world = lab.world("assistant")
    run = lab.run("footing", seed, world=world, lr=1e-3, batch_size=16, epochs=2, log_every=1000)
    base, prompts = lab.base(run, world), lab.prompts(run, world, 96)
    held_out = lab.prompts(run, world, 64, split="test")
    by_score = curating.extremes("score")
    pairs = run.curate(run.judge(run.sample(base, prompts, n=4), world.annotators["perfect"]), by_score)
    tests = run.curate(run.judge(run.sample(base, held_out, n=4), world.annotators["perfect"]), by_score)
    yardstick = Yardstick(base, held_out, world.gold, tests)

    def table(lessons: Contrasts) -> tuple[float, float]:
        figures = yardstick.measure(run, dpo_survey_liu(run, base, lessons))
        return figures["pair_accuracy"], figures["win_rate"]

    dpo, shuffled = table(pairs), table(run.curate(pairs, in_random_order))
    return {
        "accuracy_dpo": dpo[0], "accuracy_shuffled": shuffled[0], "accuracy_untrained": 0.5,
        "wins_dpo": dpo[1], "wins_shuffled": shuffled[1], "wins_untrained": 0.5,
        "repeated_differs": float(table(pairs) != dpo),
    }  # fmt: skip
