"""003 UPO: self-evolution through uncertainty-enhanced preference optimization. arXiv 2409.11212 (AAAI 2025).

Iterative DPO with a second opinion: an estimator E that compares two responses, asked T times with dropout on.
Stage 0, on labelled pairs D0: pi_0 by DPO from the SFT model, a reward model r, and E (a logit of "the first is
better", both orders as training data). Then in round t:

    sample G responses from pi_{t-1}, score them by r;  pool: all pairs among the 2 best and 2 worst, a quarter of them
    I = H(mean_T p) - mean_T H(p)   (BALD, p = E's probability of the label);  drop a pair most passes vote against
    D_t = 40% of D0 + an easy draw (weights 1 - I) + 30% of best against worst + 20% of a hard draw (weights I)
    pi_t = DPO(pi_{t-1}; D_t), one pair a prompt

Roles: start (the SFT model) is the DPO reference in every round; current samples; r and E judge and stay frozen
(a judge given instead of r may be the current policy itself). What r and E say is nobody's label.

While the estimator is hardly trained its passes agree on everything, I is nearly 0 and the easy draw nearly uniform;
what cleans the data then is the vote.

Settled: the release puts the chosen response first when E is asked; here both orders are averaged, as any pull of the
place would look like agreement. A vote of half the passes keeps a pair, as its argmax does. Masks are one a layer and
pass (see ``judging.dropout``). ``soft`` is the paper's uncertainty-weighted loss, reconstructed: a label is smoothed by
eps = min(I/(2 log 2), 1/2). The prompts' reference answers, which the release scores along, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.uncertain import agreed, cell, easy_and_hard
from prefine.fingerprint import seed_of
from prefine.judging.base import Judge, Scored, asked_as, spoken_by
from prefine.judging.dropout import BOTH
from prefine.run import Run
from prefine.slate import Contrast, Slate
from prefine.worlds import spelling


@system(
    3, "upo", "UPO: self-evolutionary LLMs through uncertainty-enhanced preference optimization",
    family="iteration", paper="arXiv 2409.11212", question="online", data="noisy-pairs", learning="online",
    world="spelling", on_worlds={"lr": 3e-4, "n": 4, "share": 0.5, "template": "{first} or{second}"},
)  # fmt: skip
def upo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    pairs: Contrasts,
    judge: Judge | None = None,
    *,
    rounds: int = 3,
    n: int = 6,
    beta: float = 0.1,
    temperature: float = 1.0,
    passes: int = 10,
    dropout: float = 0.1,
    share: float = 0.25,
    rate: float = 0.5,
    offline: float = 0.4,
    wide: float = 0.3,
    hard: float = 0.2,
    soft: bool = False,
    template: str = BOTH,
) -> PolicyHandle:
    """Iterative DPO on a reward model's pairs, without those that an estimator with dropout doubts or denies.

    Use it when the reward model that labels new samples is unreliable and you have labelled pairs for a second model.
    Not with a judge you trust: filtering then only costs pairs.

    judge: scores the samples instead of a reward model fitted on the pairs. passes, dropout: of the estimator.
    share: of the pool that the estimator sees. rate: share of the agreed pairs in the easy and in the hard draw.
    offline, wide, hard: shares of the labelled pairs, of best against worst and of the hard draw in a round.
    soft: smooth labels by their uncertainty. template: what the estimator reads after the prompt.
    """
    start, plain = policy, objectives.dpo(beta)
    policy = run.train(start, pairs, objective=plain, label="first DPO")
    scorer = judge or judging.reward_model(run.fit(start, pairs))
    doubt = judging.dropout(estimator(run, start, pairs, template), passes, dropout, template)
    for t in run.rounds(rounds):
        drawn = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature)
        role = "view" if judge is None else asked_as(judge, policy)  # a model fitted on the pairs asks nobody
        scored = run.judge(drawn, spoken_by(scorer, policy), role=role)
        pool = run.curate(scored, curating.ends_pool(share=share))
        doubted = run.judge(pool, doubt, role="view")
        lessons = run.curate((doubted, scored, pairs), curating.second_opinion(offline, wide, hard, rate))
        run.note(agreed=len(agreed(doubted)) / len(doubted))
        loss = objectives.soft_labels(plain) if soft else plain
        policy = run.train(policy, lessons, objective=loss, reference=start)
        run.watch(policy)
    return policy


def estimator(run: Run, start: PolicyHandle, pairs: Contrasts, template: str, **settings: Any) -> PolicyHandle:
    """A pairwise reward model: whether the first of two responses is the better one."""
    lessons = run.curate(pairs, curating.both_ways(template))
    return run.fit(start, lessons, objective=objectives.binary_cross_entropy(), **settings)


@claim(
    "upo",
    statement="A judge that turns its scores round on a quarter of the prompts, an estimator with dropout that learnt "
    "from clean pairs: the easy draw has more gold-right labels than all candidates by 0.05 or more, and more than the "
    "hard draw (expected shares, mean over seeds); DPO on the easy draw ends above DPO on as many random candidates in "
    "every seed. Without dropout no pair is uncertain.",
    baseline="iterative DPO on as many unfiltered pairs of the same pool",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        (f["right_easy"] - f["right_all"]).mean() >= 0.05
        and f["right_easy"].mean() > f["right_hard"].mean()
        and bool(np.all(f["upo"] > f["plain"]))
        and f["doubt_without"].max() == 0
    ),
)
def under_a_misled_judge(lab: Lab, seed: int) -> Mapping[str, float]:
    """300 clean pairs, 200 prompts with 4 responses; equal numbers of lessons in both arms."""
    world = spelling.WORLD
    run = lab.run("misled", seed, world=world, lr=1e-3, batch_size=16)
    start = lab.base(run, world)
    labelled = run.judge(run.sample(start, lab.prompts(run, world, 300, seed=1000 + seed), n=2), world.gold)
    model = estimator(run, start, run.curate(labelled, curating.extremes("gold")), TEMPLATE, epochs=8)
    drawn = run.judge(run.sample(start, lab.prompts(run, world, 200), n=4), world.gold)
    pool = run.curate(run.judge(drawn, Scored(misled)), curating.ends_pool(share=0.25))
    doubted = run.judge(pool, judging.dropout(model, rate=0.3, template=TEMPLATE))
    sure = run.judge(pool, judging.dropout(model, passes=2, rate=0.0, template=TEMPLATE))
    easy, kept = run.curate(doubted, easy_ones), agreed(doubted)
    weights = np.array([cell(c, "preference_bald") for c in kept])
    figures = {
        "right_all": float(np.mean(right(pool))),
        "right_easy": float(np.average(right(kept), weights=1 - weights)),
        "right_hard": float(np.average(right(kept), weights=weights)),
    }
    figures["doubt_without"] = max(c.slate.column("preference_bald")[0][1] for c in sure)
    plain = run.curate(pool, lambda rows, rng: rng.sample(list(rows), len(easy)), label="as many")
    test = lab.prompts(run, world, 96, split="test")
    for name, lessons in {"upo": easy, "plain": plain}.items():
        trained = run.train(start, lessons, objective=objectives.dpo(0.1))
        figures[name] = run.evaluate(trained, test, judge=world.gold, n=4)["reward"]
    return figures


TEMPLATE = "{first} or{second}"


def easy_ones(doubted: Any, rng: Any) -> list[Contrast]:
    return easy_and_hard(agreed(doubted), 0.5, rng)[0]


def misled(slate: Slate) -> list[float]:
    """Gold, turned round on a quarter of the prompts."""
    sign = -1 if seed_of("misled", slate.id) % 4 == 0 else 1
    return [sign * spelling.share(slate.meta["letters"], slate.response(i)) for i in range(len(slate))]


def right(pairs: Iterable[Contrast]) -> list[float]:
    """1 for every pair whose chosen has the higher gold reward, 0 for the others."""
    golds = [[c.slate.column("gold")[m] for m in c.members] for c in pairs]
    return [float(w > l) for w, l in golds]
