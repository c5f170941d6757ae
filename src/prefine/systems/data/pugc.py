"""162 PUGC: preferences from user-generated content. arXiv 2506.04463 (ACL 2025).

People write posts and reviews, nobody labels them; but a text answers questions, and so says what a good answer holds.

    x   = G(phi_q(d))           a question that a reader might have and that the text d answers
    keep (x, d) if G says True to phi_f(x, d): the text holds enough for the question
    y_1 .. y_K ~ pi(.|x)        the policy never sees d
    r_k = R(x, y_k, d)          a judge that is shown d as the reference, asked several times, the mean
    DPO on argmax r against argmin r, a slate without a difference gives none

Roles: start = samples the answers, is trained, and is the frozen training reference; writer G = writes and checks
questions, the start unless named; judge R = scores, and alone sees the reference.

Settled here: the check is read off the probabilities of True and False, so none is unreadable. top-p, beta and the
number of judge runs (8, from a file name of the release) are reconstructed. SimPO or any pair loss can replace DPO.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates, contrasts_at
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.user_content import ASK, CHECK, as_prompts, asking, proposed
from prefine.errors import InputError
from prefine.fingerprint import seed_of
from prefine.judging.base import Judge, spoken_by
from prefine.judging.language import YesProbability
from prefine.judging.overlap import sentences_of
from prefine.judging.referenced import TEXT, referenced, repeated
from prefine.policies import directory
from prefine.registry import Part, between
from prefine.run import Run
from prefine.slate import Contrast, Feedback, Slate, prompt_text, scores
from prefine.store import read_jsonl
from prefine.worlds import remedies

WORDS = {
    "ask": remedies.ASK,
    "check": remedies.CHECK,
    "yes": " Yes",
    "no": " No",
    "form": "Ana: {question}\nAssistant:",
}
TRAIN = {"lr": 5e-4, "batch_size": 32, "max_steps": 5}


@system(
    162, "pugc", "PUGC: aligning language models with implicit preferences from user-generated content", family="data",
    paper="arXiv 2506.04463", world="remedies", question="feedback", data="rewards", learning="online",
    on_worlds={**WORDS, "lr": 5e-4},
)  # fmt: skip
def pugc(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    *,
    documents: str = "document",
    writer: str = "",
    ask: str = ASK,
    check: str = CHECK,
    yes: str = "True",
    no: str = "False",
    enough: float = 0.5,
    form: str = "{question}",
    text: str = TEXT,
    n: int = 5,
    temperature: float = 0.8,
    top_p: float = 0.95,
    runs: int = 8,
    shown: bool = True,
    objective: Part = Part("dpo(beta=0.1)"),  # noqa: B008 (a text)
) -> PolicyHandle:
    """Turn users' texts into questions with a reference, and prefer the own answers that agree with it most.

    Use it when there is much text of the wanted kind and domain, and neither prompts nor labels. Not on texts that are
    wrong, or about nothing that could be asked: the check (``enough``) only finds what does not fit its question.

    documents: column with the texts (default: "document", else the prompts themselves are the texts). writer: directory
    of the model that writes and checks questions. ask, check, yes, no: what it is asked, and its two answers. enough:
    least probability of yes, 0 for no check. form: a question as a prompt. text: how the judge is shown the reference.
    runs: how often a judge that varies is asked. shown: off for comparison, the judge does not see the reference.
    objective: any pair loss.
    """
    loss = objectives.read(objective)
    between(0, 1, enough=enough)
    for name, place, given in (
        ("ask", "{document}", ask),
        ("check", "{response}", check),
        ("form", "{question}", form),
    ):
        if place not in given:
            raise InputError(f"{name}={given!r} does not show {place}", remedy=f"write {place} into it")
    if writer:
        directory.find(writer)
    helper = run.policy(writer) if writer else policy
    wanted = run.slates(asking(prompts, documents, ask), label="requests for questions")
    written = run.sample(helper, wanted, n=1, temperature=temperature, top_p=top_p, role="writer", label="questions")
    found = run.slates(proposed(written), label="questions beside their texts")
    if enough > 0:
        found = run.judge(found, YesProbability(helper, check, yes, no, name="enough"), role="view", label="check")
    asked = run.slates(as_prompts(found, form, enough or None), label="questions")
    run.note(texts=len(prompts), questions=len(found), kept=len(asked))
    if not len(asked):
        raise InputError(
            f"none of {len(prompts)} texts gave a question that it answers",
            remedy="name a --writer that follows instructions, or give --enough 0 to keep every question",
        )
    drawn = run.sample(policy, asked, n=n, temperature=temperature, top_p=top_p)
    several = repeated(spoken_by(judge, policy), runs)
    judged = run.judge(drawn, referenced(several, text=text) if shown else several)
    policy = run.train(policy, run.curate(judged, curating.extremes("score"), label="pairs"), objective=loss)
    run.watch(policy)
    return policy


@claim(
    "pugc",
    statement="A noisy judge counts what of an answer stands in the text it is shown. Pairs made with the reference "
    "are ordered as gold orders them at least 15 points more often than without it, and DPO for as many steps on them "
    "ends with a higher gold reward, in every seed. Where half of the texts do not fit their question and are not "
    "checked, that accuracy falls, and the check wins back at least half of the loss (means over seeds).",
    baseline="the same judge without the reference",
    seeds=(0, 1, 2),
    holds=lambda f: (
        (f["accuracy"] - f["blind_accuracy"]).mean() >= 0.15
        and bool(np.all(f["gold"] > f["blind_gold"]))
        and f["mixed_accuracy"].mean() < f["accuracy"].mean()
        and (f["checked_accuracy"] - f["mixed_accuracy"]).mean() >= 0.5 * (f["accuracy"] - f["mixed_accuracy"]).mean()
    ),
)
def with_and_without(lab: Lab, seed: int) -> Mapping[str, float]:
    """200 texts, 5 answers a question; the noise of one judgement is larger than one statement (1.5)."""
    world, figures = lab.world("remedies"), {}
    arms: Mapping[str, tuple[float, Mapping[str, Any]]] = {
        "": (0.0, {}), "blind_": (0.0, {"shown": False}), "mixed_": (0.5, {"enough": 0.0}), "checked_": (0.5, {}),
    }  # fmt: skip
    for arm, (mixed_up, options) in arms.items():
        with lab.run(f"{arm}texts", seed, world=world, **TRAIN) as run:
            texts = run.slates(
                Slate(
                    remedies.document(dice.choice(remedies.HERBS), dice, dice.random() < mixed_up), meta={"id": str(i)}
                )
                for i, dice in ((i, Random(f"text {i} {seed}")) for i in range(200))
            )
            policy = pugc(run, lab.base(run, world), texts, Reader(), **WORDS, **options)  # type: ignore[arg-type]
            figures[f"{arm}accuracy"] = float(
                np.mean([in_order(c) for c in lessons(run) if remedies.named(str(c.prompt(0)))])
            )
            test = lab.prompts(run, world, 120, split="test")
            figures[f"{arm}gold"] = run.evaluate(policy, test, judge=world.gold, n=2)["reward"]
    return figures


@dataclass(frozen=True)
class Reader:
    """How many sentences of an answer stand in the text it is shown, and noise."""

    seed: int = 0
    noise: float = 1.5

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [{"score": scores([self._said(slate, i) for i in range(len(slate))])} for slate in slates]

    def _said(self, slate: Slate, index: int) -> float:
        known, said = sentences_of(prompt_text(slate.prompt)), set(sentences_of(slate.response(index)))
        return len(said & set(known)) + Random(seed_of(self.seed, slate.id, index)).gauss(0, self.noise)


def lessons(run: Run) -> Contrasts:
    """The pairs the run learnt from."""
    rows = read_jsonl(run.dir / "journal.jsonl")
    key = [row["key"] for row in rows if row.get("label") == "pairs" and "key" in row][-1]
    return contrasts_at(key, run.store.path(key))


def in_order(pair: Contrast) -> float:
    """1 where gold puts the chosen above the rejected, 1/2 where it sees no difference."""
    chosen, rejected = (remedies.gold(pair.slate)[m] for m in pair.members)
    return (chosen > rejected) + 0.5 * (chosen == rejected)
