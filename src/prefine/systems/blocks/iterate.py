"""The generic loop: sample, judge, curate, train, with each part by name."""

from __future__ import annotations

from typing import Literal

from prefine import curating, objectives, selecting
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import system
from prefine.errors import InputError
from prefine.judging.base import Judge, asked_as, spoken_by
from prefine.registry import Part, parse
from prefine.run import Run

REFERENCES = ("previous", "start")


@system(
    None, "iterate", "Iterative preference optimisation, any parts", family="iteration", on_worlds={"lr": 1e-3},
    question="online", data="rewards", learning="online", reference="moving",
)  # fmt: skip
def iterate(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    *,
    objective: Part = Part("dpo"),  # noqa: B008 (a text)
    curator: Part = Part("extremes"),  # noqa: B008
    selector: Part = Part("all"),  # noqa: B008
    reference: Literal["previous", "start"] = "previous",
    rounds: int = 3,
    n: int = 4,
    temperature: float = 1.0,
) -> PolicyHandle:
    """Rounds of sampling, choosing what to ask, judging, pairing and training: iterative DPO by default.

    Use it to improve a model with a judge, or to try a combination that no paper has: every selector, objective and
    curator can be named, with options, as ``--selector small-margin:budget=50% --judge self --objective lcpo:dpo``.

    selector: what of a round is worth the judge's time: all, random(budget=25%), small-margin, certainty, entropy,
    d-optimal, upper-confidence, ..., or one after the other, entropy(budget=50%):certainty.
    reference: "previous" (each round's start) or "start" (the first policy, throughout).
    rounds: the prompts are split evenly over them. n: responses a prompt.
    """
    if reference not in REFERENCES:
        raise InputError(f"reference={reference!r} is not known", remedy=f"choose one of {', '.join(REFERENCES)}")
    loss = objectives.read(objective)
    name, chosen = parse(curator)
    pick = curating.make(name, **chosen)
    worth = selecting.read(selector)
    start = before = policy  # before: what the policy was trained against, which its own view of its samples rests on
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature)
        asked = selecting.chosen(run, slates, worth, policy, before)
        pairs = run.curate(run.judge(asked, spoken_by(judge, policy), role=asked_as(judge, policy)), pick)
        before = start if reference == "start" else policy
        policy = run.train(policy, pairs, objective=loss, reference=before)
        run.watch(policy)
    return policy
