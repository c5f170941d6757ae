"""069 ScPO: self-consistency preference optimisation. arXiv 2411.04109 (ICML 2025).

Votes instead of gold answers: V(y) = how many of k samples end in the same final answer as y. A response with
the most votes is preferred to one with the fewest, a prompt is kept when V(y+) >= tau k, and each pair weighs
w = (V(y+) - V(y-))/k, a constant:

    L = w [ -log sigma( beta h ) - alpha log pi(y+|x)/|y+| ]

h with token sums against the round's start; only the likelihood term is divided by the length. w = 1 is IRPO's
loss, w = 0 gives no gradient. Where a prompt has a gold answer (``use_answers``, the semi-supervised form) y+ is
right, y- wrong and w = 1, and both kinds of pairs are learnt from together.

From the second round on extra samples at a higher temperature look for rejected answers (they neither vote nor
are chosen), and tau grows. The model also writes new problems, kept only when its own votes on them are
concentrated enough. Temperature 0.7 and top-p 0.9 of the voters are reconstructed. The paper trains up to 10
epochs and keeps the checkpoint of highest held-out consistency; here ``--epochs`` says how long.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.objectives import Objective
from prefine.run import Run
from prefine.sampling import new_problems


@system(
    69, "scpo", "ScPO: self-consistency preference optimization", family="reasoning", paper="arXiv 2411.04109",
    world="arithmetic", on_worlds={"lr": 1e-3, "self_instruct": 0.5, "temperature": 1.0, "top_p": 1.0},
    question="online", data="rewards", learning="online", reference="moving", likelihood="guarded",
)  # fmt: skip
def scpo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    *,
    rounds: int = 2,
    n: int = 8,
    tau: tuple[float, ...] = (0.5, 0.7),
    beta: float = 0.5,
    alpha: float = 1.0,
    temperature: float = 0.7,
    top_p: float = 0.9,
    extra: int = 8,
    extra_temperature: float = 1.2,
    self_instruct: float = 0.0,
    answer: str = "auto",
    use_answers: bool = False,
) -> PolicyHandle:
    """Prefer what the model itself mostly answers to what it rarely does; no gold answers, no judge.

    Use it on problems with short final answers when the majority is right more often than a single sample.
    Not where the model is systematically wrong: the majority is then amplified too.

    tau: share of votes the winner needs, by round. extra: further samples from round 2 on, for rejected
    answers. self_instruct: new problems written by the model, as a share of the prompts.
    answer: how a final answer is found in a response (see judging.final_answer).
    use_answers: semi-supervised; prompts that have a gold answer give right-against-wrong pairs of weight 1.
    """
    vote = judging.votes(answer, voters="voter")
    for t in run.rounds(rounds):
        keep = tau[min(t, len(tau) - 1)]
        problems = prompts
        if self_instruct:
            written = run.bare(new_problems(run, policy, prompts, count=int(self_instruct * len(prompts))))
            trial = run.judge(
                run.sample(policy, written, n=n, temperature=temperature, top_p=top_p, role="voter"), vote
            )
            problems = run.join(prompts, run.bare(run.slates(curating.concentrated(keep)(trial))))
        slates = run.sample(policy, problems, n=n, temperature=temperature, top_p=top_p, role="voter")
        if t > 0 and extra:
            slates = run.sample(policy, slates, n=extra, temperature=extra_temperature, role="extra")
        judged = run.judge(slates, vote)
        curator: curating.Curator = curating.vote_pairs(keep, voters="voter")
        if use_answers:
            judged, curator = run.judge(judged, judging.verifier(answer)), curating.checked_else(curator)
        policy = run.train(policy, run.curate(judged, curator), objective=objectives.scpo(beta, alpha))
        run.watch(policy)
    return policy


@claim(
    "scpo",
    statement="Without gold answers, greedy accuracy rises from round to round (M_0 < M_1 <= M_2, over seeds); votes "
    "and correctness correlate positively in every seed; the weighted loss is on average at least as good as the "
    "unweighted one. (The same loop with gold answers is reported beside it.)",
    baseline="the base policy, and the unweighted loss",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        f["accuracy_0"].mean() < f["accuracy_1"].mean() <= f["accuracy_2"].mean()
        and bool(np.all(f["vote_correlation"] > 0))
        and f["accuracy_2"].mean() >= f["accuracy_unweighted"].mean()
    ),
)
def without_gold(lab: Lab, seed: int) -> Mapping[str, float]:
    """400 problems, 8 votes each; accuracy on 200 held-out problems.

    At temperature 1: at 0.7 this small model's samples hardly differ, and where they do the majority is mostly wrong.
    The paper's closeness to gold answers is not claimed: a checked loop also learns the form of the answer here.
    """
    world = lab.world("arithmetic")
    verifier = world.verifier
    assert verifier is not None
    with lab.run("votes", seed, world=world, lr=1e-3, batch_size=16) as run:
        base, prompts = lab.base(run, world), lab.prompts(run, world, 400)
        test = lab.prompts(run, world, 200, split="test")

        def accuracy(policy: PolicyHandle) -> float:
            greedy = run.judge(run.sample(policy, test, temperature=0.0, role="evaluation"), verifier)
            return float(np.mean([v == 1 for s in greedy for v in s.column("verified")]))

        def loop(kind: str) -> list[PolicyHandle]:
            """The recipe's two rounds, or the same with gold answers, or without weights."""
            policy, reached = base, []
            for t in run.rounds(2):
                slates = run.sample(policy, prompts, n=8, temperature=1.0, role="voter")
                if kind == "gold":
                    pairs = run.curate(run.judge(slates, verifier), curating.correct_pairs())
                    objective: Objective = objectives.regularised(0.5, 1.0, average=True)
                else:
                    pairs = run.curate(run.judge(slates, judging.votes()), curating.vote_pairs((0.5, 0.7)[t]))
                    weighted = kind == "weighted"
                    objective = (
                        objectives.scpo(0.5, 1.0) if weighted else objectives.regularised(0.5, 1.0, average=True)
                    )
                policy = run.train(policy, pairs, objective=objective)
                reached.append(policy)
            return reached

        first, second = loop("weighted")
        voted = run.judge(run.sample(base, prompts, n=8, temperature=1.0, role="voter"), judging.votes())
        both = [
            (votes, verdict == 1)
            for s in run.judge(voted, verifier)
            for votes, verdict in zip(s.column("votes"), s.column("verified"), strict=True)
        ]
        return {
            "accuracy_0": accuracy(base),
            "accuracy_1": accuracy(first),
            "accuracy_2": accuracy(second),
            "accuracy_gold": accuracy(loop("gold")[-1]),
            "accuracy_unweighted": accuracy(loop("unweighted")[-1]),
            "vote_correlation": float(np.corrcoef(np.asarray(both, dtype=float).T)[0, 1]),
        }
