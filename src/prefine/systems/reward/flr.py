"""133 FLR: follow-up likelihood as reward. arXiv 2409.13948 (AAAI 2025).

Users show what they think of an answer by what they say next, and a language model knows what users say. The reward of
a response is how much likelier pleased follow-ups u are than displeased ones as the next turn, under a scorer:

    r_d(x, y) = mean_{u in P_d} ell(u) - mean_{u in N_d} ell(u),   ell(u) = log p(u | x, y) / |u|,   r = mean_d r_d

over six sides d of helpfulness with ten utterances each way (``judging.followups``). n responses a prompt are sampled
once; the highest r is chosen, the lowest rejected, for DPO, or as two labels for KTO. Nobody labels or grades. With
``--tune-scorer`` the scorer is first fine-tuned on feedback in words, its roles swapped: it plays the user, and the
follow-ups stand where it would speak.

Roles: start = the given policy, which samples, is trained, and is the training reference; scorer (the judge) = a frozen
model of its own, or the start itself.

Settled here: ``read="first"`` is the released code's proxy, raw logits at the place of the first token (their
normaliser drops out of r, so it is computed from log-probabilities). Filtering by gap and DPO's constants are
reconstructed; the utterances are ours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.feedback import played_user
from prefine.errors import InputError
from prefine.fingerprint import seed_of
from prefine.judging.base import Judge, Scored
from prefine.judging.followups import TURN, follow_ups
from prefine.judging.teachers import Likelihood
from prefine.objectives.needs import needs
from prefine.policies import directory
from prefine.registry import Part
from prefine.run import Run
from prefine.slate import Slate
from prefine.worlds import dialogues


@system(
    133, "flr", "FLR: aligning language models using follow-up likelihood as reward signal", family="reward",
    paper="arXiv 2409.13948", world="dialogues", question="feedback", data="rewards", learning="online",
    on_worlds={"lr": 1e-3, "utterances": "short", "temperature": 1.0},
)  # fmt: skip
def flr(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    demos: Contrasts | None = None,
    *,
    scorer: str = "",
    tune_scorer: bool = False,
    utterances: str = "helpfulness",
    kinds: tuple[str, ...] = (),
    read: Literal["mean", "first"] = "mean",
    turn: str = TURN,
    n: int = 8,
    temperature: float = 0.7,
    min_gap: float = 0.0,
    objective: Part = Part("dpo(beta=0.1)"),  # noqa: B008 (a text)
) -> PolicyHandle:
    """Best against worst of n responses by how likely pleased follow-ups are after each.

    Use it when there are prompts and no labels, and a model that has seen many dialogues. Not with a scorer that knows
    monologues only: what it expects next then says nothing about the answer.

    scorer: directory of the model that reads follow-ups (default: the policy). tune_scorer: fine-tune it first on the
    demos' column "feedback". utterances: helpfulness, short, or a JSON file {KIND: {"positive": [...], "negative":
    [...]}}. kinds: only some of the kinds. read: mean over an utterance's tokens, or the release's first-place proxy.
    turn: how the user's next turn begins after a plain text prompt; {user} is the prompt's. min_gap: rewards of a pair
    differ by more than this. objective: any loss on pairs or on labels.
    """
    loss = objectives.read(objective)
    curator = curating.extremes("score", min_gap=min_gap)
    if "pairs" not in needs(loss).forms:
        curator = curating.mismatched(curating.as_points(curator))  # type: ignore[assignment]
    follow_ups(None, utterances, kinds, read, turn=turn)  # the options are fine, or this says what is not
    if tune_scorer and demos is None:
        raise InputError("tune_scorer needs demos with feedback", remedy='give --data with a text "feedback" a row')
    if scorer:
        directory.find(scorer)
    reader, roles = run.policy(scorer) if scorer else policy, "user"
    if tune_scorer:
        said = run.curate(demos, played_user())  # type: ignore[arg-type]
        reader, roles = run.train(reader, said, objective=objectives.sft(), label="fine-tune the scorer"), "swapped"
    judge = follow_ups(reader, utterances, kinds, read, roles, turn)
    judged = run.judge(run.sample(policy, prompts, n=n, temperature=temperature), judge, role="view")
    policy = run.train(policy, run.curate(judged, curator), objective=loss)
    run.watch(policy)
    return policy


@claim(
    "flr",
    statement="A dialogue model whose users thank for flawless answers and name the defect of others, 4 times in 5: "
    "the follow-up reward puts a flawless response of its own above a flawed one in more than 75% of couples, and "
    "in more than the mean token log-likelihood does; where reactions are independent of the answer, in 40 to 60%. "
    "DPO on the pairs it picks gives more flawless answers than DPO on random pairs, in every seed.",
    baseline="mean log-likelihood of the response; DPO on as many random pairs",
    seeds=(0, 1, 2),
    holds=lambda f: (
        f["accuracy"].mean() > 0.75
        and f["accuracy"].mean() > f["likelihood_accuracy"].mean()
        and 0.4 <= f["indifferent_accuracy"].mean() <= 0.6
        and bool(np.all(f["flawless"] > f["random_flawless"]))
    ),
)
def what_users_say(lab: Lab, seed: int) -> Mapping[str, float]:
    """160 prompts with 6 samples each. The indifferent scorer reads the same samples."""
    world = lab.world("dialogues")
    run = lab.run("dialogues", seed, world=world, lr=5e-4, batch_size=32)
    start, test = lab.base(run, world), lab.prompts(run, world, 160, split="test")
    drawn = run.judge(run.sample(start, lab.prompts(run, world, 160), n=6), QUALITY)
    deaf = run.policy(dialogues.indifferent(Path(lab.worlds or lab.root / "worlds")))
    judges: Mapping[str, Judge] = {
        "accuracy": follow_ups(start, "short", name="score"),
        "likelihood_accuracy": Likelihood(start, name="score"),
        "indifferent_accuracy": follow_ups(deaf, "short", name="score"),
    }
    figures = {name: couples(run.judge(drawn, judge)) for name, judge in judges.items()}
    signals: Mapping[str, Judge] = {"": judges["accuracy"], "random_": Scored(at_random)}
    for name, judge in signals.items():
        pairs = run.curate(run.judge(drawn, judge), curating.extremes("score"))
        policy = run.train(start, pairs, objective=objectives.dpo(0.1))
        figures[f"{name}flawless"] = run.evaluate(policy, test, judge=QUALITY, n=2)["reward"]
    return figures


def flawless(slate: Slate) -> list[float]:
    """1 for a response without a defect."""
    return [float(dialogues.defect(slate, slate.response(i)) is None) for i in range(len(slate))]


def at_random(slate: Slate) -> list[float]:
    return [random.Random(seed_of("random", slate.id, i)).random() for i in range(len(slate))]


QUALITY = Scored(flawless, "quality")


def couples(judged: Slates) -> float:
    """How often the score puts a flawless response above a flawed one of the same prompt; a tie is half."""
    wins: list[float] = []
    for slate in judged:
        good, score = slate.column("quality"), slate.column("score")
        pairs = [(i, j) for i in range(len(slate)) for j in range(len(slate)) if good[i] > good[j]]
        wins += [(score[i] > score[j]) + 0.5 * (score[i] == score[j]) for i, j in pairs]
    return float(np.mean(wins))
