"""085 DICE: bootstrapping with DPO's implicit rewards. arXiv 2406.09760 (ICLR 2025).

After one DPO run the policy and its reference define a reward, r(x,y) = log pi(y|x) - log ref(y|x) (token sums;
the factor beta only rescales alpha). Each round samples, scores with that reward minus alpha characters, where one
alpha for the whole round makes chosen and rejected equally long on average, mixes in a share gamma of the human
pairs on other prompts, and runs DPO again.

Roles: the scoring pair is (pi_0, SFT) in round 1 and (pi_1, pi_0) in round 2, so the scoring reference lags one
round; DPO's own reference is the round's start. Nobody is asked for a label: the policy's own view is none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Scored
from prefine.run import Run
from prefine.worlds.quality import Quality


@system(
    85, "dice", "DICE: bootstrapping language models with DPO implicit rewards", family="iteration",
    paper="arXiv 2406.09760", on_worlds={"lr": 1e-3, "temperature": 1.0, "min_characters": 1},
    question="online", learning="online", reference="moving", length="penalised", likelihood="guarded",
)  # fmt: skip
def dice(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    pairs: Contrasts,
    *,
    rounds: int = 2,
    n: int = 16,
    beta: float = 0.1,
    gamma: float = 0.5,
    temperature: float = 0.9,
    top_p: float = 1.0,
    min_survivors: int = 8,
    min_characters: int = 3,
    max_characters: int = 6700,
    alpha: float | None = None,
    trained_from: str = "",
) -> PolicyHandle:
    """Let a DPO-trained policy judge its own samples by its implicit reward, without growing longer.

    Use it to get more out of a few human pairs: no judge, no new labels. Not when the first DPO run ranks
    held-out pairs badly: the loop amplifies what the implicit reward believes.

    trained_from: directory of the model that the given policy was DPO-trained from; without it the policy is
    taken to be the SFT model, and the first DPO run on the pairs is made here.
    gamma: share of human pairs in each round. alpha: a fixed length penalty instead of the search.
    """
    if trained_from:
        current, before = policy, run.policy(trained_from)
    else:
        current, before = run.train(policy, pairs, objective=objectives.dpo(beta), label="first DPO"), policy
        run.watch(current)
    balanced = curating.length_balanced(
        "implicit", min_survivors, min_characters=min_characters, max_characters=max_characters, alpha=alpha
    )
    for _ in run.rounds(rounds):
        slates = run.sample(current, prompts, n=n, temperature=temperature, top_p=top_p)
        judged = run.judge(slates, judging.implicit_reward(current, before), role="view")
        lessons = run.curate(judged, curating.replay_mix(balanced, pairs, gamma))
        current, before = run.train(current, lessons, objective=objectives.dpo(beta)), current
        run.watch(current)
    return current


@claim(
    "dice",
    statement="From a policy DPO-trained on few pairs whose labels like length a little, two DICE rounds raise the "
    "mean gold reward (beyond two standard errors over 5 seeds); with alpha forced to 0 the length gap of "
    "chosen and rejected and the final length are clearly larger, and the gap at alpha* at most 20% of the one at 0.",
    baseline="the DPO policy it starts from, and alpha = 0",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        (f["gold_2"] - f["gold_0"]).mean() > 2 * (f["gold_2"] - f["gold_0"]).std(ddof=1) / np.sqrt(len(f["gold_0"]))
        and f["length_free"].mean() > 1.05 * f["length_2"].mean()
        and abs(f["gap_balanced"]).mean() <= 0.2 * abs(f["gap_free"]).mean()
    ),
)
def bootstrapped(lab: Lab, seed: int) -> Mapping[str, float]:
    """400 labelled pairs; 300 prompts with 8 samples a round. Lengths of answers in tokens, gaps in characters."""
    world = lab.world("assistant")
    gold = Scored(Quality(world.attributes), "gold")
    with lab.run("loop", seed, world=world, lr=2e-4, batch_size=16) as run:
        sft = lab.base(run, world)
        drawn = run.sample(sft, lab.prompts(run, world, 400), n=2)
        judge = Scored(Quality(world.attributes, price=0.02))  # people like long answers a little
        pairs = run.curate(run.judge(drawn, judge), curating.extremes("score"))
        start = run.train(sft, pairs, objective=objectives.dpo(0.1), lr=2e-4)
        prompts = lab.prompts(run, world, 300, seed=1000 + seed)
        test = lab.prompts(run, world, 128, split="test")

        figures = {}
        judged = run.judge(run.sample(start, prompts, n=8, temperature=1.0), judging.implicit_reward(start, sft))
        for name, alpha in {"balanced": None, "free": 0.0}.items():
            chosen = run.curate(judged, curating.length_balanced("implicit", 4, min_characters=1, alpha=alpha))
            figures[f"gap_{name}"] = float(np.mean([len(c.response(0)) - len(c.response(1)) for c in chosen]))
            policy = dice(
                run, start, prompts, pairs, n=8, temperature=1.0, min_survivors=4, min_characters=1, alpha=alpha,
                trained_from=str(sft.path),
            )  # fmt: skip
            end = run.evaluate(policy, test, judge=gold, n=2)
            figures |= {f"gold_{'2' if alpha is None else 'free'}": end["reward"]}
            figures |= {f"length_{'2' if alpha is None else 'free'}": end["length"]}
        begin = run.evaluate(start, test, judge=gold, n=2)
        return {"gold_0": begin["reward"], "length_0": begin["length"], **figures}
