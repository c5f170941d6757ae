"""014 OLAPH: factuality of long answers from a composite of automatic metrics. arXiv 2405.12701.

A question comes with a reference answer and with statements that an answer must make (MH) or may make (NH). Everything
the model says is scored without people,

    words = 100 (R1 + R2 + RL)        semantics = 100 (BLEURT + BERTScore)        factuality = CP - HL
    S     = alpha words + beta semantics + gamma factuality

with CP the share of MH that is entailed and HL the share of MH and NH that is contradicted (``judging.statements``).

    step 1         1 greedy and n sampled answers; supervised on the one with the largest S (never on the reference)
    step 2, ...    sampled again from the last model; the best answer, if S >= threshold, against every other one that
                   is lower by at least ``gap``; DPO with a frozen reference, the model the round starts from

Roles: current = samples, is trained, and is the training reference of its round; judge = the composite, or the one
given; the encoder of BERTScore and a checker model, where one is asked, are the start unless named.

Settled here: no BLEURT model is at hand, so BERTScore counts twice, which keeps S on its scale of 600 (a judge of one's
own replaces all of S). Of equal texts one pair is made; the release compares with the third best only, and repeats
others. Answers that contain a question mark, "::" or "....." are never chosen or not used, as released.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np

from prefine import judging, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.best_against_worse import best_against_worse, best_of
from prefine.errors import InputError
from prefine.fingerprint import seed_of
from prefine.judging.base import Judge, Scored, asked_as, spoken_by
from prefine.judging.models import OnDisk
from prefine.judging.overlap import Semantics, Words
from prefine.judging.referenced import in_row
from prefine.judging.statements import Alike, Asked, Frames, Statements, Verdict
from prefine.policies import directory
from prefine.registry import at_least, one_of
from prefine.run import Run
from prefine.slate import Slate

NEEDED = ("reference", "must_have", "nice_to_have")


@system(
    14, "olaph", "OLAPH: improving factuality in biomedical long-form question answering", family="iteration",
    paper="arXiv 2405.12701", world="remedies", question="online", data="rewards", learning="online",
    reference="moving", on_worlds={"lr": 5e-4, "verdict": "frames", "beta_dpo": 0.1},
)  # fmt: skip
def olaph(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge | None = None,
    *,
    rounds: int = 2,
    n: int = 5,
    temperature: float = 1.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    threshold: float = 200.0,
    gap: float = 20.0,
    verdict: Literal["words", "asked", "frames"] = "words",
    checker: str = "",
    encoder: str = "",
    beta_dpo: float = 0.01,
) -> PolicyHandle:
    """Imitate the best own answer by a composite of metrics, then prefer the best to the clearly worse, in rounds.

    Use it for long answers whose facts are known as lists of statements. Not where good answers share no words with a
    reference: then give alpha 0, or a judge of your own.

    alpha, beta, gamma: weights of words, semantics and factuality (0 leaves a metric out). threshold: least score of a
    chosen answer. gap: least difference of a pair. verdict: by words in common, by asking a model True or False, or by
    frames, for forms. checker: directory of the model asked. encoder: of BERTScore's model. beta_dpo: DPO's beta.
    """
    at_least(0, alpha=alpha, beta=beta, gamma=gamma, gap=gap)
    rule = best_against_worse("score", threshold, gap, banned=("::", "....."), banned_in_chosen=("?",))
    loss = objectives.dpo(beta_dpo)
    for place in filter(None, (checker, encoder)):
        directory.find(place)
    if judge is None:
        need_rows(prompts, [name for name, weight in zip(NEEDED, (alpha + beta, gamma, 0), strict=True) if weight])
        asked = Asked(OnDisk(Path(checker)) if checker else policy)
        verdicts: Mapping[str, Verdict] = {"words": Alike(), "asked": asked, "frames": Frames()}
        says = one_of("verdict", verdict, verdicts)
        parts: list[tuple[str, Judge, float]] = [
            ("words", Words(), alpha),
            ("semantics", Semantics(OnDisk(Path(encoder)) if encoder else policy), beta),
            ("factuality", Statements(says), gamma),
        ]
        judge = judging.composite([part for part in parts if part[2]])
    current = policy
    for t in run.rounds(rounds + 1):
        drawn = run.sample(current, prompts, n=1, temperature=0.0, label="greedy")
        drawn = run.sample(current, drawn, n=n, temperature=temperature)
        judged = run.judge(drawn, spoken_by(judge, current), role=asked_as(judge, current))
        if t == 0:
            current = run.train(current, run.curate(judged, best_of()), objective=objectives.sft())
        else:
            current = run.train(current, run.curate(judged, rule), objective=loss)
        run.watch(current)
    return current


def need_rows(prompts: Slates, columns: list[str]) -> None:
    """An InputError about columns that no row has."""
    rows = list(prompts)
    missing = [name for name in columns if not any(in_row(row, name) for row in rows)]
    if missing:
        raise InputError(
            f"no prompt has {' or '.join(missing)} in its row",
            remedy='give rows like {"prompt": "...", "reference": "a good answer", "must_have": ["a statement", ...], '
            '"nice_to_have": [...]}; or leave metrics out with alpha, beta or gamma 0; or name a --judge',
        )


@claim(
    "olaph",
    statement="On questions with five known statements, from samples alone: comprehensiveness (CP) rises and "
    "hallucination (HL) falls over start, supervised step, first and second DPO round (means over seeds), the recall "
    "of all five statements, which is not in S, ends higher than it began in every seed; with a random sample in place "
    "of the best the recall gains less than half as much.",
    baseline="a random sample as the chosen one",
    seeds=(0, 1, 2),
    holds=lambda f: (
        bool(np.all(np.diff([f[f"cp_{t}"].mean() for t in range(4)]) > 0))
        and bool(np.all(np.diff([f[f"hl_{t}"].mean() for t in range(4)]) < 0))
        and bool(np.all(f["recall_3"] > f["recall_0"]))
        and (f["random_recall"] - f["recall_0"]).mean() < 0.5 * (f["recall_3"] - f["recall_0"]).mean()
    ),
)
def stage_by_stage(lab: Lab, seed: int) -> Mapping[str, float]:
    """160 prompts, 6 answers each a stage; figures on 120 test prompts, two answers each, out of 100."""
    world = lab.world("remedies")
    run = lab.run("stages", seed, world=world, lr=5e-4, batch_size=32)
    start, prompts = lab.base(run, world), lab.prompts(run, world, 160)
    test = lab.prompts(run, world, 120, split="test")

    def trained(rounds: int) -> PolicyHandle:
        return olaph(run, start, prompts, rounds=rounds, verdict="frames", beta_dpo=0.1)

    def measured(policy: PolicyHandle) -> tuple[float, float, float]:
        drawn = run.sample(policy, test, n=2, role="evaluation")
        found = run.judge(run.judge(drawn, Statements(Frames())), world.attributes["recall"])
        names = ("comprehensiveness", "hallucination", "recall")
        cp, hl, recall = (float(np.mean([slate.column(name) for slate in found])) for name in names)
        return cp, hl, 100 * recall

    figures: dict[str, float] = {}
    for t, policy in enumerate([start, *map(trained, range(3))]):  # what is trained already is found, not made again
        figures |= dict(zip((f"cp_{t}", f"hl_{t}", f"recall_{t}"), measured(policy), strict=True))
    blind = olaph(run, start, prompts, Scored(at_random), beta_dpo=0.1, threshold=0.0, gap=0.0)
    return {**figures, "random_recall": measured(blind)[2]}


def at_random(slate: Slate) -> list[float]:
    """A score that knows nothing: the best of several is a random one."""
    return [Random(seed_of("random", slate.id, i)).random() for i in range(len(slate))]
