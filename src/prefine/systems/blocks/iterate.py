"""The generic loop: sample, judge, curate, train, with each part by name."""

from __future__ import annotations

from typing import Literal

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import system
from prefine.errors import InputError
from prefine.judging.base import Judge, spoken_by
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
    reference: Literal["previous", "start"] = "previous",
    rounds: int = 3,
    n: int = 4,
    temperature: float = 1.0,
) -> PolicyHandle:
    """Rounds of sampling from the policy, judging, pairing and training: iterative DPO by default.

    Use it to improve a model with a judge, or to try a combination that no paper has: every objective and
    curator can be named, with options, as ``--objective lcpo:simpo(gamma=0.5) --curator sweet-spot``.

    reference: "previous" (each round's start) or "start" (the first policy, throughout).
    rounds: the prompts are split evenly over them. n: responses a prompt.
    """
    if reference not in REFERENCES:
        raise InputError(f"reference={reference!r} is not known", remedy=f"choose one of {', '.join(REFERENCES)}")
    loss = objectives.read(objective)
    name, chosen = parse(curator)
    pick = curating.make(name, **chosen)
    start = policy
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature)
        pairs = run.curate(run.judge(slates, spoken_by(judge, policy)), pick)
        anchor = start if reference == "start" else policy
        policy = run.train(policy, pairs, objective=loss, reference=anchor)
        run.watch(policy)
    return policy
