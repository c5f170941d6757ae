"""013 Temporal self-rewarding: chosen from the future, rejected from the past. arXiv 2508.06026.

Self-rewarding stalls because chosen and rejected come from the same improving model and grow alike. Each round,
with everything scored by the current model M_i:

    past     rejected = the worst of M_0's responses if it scores below the worst of M_i's, else M_i's worst;
             chosen = M_i's best.  M_f = DPO(M_i) on these pairs
    future   chosen = the best of M_f's responses if it scores above the best of M_i's, else M_i's best;
             rejected as before.   M_{i+1} = DPO(M_i) on these pairs, and M_f is thrown away

A pair is used only when its chosen scores above its rejected. DPO with token sums, started from and referred to
M_i both times. M_0, the policy given, should answer and grade already (the paper's is fine-tuned on 5,000
instructions and 1,871 graded examples: ``prefine run sft`` first). The scale of the self-judgement (0 to 5) and
the optimiser's constants are reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.fingerprint import seed_of
from prefine.judging.base import Judge, Scored, asked_as, spoken_by
from prefine.run import Run
from prefine.slate import Contrast, Slate
from prefine.store import read_jsonl


@system(
    13, "temporal-sr", "Temporal self-rewarding language models: decoupling chosen-rejected via past-future",
    family="iteration", paper="arXiv 2508.06026", on_worlds={"lr": 1e-3},
    question="online", learning="online", reference="moving",
)  # fmt: skip
def temporal_sr(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    *,
    rounds: int = 2,
    n: int = 7,
    beta: float = 0.1,
    temperature: float = 1.0,
    past: bool = True,
    future: bool = True,
) -> PolicyHandle:
    """Self-rewarding whose pairs stay apart: rejected by the first model, chosen by a model one step ahead.

    Use it when iterative training on a judge's best and worst stalls because the pairs become alike. With
    ``--judge self`` the current model grades by prompt, as in the paper, which asks nobody for a label; any other
    judge works too.

    past, future: switch either half off, for ablation (both off: plain self-rewarding).
    """
    start = current = policy
    dpo = objectives.dpo(beta)
    for t in run.rounds(rounds):
        part, grade = run.slice(prompts, t, rounds), spoken_by(judge, current)
        role = asked_as(judge, current)
        slates = run.sample(current, part, n=n, temperature=temperature, role="current")
        if past:
            slates = run.sample(start, slates, n=n, temperature=temperature, role="past")
        judged = run.judge(slates, grade, role=role)
        pairs = run.curate(judged, curating.temporal_past())
        ahead = run.train(current, pairs, objective=dpo)
        if future:
            answers = run.sample(ahead, part, n=n, temperature=temperature, role="future")
            judged = run.combine(judged, run.judge(answers, grade, role=role))
            pairs = run.curate(judged, curating.temporal_future())
            ahead = run.train(current, pairs, objective=dpo)
        run.note(score_gap=float(np.mean([gap(pair) for pair in pairs])))
        current = ahead
        run.watch(current)
    return current


def gap(pair: Contrast) -> float:
    """What the judge sees between chosen and rejected."""
    scores = pair.slate.column("score")
    return float(scores[pair.members[0]] - scores[pair.members[1]])


@claim(
    "temporal-sr",
    statement="At an equal number of DPO runs (4 plain rounds, 2 temporal rounds) with the same noisy judge, the last "
    "round's score gap between chosen and rejected is at least 2 times that of plain self-rewarding, the gradient "
    "norm at the start of that round is larger, and the final gold reward is higher; without the past half most of "
    "the gain in the gap is lost.",
    baseline="plain self-rewarding (past and future off)",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        f["gap_temporal"].mean() >= 2 * f["gap_plain"].mean()
        and f["grad_temporal"].mean() > f["grad_plain"].mean()
        and f["gold_temporal"].mean() > f["gold_plain"].mean()
        and f["gap_future_only"].mean() < f["gap_past_only"].mean()
    ),
)
def against_plain(lab: Lab, seed: int) -> Mapping[str, float]:
    """480 prompts in all; the judge is gold plus noise, fixed for a text."""
    world = lab.world("assistant")
    arms = {
        "plain": {"rounds": 4, "past": False, "future": False},
        "temporal": {"rounds": 2},
        "past_only": {"rounds": 2, "future": False},
        "future_only": {"rounds": 2, "past": False},
    }
    figures = {}
    for name, options in arms.items():
        with lab.run(name, seed, world=world, lr=5e-4, batch_size=32) as run:
            judge = noisy(world.gold)
            base, prompts = lab.base(run, world), lab.prompts(run, world, 480)
            policy = temporal_sr(run, base, prompts, judge, n=5, **options)  # type: ignore[arg-type]
            test = lab.prompts(run, world, 128, split="test")
            figures[f"gold_{name}"] = run.evaluate(policy, test, judge=world.gold, n=2)["reward"]
            figures[f"gap_{name}"] = read_jsonl(run.dir / "notes.jsonl")[-1]["score_gap"]
            rows = [r for r in read_jsonl(run.dir / "metrics.jsonl") if r["step"] == 1]
            figures[f"grad_{name}"] = rows[-1]["grad_norm"]
    return figures


def noisy(gold: Judge) -> Judge:
    """Gold plus N(0, 0.1), the same for the same text: a self-score that errs."""

    def scored(slate: Slate) -> list[float]:
        known = next(iter(gold([slate])[0].values())).values
        return [
            float(v) + 0.1 * float(np.random.default_rng(seed_of(slate.id, slate.response(i))).normal())
            for i, v in enumerate(known)
        ]

    return Scored(scored)
