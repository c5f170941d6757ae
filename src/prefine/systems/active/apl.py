"""109 APL: active preference learning for large language models. arXiv 2402.08114 (ICML 2024).

The labelled set grows by ``step`` labels a stage. Prompts are ranked by the policy's entropy, pairs by how certain its
implicit reward is of them,

    H(x) = -1/N sum_n log pi(y_n|x),   y_n ~ pi at temperature 1          (largest first),
    u = 1 - 2 | sigma(r_a - r_b) - 1/2 |,   r = beta [log pi - log pi_0]  (smallest u, the largest |r_a - r_b|, first),

because where the implicit model is sure and wrong, the gradient is largest. After every stage the policy is reset and
trained anew on all labels. Token sums throughout; H carries its minus (a public reimplementation ranks prompts by the
mean log-likelihood instead and keeps those with the lowest entropy).

Roles: the start is reference throughout, and what every training begins from; the policy of the stage before speaks
(offline: the start) and ranks; the judge labels. In the first stage all margins are zero, so pairs are drawn at random.

Ties are not replaced, other than in the paper: they cost their label and leave no lesson, so that no more is asked than
``labels``. Where samples are all one text there is nothing to ask, and other prompts are drawn (with entropy the next
highest of those looked at); a stage that is short of pairs all the same says so, and the next makes up for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, Literal

from prefine import curating, objectives, selecting
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.errors import InputError
from prefine.judging import implicit_reward
from prefine.judging.base import Judge, spoken_by
from prefine.registry import at_least, one_of
from prefine.run import Run
from prefine.store import read_jsonl
from prefine.worlds.linear_pool import LinearPool


@system(
    109, "apl", "APL: active preference learning by entropy and certainty", family="active", paper="arXiv 2402.08114",
    on_worlds={"lr": 1e-3, "epochs": 4, "labels": 128, "step": 32, "factor": 4, "samples": 8, "temperature": 1.0},
    question="online", data="rewards", learning="active, online",
)  # fmt: skip
def apl(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    preference: Judge,
    *,
    mode: Literal["random", "entropy", "certainty", "uncertainty", "hybrid"] = "hybrid",
    labels: int = 1024,
    step: int = 64,
    factor: int = 8,
    samples: int = 32,
    among: int = 4,
    offline: bool = False,
    beta: float = 0.2,
    temperature: float = 0.7,
    epochs: float = 50.0,
) -> PolicyHandle:
    """Label the pairs that the policy is surest of, on the prompts it is least sure how to answer.

    Use it with an expensive judge and a policy that may be trained again from its start at every stage. Not where most
    of what the policy is sure of is right: labels then confirm (try small-margin).

    mode: how pairs are found; hybrid takes high-entropy prompts and of each the surest pair ``among`` so many samples.
    labels: pairs asked about in all, ``step`` of them a stage; ties count and are not replaced. factor: prompts looked
    at for one label. samples: for the entropy of a prompt. offline: responses always come from the start.
    """
    at_least(1, labels=labels, step=step, factor=factor)
    at_least(2, samples=samples, among=among)
    if labels > len(prompts):
        raise InputError(
            f"labels={labels} pairs, one a prompt, and there are {len(prompts)} prompts",
            remedy=f"give labels={len(prompts)} at most, or bring more prompts",
        )
    acquire, start, pool, labelled, spent = one_of("mode", mode, MODES), policy, prompts, None, 0
    n = among if acquire.several else 2
    for t in run.rounds(stages := -(-labels // step)):
        speaker, need = start if offline else policy, min((t + 1) * step, labels) - spent
        look, draw = partial(any_of, run, factor), partial(run.sample, speaker, n=n, temperature=temperature)
        if acquire.open_prompts:
            many = run.sample(speaker, look(pool, need), n=samples, temperature=1.0)
            drawn = enough(run, many, need, partial(of_open, run, policy), lambda rows: draw(run.bare(rows)))  # noqa: B023 (at once)
        else:
            drawn = enough(run, pool, need, look, draw)
        asked = selecting.chosen(run, drawn, acquire.pairs(need), policy, start)
        judged = run.judge(asked, spoken_by(preference, policy))
        seen = run.judge(judged, implicit_reward(policy, start, name="sure"), role="view")
        found = run.curate(judged, curating.win_rate_pairs())
        missing = {k: v for k, v in {"short": need - len(asked), "ties": len(asked) - len(found)}.items() if v}
        run.note(labels=run.labels, **missing, **selecting.surprises(seen, "sure"))
        for kind, count in missing.items():
            run.progress.say(f"{count} {SAID[kind]}")
        labelled, spent = found if labelled is None else run.join(labelled, found), spent + len(asked)
        if t + 1 < stages:
            pool = run.select((pool, run.bare(asked)), selecting.Remaining(), label="prompts that are left")
        policy = run.train(start, labelled, objective=objectives.dpo(beta), epochs=epochs)
        run.watch(policy)
    return policy


SAID: Mapping[str, str] = {
    "short": "pairs fewer than this stage should ask about: too many prompts whose samples are all alike",
    "ties": "pairs came back as ties: they cost their labels and are no lessons",
}


def any_of(run: Run, factor: int, rows: Slates, need: int) -> Slates:
    return run.select(rows, selecting.at_random(need * factor), label="prompts to look at")


def of_open(run: Run, policy: PolicyHandle, rows: Slates, need: int) -> Slates:
    """Those of the highest entropy."""
    return selecting.chosen(run, rows, selecting.entropy(need), policy, policy)


def enough(
    run: Run, rows: Slates, need: int, pick: Callable[[Slates, int], Slates], draw: Callable[[Slates], Slates]
) -> Slates:
    """Samples of the prompts that are picked, until ``need`` of them have two responses that differ or none is left."""
    drawn: Slates | None = None
    while True:
        best = pick(rows, need)
        more = draw(best)
        drawn = more if drawn is None else run.join(drawn, more)
        need -= sum(1 for _ in selecting.differing(more, random.Random(0)))
        if need < 1 or len(best) == len(rows):
            return drawn
        rows = run.select((rows, best), selecting.Remaining(), label="prompts in place of those without a pair")


@dataclass(frozen=True)
class Acquire:
    """How pairs are found: which of them, whether on the prompts of highest entropy only, and of how many samples."""

    pairs: Callable[[int], selecting.Selector]
    open_prompts: bool = False
    several: bool = False


def any_pair(budget: int) -> selecting.Selector:
    return selecting.small_margin(budget, "random", "random")


MODES: Mapping[str, Acquire] = {
    "random": Acquire(any_pair),
    "entropy": Acquire(any_pair, open_prompts=True),
    "certainty": Acquire(selecting.certainty),
    "uncertainty": Acquire(selecting.small_margin),
    "hybrid": Acquire(selecting.certainty, open_prompts=True, several=True),
}


@claim(
    "apl",
    statement="On a pool of prompts with a linear gold reward and Bradley-Terry labels, 72 labels in steps of 24 from "
    "5 prompts looked at a label: the area under the curve of win rate against labels is on average over 6 seeds "
    "larger for certainty than for random choice; the weight of the pairs that the implicit model is wrong about "
    "(mean |margin| times wrong) is larger too; responses that always come from the start give less.",
    baseline="random choice at equal labels; offline responses",
    seeds=(0, 1, 2, 3, 4, 5),
    holds=lambda f: (
        f["certainty"].mean() > f["random"].mean()
        and f["missed_certainty"].mean() > f["missed_random"].mean()
        and f["offline"].mean() < f["certainty"].mean()
        and (f["labels"] == 72).all()
    ),
)
def curves(lab: Lab, seed: int) -> Mapping[str, float]:
    """Exact win rates against the start after every stage, averaged."""
    world = LinearPool(prompts=400, actions=6, dimensions=10, tail=4.0, norm=3.0, seed=seed)
    figures: dict[str, float] = {}
    arms: dict[str, Any] = {name: {"mode": name} for name in ("random", "certainty", "uncertainty", "hybrid")}
    arms["offline"] = {"mode": "certainty", "offline": True}
    for name, options in arms.items():
        with lab.run(name, seed, lr=0.3, batch_size=32, weight_decay=0.0, clip=1e9) as run:
            base, prompts, rates = run.policy(world.base(run.dir)), run.slates(world.bare()), []
            watch: Any = lambda policy: rates.append(world.win_rate(policy.load(), base.load()))  # noqa: E731, B023
            run.watch = watch  # type: ignore[method-assign]
            apl(
                run, base, prompts, world.oracle(), labels=72, step=24, factor=5, samples=8, beta=1.0, temperature=1.0,
                epochs=15, **options,
            )  # fmt: skip
            notes = [row["missed"] for row in read_jsonl(run.dir / "notes.jsonl")]
            figures |= {name: fmean(rates), f"missed_{name}": fmean(notes), "labels": run.labels}
    return figures
