"""129 PU-RL distillation: one teacher answer a prompt, and the student ranks its own samples by it. arXiv 2601.20687.

The teacher's answer a is known to be good (the positive), the student's samples y_1 .. y_K are unlabelled.

    stage 1   the student imitates the anchors
    stage 2   u_k = how good y_k is, says the student that is shown a;  u_a = 1
              dpo    (argmax u, argmin u), if wished also (a, argmin u)      -log sigma( beta (h_w - h_l) )
              grpo   A_k = (u_k - mean u)/std u                                  clipped, with a KL
              ldl    d = softmax(u/tau),  q = softmax(beta mean-token log-ratio)      KL(d || q), with a KL

The self-evaluation is one of: p_yes/(p_yes + p_no) to "as good as the one shown?", a written grade, or, for students
too small to be asked, the likeness of answer and anchor in words or in the student's own hidden states (the paper's
judge is asked; likeness is ours). Formulas of score, distribution and loss are reconstructed; the objective's page has
what follows from them.

Roles: the teacher speaks once a prompt and never again (counted: "teacher answers" in the report); the stage-1 student
is frozen as judge and as reference; the current student is sampled anew in every round.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.base import Curator
from prefine.errors import InputError
from prefine.judging.base import Judge, spoken_by
from prefine.objectives.scores import Objective, traits
from prefine.registry import at_least, one_of
from prefine.run import Run
from prefine.slate import Candidate, Slate

TOP = {"grade": 5.0}
"""u_a, what the anchor would be given: the most that a self-evaluation can say, 1 where nothing else is said."""
TINY = {"lr": 1e-3, "evaluation": "words", "beta": 1.0, "tau": 0.1, "objective": "dpo"}


@system(
    129, "pu-rl-distill", "Positive-unlabeled reinforcement learning distillation for on-premise small models",
    family="iteration", paper="arXiv 2601.20687", on_worlds=TINY, question="online",
    data="demos, lists", learning="online", loss="logistic, divergence, policy-gradient",
)  # fmt: skip
def pu_rl_distill(
    run: Run,
    policy: PolicyHandle,
    demos: Contrasts | None = None,
    prompts: Slates | None = None,
    *,
    teacher: str = "",
    objective: Literal["ldl", "dpo", "grpo"] = "ldl",
    evaluation: Literal["yes", "grade", "words", "states"] = "yes",
    rounds: int = 2,
    n: int = 8,
    beta: float = 0.1,
    tau: float = 0.5,
    kl_coef: float = 0.02,
    clip: float = 0.2,
    min_gap: float = 0.0,
    anchor_pairs: bool = False,
) -> PolicyHandle:
    """Imitate one teacher answer a prompt, then improve by ranking own samples against it.

    Use it when a strong model may be asked once a prompt, and there is neither a reward model nor anybody to compare
    answers. Not where many unlike answers are right: likeness to one of them says little.

    demos: the teacher's answers; or ``teacher``, a model directory that answers the prompts once. evaluation: how the
    student judges: asked for "yes" or a "grade", or by likeness to the anchor in "words" or hidden "states".
    anchor_pairs: with dpo, also the anchor against the worst sample.
    """
    at_least(2, n=n)
    if teacher:
        if prompts is None:
            raise InputError("the teacher has nothing to answer", remedy="give --prompts FILE, or leave out --teacher")
        answers = run.sample(run.policy(teacher), run.bare(prompts), role="teacher")
        demos = run.curate(answers, curating.demonstrated)
    if demos is None:
        remedy = "give --data FILE with answers of a teacher, or --prompts FILE and --teacher DIR, which answers them"
        raise InputError("no answers of a teacher were given", remedy=remedy)
    run.note(teacher_answers=len(demos))
    anchored = run.slates(curating.with_anchors(demos), label="anchors")
    student = run.train(policy, demos, objective=objectives.sft(), label="stage 1: imitate the teacher")
    run.watch(student)
    pairs = curating.positive_unlabelled(min_gap, anchor_pairs, TOP.get(evaluation, 1.0))
    groups = curating.rollouts(fewest=2)
    branches: Mapping[str, tuple[Curator, Objective]] = {
        "dpo": (pairs, objectives.dpo(beta)),
        "ldl": (groups, objectives.label_distribution(beta, tau, kl_coef)),
        "grpo": (groups, objectives.grpo(clip, kl_coef)),
    }
    judges: Mapping[str, Judge] = {
        "yes": judging.as_good_as("yes"), "grade": judging.as_good_as("grade"),
        "words": judging.likeness("words"), "states": judging.likeness("states"),
    }  # fmt: skip
    judge = spoken_by(one_of("evaluation", evaluation, judges), student)
    return by_anchors(run, student, anchored, judge, *one_of("objective", objective, branches), rounds=rounds, n=n)


def by_anchors(
    run: Run, student: PolicyHandle, anchored: Slates, judge: Judge, curator: Curator, objective: Objective,
    *, rounds: int, n: int,
) -> PolicyHandle:  # fmt: skip
    """Stage 2: rounds of own samples, ranked by a judge that knows the anchors."""
    current = student
    for t in run.rounds(rounds):
        slates = run.sample(current, run.slice(anchored, t, rounds), n=n)
        lessons = run.curate(run.judge(slates, judge, role="view"), curator)
        names = traits(objective)[0]
        reference = {name: current if name == "old" else student for name in names}
        current = run.train(current, lessons, objective=objective, reference=reference)
        run.watch(current)
    return current


@claim(
    "pu-rl-distill",
    statement="With one teacher answer a prompt: which of two of its samples is better the student tells at least 8 "
    "points better by the anchor than by that of another prompt; two rounds of DPO, and of LDL-GRPO, end at a "
    "higher gold reward than imitation alone (on the mean, and on most seeds); with anchors of other prompts "
    "DPO gains less than half as much.",
    baseline="imitation of the same answers; anchors shuffled over the prompts",
    seeds=(0, 1, 2),
    holds=lambda f: bool(
        (f["accuracy_anchor"] - f["accuracy_shuffled"]).mean() >= 0.08
        and all((g := f[f"gold_{name}"] - f["gold_sft"]).mean() > 0 and (g > 0).mean() > 0.5 for name in ("dpo", "ldl"))
        and (f["gold_shuffled"] - f["gold_sft"]).mean() < 0.5 * (f["gold_dpo"] - f["gold_sft"]).mean()
    ),
)
def by_one_answer(lab: Lab, seed: int) -> Mapping[str, float]:
    """160 answers of the world's teacher; 2 rounds of 80 prompts with 8 samples. Anchors are compared by words.

    "accuracy_likelihood", no part of the claim: what the student's own likelihood of its samples is worth here.
    """
    world = lab.world("assistant")
    run = lab.run("arms", seed, world=world, lr=4e-4, batch_size=16)
    base, prompts = lab.base(run, world), lab.prompts(run, world, 160)
    test = lab.prompts(run, world, 96, split="test")
    rng = random.Random(seed)
    said = [Slate(s.prompt, (Candidate(world.demonstrate(s, rng)),), meta=s.meta) for s in prompts]  # type: ignore[misc]
    demos = run.curate(run.slates(said), curating.demonstrated)
    student = run.train(base, demos, objective=objectives.sft(), label="stage 1: imitate the teacher")
    anchored = list(curating.with_anchors(demos))
    anchors = [s.meta["anchor"] for s in anchored]
    turned = zip(anchored, anchors[1:] + anchors[:1], strict=True)
    shuffled = run.slates([replace(s, meta={**s.meta, "anchor": other}) for s, other in turned])

    def gold(policy: PolicyHandle) -> float:
        return run.evaluate(policy, test, judge=world.gold, n=4)["reward"]

    pairs, judge = curating.positive_unlabelled(), judging.likeness("words")
    figures = {"gold_sft": gold(student)}
    for name in ("dpo", "ldl"):
        policy = pu_rl_distill(run, base, demos, objective=name, evaluation="words", **ARMS[name])  # type: ignore[arg-type]
        figures[f"gold_{name}"] = gold(policy)
    dpo = objectives.dpo(ARMS["dpo"]["beta"])
    figures["gold_shuffled"] = gold(by_anchors(run, student, shuffled, judge, pairs, dpo, rounds=2, n=8))
    sources = {"anchor": run.slates(anchored), "shuffled": shuffled}
    for name, source in sources.items():
        drawn = run.judge(run.sample(student, source, n=8), world.gold, role="evaluation")
        figures[f"accuracy_{name}"] = agreement(list(drawn), judge)
    figures["accuracy_likelihood"] = agreement(list(drawn), judging.likelihood(student, name="alone"))
    return figures


ARMS: Mapping[str, Mapping[str, float]] = {"dpo": {"beta": 0.1}, "ldl": {"beta": 1.0, "tau": 0.1}}


def agreement(slates: Sequence[Slate], judge: Judge) -> float:
    """Share of pairs with unlike gold that a judge orders as gold does; a tie is half."""
    right = []
    for slate, columns in zip(slates, judge(slates), strict=True):
        gold, told = slate.column("gold"), next(iter(columns.values())).values
        for i, j in combinations(range(len(slate)), 2):
            if gold[i] != gold[j]:
                right.append(0.5 if told[i] == told[j] else float((told[i] > told[j]) == (gold[i] > gold[j])))
    return float(np.mean(right))
