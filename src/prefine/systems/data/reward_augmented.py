"""141 Reward-augmented data (DPO-RA): the score asked for stands in the prompt. arXiv 2410.08067 (ICML 2025).

A pair says which response is better and not how good either is: a high-quality rejected response is unlearnt with the
rest, and a poor chosen one is learnt. With a goal g in the prompt and the reward relabelled as

    R(x, y, g) = -(g - r(x, y))^2

every pair with unlike scores r_w, r_l becomes two, on which any direct method is trained unchanged:

    goal(r_w) + x:  y_w over y_l          goal(r_l) + x:  y_l over y_w

The reference sees the same prompts. Afterwards the model is asked for the highest goal. Without the goals in the prompt
the two records cancel: at the reference their DPO gradients add up to zero, so doubling alone teaches nothing.

Pairs whose goals read the same are dropped (the release keeps them, and they contradict each other under one prompt).
The release's variant for models without a system message does not swap the responses of the second record; this does.
Several columns of scores give a goal of several numbers.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Literal, cast

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.goals import TEXT, Goals, WithoutGoal, aimed, goals, range_of, relabelled
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.policies.tabular import Tabular
from prefine.registry import Part, given_for
from prefine.run import Run
from prefine.worlds.words import GRADES, by_one_writer


@system(
    141, "reward-augmented", "DPO-RA: reward-augmented data enhances direct preference alignment",
    family="data", paper="arXiv 2410.08067", world="reviews",
    on_worlds={"lr": 1e-3, "epochs": 2, "objective": "dpo(beta=0.1)", "text": "{goal}", "digits": 0},
    question="feedback", data="graded-pairs, rewards", learning="offline, online",
)  # fmt: skip
def reward_augmented(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts | None = None,
    prompts: Slates | None = None,
    judge: Judge | None = None,
    *,
    learn_from: Literal["pairs", "samples"] = "pairs",
    objective: Part = Part("dpo(beta=0.01)"),  # noqa: B008 (a text)
    by: tuple[str, ...] = ("score",),
    scale: tuple[float, float] | None = None,
    text: str = TEXT,
    place: Literal["system", "user"] = "system",
    digits: int = 1,
    n: int = 5,
) -> PolicyHandle:
    """Pairs under the goal of scoring as well as their chosen response, and again as their rejected one.

    Use it when both responses have scores and good responses are among the rejected ones (a strong model's samples, a
    reward model's ratings). Not with labels alone, and not where the prompt cannot be changed at inference: the model
    is at its best when asked for the highest goal, and the run's held-out figures ask for it too.

    learn_from: pairs with scores in the data ("score_chosen" and "score_rejected"), or samples: n a prompt, scored by
    the judge, the best against a random other. objective: any direct loss. by: columns of scores, one or several.
    scale: the lowest and the highest score (default: as found). text: what is put to the model, {goal} the number.
    place: of the text in a conversation: system, or user for models without a system message. digits: of the goals.
    """
    loss = objectives.read(objective)
    goals(by, [(0.0, 1.0)] * len(by), text, place, digits)  # the options are fine, or this says what is not
    if scale is not None and not scale[0] < scale[1]:
        raise InputError(f"scale={scale!r} has no range", remedy="give the lowest score, then the highest")
    given = {"pairs": pairs, "samples": None if prompts is None or judge is None else prompts}
    source = given_for("learn_from", learn_from, given)
    if learn_from == "samples":
        drawn = run.judge(run.sample(policy, source, n=n), judge)  # type: ignore[arg-type]
        source = run.curate(drawn, curating.max_random("score"))
    pairs = cast(Contrasts, source)
    curating.need(pairs, *by)
    put = goals(by, [scale or range_of(pairs, column) for column in by], text, place, digits)
    policy = run.train(policy, run.curate(pairs, relabelled(put)), objective=loss)
    ask_for_the_best(run, put)
    return policy


def ask_for_the_best(run: Run, put: Goals) -> None:
    """The run's yardstick with the highest goal in its prompts; its judge is not shown the goal."""
    run.progress.say(f"ask the trained model with this in its prompt: {put.words(put.top)}")
    yardstick = run.yardstick
    if yardstick is None:
        return
    best = aimed(put)
    run.yardstick = dataclasses.replace(
        yardstick,
        prompts=None if yardstick.prompts is None else run.slates(best.slates(yardstick.prompts), label="with goals"),
        judge=None if yardstick.judge is None else WithoutGoal(yardstick.judge),
        pairs=None if yardstick.pairs is None else run.curate(yardstick.pairs, best, label="with goals"),
    )


@claim(
    "reward-augmented",
    statement="On pairs by three writers of unlike skill, each pair by one of them, so that good responses are often "
    "rejected: the mean gold reward rises with the goal asked for (Spearman of at least 0.9 over the goals 2, 4, 6, 8, "
    "10 in every seed); asked for 10 it is above that of plain DPO on the same pairs after as many steps, in every "
    "seed; and rejected responses with a score in the upper quarter stay likelier under their own goal than under DPO.",
    baseline="dpo on the same pairs, as many steps",
    seeds=(0, 1, 2),
    holds=lambda f: bool(
        np.all(f["spearman"] >= 0.9)
        and np.all(f["good_rejected"] > f["dpo_good_rejected"])
        and np.all(f["goal_10"] > f["dpo"])
    ),
)
def rises_with_the_goal(lab: Lab, seed: int) -> Mapping[str, float]:
    """A table of four prompts, with every goal and without, and 40 words with grades from 1 to 10; rewards are exact.

    Good rejected ones: log-ratio to the base of the rejected words with a goal above 7.75, under that goal (or, for
    DPO, under none). DPO sees nobody's good words beside another's bad ones, so it raises what beats a worse word of
    the same writer, however bad both are."""
    asking = ("a:", "b:", "c:", "d:")
    run = lab.run("goals", seed, lr=0.1, batch_size=32, epochs=6, log_every=1000)
    put = goals(text="{goal}", digits=0)
    asked = [put.words((str(g),)) + "\n\n" for g in range(1, 11)]
    Tabular.uniform([f"{goal}{x}" for goal in ("", *asked) for x in asking], list(GRADES)).save(lab.root / "base")
    start = run.policy(lab.root / "base")
    pairs = run.curate(run.slates(by_one_writer(asking, 960, random.Random(f"writers {seed}"))), curating.all_pairs())
    lessons = run.curate(pairs, relabelled(put))
    steps, loss = run.settings.steps(len(lessons)), objectives.dpo(0.1)
    ours, plain = (run.train(start, data, objective=loss, max_steps=steps) for data in (lessons, pairs))

    def gold(policy: PolicyHandle, goal: str = "") -> float:
        table = policy.load()
        assert isinstance(table, Tabular)
        grade_A = np.array(list(GRADES.values()))
        return float(np.mean([table.probabilities(f"{goal}{x}").numpy() @ grade_A for x in asking]))

    figures = {f"goal_{g}": gold(ours, asked[g - 1]) for g in (2, 4, 6, 8, 10)}
    order = np.argsort(np.argsort(list(figures.values())))

    def moved(policy: PolicyHandle, data: Contrasts, member: int) -> np.ndarray:
        return (np.asarray(run.logps(policy, data).sums()) - np.asarray(run.logps(start, data).sums()))[:, member]

    # The second record of a pair is under its rejected response's goal, which is chosen there.
    own = [i for i, c in enumerate(lessons) if i % 2 and float(put.of(c.slate, c.members[0])[0]) > 7.75]
    top = [i for i, c in enumerate(pairs) if float(put.of(c.slate, c.members[1])[0]) > 7.75]
    return {
        **figures,
        "base": gold(start),
        "dpo": gold(plain),
        "spearman": float(np.corrcoef(order, np.arange(len(order)))[0, 1]),
        "good_rejected": float(moved(ours, lessons, 0)[own].mean()),
        "dpo_good_rejected": float(moved(plain, pairs, 1)[top].mean()),
        "good_rejected_share": len(top) / len(pairs),
    }
