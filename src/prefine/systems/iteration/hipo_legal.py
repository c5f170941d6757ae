"""012 HIPO: hard-sample-aware iterative preference optimisation for legal answers. arXiv 2501.06521 (COLING 2025).

(Not Hierarchical PO, nor Hybrid IPO.) A law student first copies good answers, and is then shown again and again the
mistakes that still convince it:

    stage 1   L = - sum_t log pi(ans_t | x)                                              behaviour cloning
    stage 2   round t = 1..3: n answers of pi_{t-1} a problem, scored by NHSR (the share of citations that are real);
              hard problems are those that no answer solves, the others are dropped; the hard negative y- is the wrong
              answer with the largest mean token log-probability; chosen is the reference answer ans;
              L = -log sigma( beta [log-ratio(ans) - log-ratio(y-)] ) - alpha log pi(ans|x) / |ans|

Roles: current = pi_{t-1}, which samples and says how likely its answers are, is trained, and is the frozen training
reference of its round; judge = a check of citations against a database (``--judge citations:FILE``), or any other.

Settled here: the criterion of a hard problem is reconstructed. Its other reading, an implicit margin of at most 0, says
nothing at the start of a round, where policy and reference are one. n, beta and alpha are reconstructed. Released
figures sample at temperature 0.8, top-p 0.9; here the policy's own distribution is sampled unless told otherwise. The
other two metrics, statute relevance and the truth of claims, are judges too (``statute-relevance``, ``legal-truth``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.hard_negatives import hard_negatives
from prefine.evaluation import Yardstick, every_candidate
from prefine.judging.base import Judge, asked_as, spoken_by
from prefine.judging.citations import Citations
from prefine.judging.teachers import Likelihood
from prefine.run import Run
from prefine.slate import Candidate
from prefine.store import read_jsonl
from prefine.worlds.statutes import DATABASE


@system(
    12, "hipo-legal", "HIPO: fine-tuning language models for improving factuality in legal question answering",
    family="iteration", paper="arXiv 2501.06521", world="statutes", on_worlds={"lr": 5e-4},
    question="online", data="demos", learning="online", reference="moving", likelihood="guarded",
)  # fmt: skip
def hipo_legal(
    run: Run,
    policy: PolicyHandle,
    demos: Contrasts,
    judge: Judge,
    *,
    rounds: int = 3,
    n: int = 4,
    beta: float = 0.1,
    alpha: float = 1.0,
    solved: float = 1.0,
    temperature: float = 1.0,
    cloned: bool = False,
    select: Literal["hard", "random"] = "hard",
    at_most: tuple[int, ...] = (),
) -> PolicyHandle:
    """Imitate the reference answers, then contrast them with the likeliest wrong answer of unsolved problems.

    Use it where answers can be checked and reference answers are there, for facts that must be cited exactly. Not where
    a wrong score only means another opinion: the reference is always the chosen one.

    solved: score from which an answer is right. cloned: the policy given has learnt from the demos already.
    select: hard, or for comparison a random wrong answer of any problem. at_most: pairs in each round (default: all).
    """
    loss = objectives.regularised(beta, alpha, average=True)
    rule = hard_negatives("score", "likelihood", solved, select)
    current = policy if cloned else run.train(policy, demos, objective=objectives.sft(), label="behaviour cloning")
    prompts = run.slates(curating.prompts_of(demos), label="problems")
    for t in run.rounds(rounds):
        drawn = run.sample(current, prompts, n=n, temperature=temperature)
        judged = run.judge(drawn, spoken_by(judge, current), role=asked_as(judge, current))
        hard = sum(map(rule.is_hard, judged))
        values = [v for slate in judged for v in slate.column("score") if v is not None]
        run.note(hard_problems=hard, score=float(np.mean(values)) if values else 0.0)
        if not any(rule.is_hard(s) if select == "hard" else rule.wrong(s) for s in judged):
            run.progress.say("every problem is solved: nothing hard is left to learn from")
            break
        known = run.judge(judged, Likelihood(current, name="likelihood"), role="view")
        limit = at_most[t] if t < len(at_most) else None
        pairs = run.curate((known, demos), hard_negatives("score", "likelihood", solved, select, limit))
        current = run.train(current, pairs, objective=loss)
        run.watch(current)
    return current


@claim(
    "hipo-legal",
    statement="After behaviour cloning on a few reference answers, three rounds raise the NHSR of held-out questions "
    "in every round and lower the number of hard problems from the first round to the third (means over seeds), and "
    "end above three rounds with random wrong answers of any problem at the same number of pairs in each round.",
    baseline="random negatives, equal pairs",
    seeds=(0, 1, 2),
    holds=lambda f: (
        f["nhsr_0"].mean() < f["nhsr_1"].mean() < f["nhsr_2"].mean() < f["nhsr_3"].mean()
        and f["hard_0"].mean() > f["hard_2"].mean()
        and f["nhsr_3"].mean() > f["random_nhsr_3"].mean()
    ),
)
def hard_against_random(lab: Lab, seed: int) -> Mapping[str, float]:
    """320 problems with 4 answers a round. The random arm may use as many pairs as the other had hard problems."""
    world, nhsr = lab.world("statutes"), Citations(DATABASE, name="score")
    assert world.demonstrate is not None
    figures: dict[str, float] = {}
    pairs: tuple[int, ...] = ()
    arms: tuple[Literal["hard", "random"], ...] = ("hard", "random")
    for select in arms:
        with lab.run(select, seed, world=world, lr=3e-4, batch_size=16, epochs=4) as run:
            asked = lab.prompts(run, world, 320)
            answers = [replace(s, candidates=(Candidate(world.demonstrate(s, Random(seed))),)) for s in asked]
            demos = run.curate(run.slates(answers), every_candidate)
            start = run.train(lab.base(run, world), demos, objective=objectives.sft(), max_steps=3)
            run.yardstick = Yardstick(None, lab.prompts(run, world, 86, split="test"), nhsr, n=8)
            run.watch(start)
            hipo_legal(run, start, demos, nhsr, cloned=True, select=select, at_most=pairs)
            rates = [row["figures"]["reward"] for row in read_jsonl(run.dir / "evaluations.jsonl")]
            pairs = tuple(int(row["hard_problems"]) for row in read_jsonl(run.dir / "notes.jsonl"))
        arm = "" if select == "hard" else "random_"
        figures |= {f"{arm}nhsr_{t}": rate for t, rate in enumerate(rates)}
        figures |= {f"{arm}hard_{t}": float(count) for t, count in enumerate(pairs)}
    return figures
