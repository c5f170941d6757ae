"""051 IPO (implicit): your language model is secretly a preference classifier. arXiv 2502.16182 (ACL 2025).

(Not the squared loss of 114, also called IPO.) The policy is asked of each of its answers whether it is good, and the
share of "yes" at the next token is the score; best and worst of m answers make a DPO pair:

    s(x, y) = P(yes | q_c, x, y) / (P(yes | ...) + P(no | ...)),     q_c: a question for the category c of x
    y_w = argmax s,  y_l = argmin s;     L = -log sigma( beta h ),  reference = the model at the start

Nothing is generated to judge, so no verdict is unreadable, and scores hardly ever tie, where those of a rubric of
whole points do. Roles: the current policy is sampler and judge; the start is the reference.

The release adds up the probabilities of every token that " Yes" splits into, also where the first piece is shared with
" No"; here the whole word counts. It cuts long questions at their end, losing what is judged; here they lose the
beginning of the prompt. A tie counts as wrong in the judge's accuracy, as there. Our questions say the same in other
words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge, spoken_by
from prefine.judging.classifier import FORM, NO, YES
from prefine.run import Run
from prefine.store import read_jsonl
from prefine.worlds import spelling


@system(
    51, "ipo-implicit", "IPO: your language model is secretly a preference classifier", family="data",
    paper="arXiv 2502.16182", question="feedback", learning="online",
    world="spelling", on_worlds={"lr": 1e-3, "temperature": 1.0},
    by_world={"spelling": {"question": spelling.JUDGE, "yes": (" Yes",), "no": (" No",)}},
)  # fmt: skip
def ipo_implicit(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    pairs: Contrasts | None = None,
    *,
    n: int = 4,
    beta: float = 0.1,
    temperature: float = 0.7,
    rounds: int = 1,
    question: str = "",
    search: tuple[str, ...] = (),
    yes: tuple[str, ...] = YES,
    no: tuple[str, ...] = NO,
    sort: bool = False,
    steps: int = 0,
) -> PolicyHandle:
    """Let the policy say yes or no to its own answers, and train on the best and the worst of each prompt.

    Use it with a model that follows instructions, where there is no reward model and no labels. Not with one that
    says yes to everything: give some labelled pairs too, whose accuracy under the judge is then in the report.

    question: one for all prompts, with {prompt} and {response}; else one a category, which is a column "category" of
    the prompts (chat, code, math, safety). search: opening sentences of questions to choose from by their accuracy on
    the pairs. yes, no: spellings of the two words. sort: ask the model for the category where there is none.
    steps: 0, or whole points as in self-rewarding (for comparison).
    """
    asks = {"": judging.classifier(None, question, yes, no, sort=sort)}
    asks |= {ask: judging.classifier(None, FORM.format(ask=ask), yes, no) for ask in search}
    best = "" if pairs is None else asked_best(run, policy, asks, pairs)
    judge: Judge = judging.stepped(asks[best], steps) if steps else asks[best]
    start = policy
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature)
        lessons = run.curate(run.judge(slates, spoken_by(judge, policy), role="view"), curating.extremes("score"))
        run.note(usable=len(lessons) / len(slates))
        policy = run.train(policy, lessons, objective=objectives.dpo(beta), reference=start)
        run.watch(policy)
    return policy


def asked_best(run: Run, policy: PolicyHandle, asks: Mapping[str, Judge], pairs: Contrasts) -> str:
    """The question whose answers rank most of the pairs strictly right (the first of equals)."""
    two = run.slates(judging.two_sided(pairs), label="labelled pairs")
    found = {
        ask: judging.agreement(run.judge(two, spoken_by(judge, policy), role="view")) for ask, judge in asks.items()
    }
    best = max(found, key=lambda ask: found[ask]["accuracy"])
    run.note(**{f"judge_{name}": value for name, value in found[best].items()})
    return best


@claim(
    "ipo-implicit",
    statement="A small model that has read answers and questions about answers ranks its own answers by the share of "
    "yes with an accuracy above 0.65 (strict, against gold); DPO on its pairs raises the gold reward over the start, "
    "by at least 70% of what gold labels give, in every seed; in points of 1 to 5, ties lose at least a tenth of the "
    "prompts, and the gold reward is lower in the mean.",
    baseline="self-rewarding: the same score in whole points; and the same pipeline with gold labels",
    holds=lambda f: (
        f["accuracy"].min() > 0.65
        and bool(np.all(f["yes"] - f["start"] >= 0.7 * (f["gold"] - f["start"])))
        and f["yes"].min() > f["start"].max()
        and f["usable_points"].max() <= 0.9 * f["usable_yes"].min()
        and f["points"].mean() < f["yes"].mean()
    ),
)
def against_gold_and_points(lab: Lab, seed: int) -> Mapping[str, float]:
    """400 prompts with 2 answers each, where a tie costs the prompt; the same samples for all arms."""
    world = spelling.WORLD
    run = lab.run("judged", seed, world=world, lr=3e-4, batch_size=16)
    start, prompts = lab.base(run, world), lab.prompts(run, world, 400)
    test = lab.prompts(run, world, 96, split="test")
    options: dict[str, Any] = {"question": spelling.JUDGE, "yes": (" Yes",), "no": (" No",), "temperature": 1.0}

    def gold(policy: PolicyHandle) -> float:
        return run.evaluate(policy, test, judge=world.gold, n=4)["reward"]

    for _ in run.rounds(1):
        drawn = run.judge(run.sample(start, prompts, n=2, temperature=1.0), world.gold)
    judged = run.judge(drawn, spoken_by(judging.classifier(None, spelling.JUDGE, " Yes", " No"), start))
    couples = [
        (slate.column("score")[i], slate.column("score")[j])
        for slate in judged
        for i, j in ((0, 1), (1, 0))
        if slate.column("gold")[i] > slate.column("gold")[j]
    ]
    figures = {"start": gold(start), "accuracy": float(np.mean([a > b for a, b in couples]))}
    labelled = run.curate(drawn, curating.extremes("gold"))
    figures["gold"] = gold(run.train(start, labelled, objective=objectives.dpo(0.1)))
    for name, steps in {"yes": 0, "points": 5}.items():
        figures[name] = gold(ipo_implicit(run, start, prompts, n=2, steps=steps, **options))
        figures[f"usable_{name}"] = read_jsonl(run.dir / "notes.jsonl")[-1]["usable"]
    return figures
