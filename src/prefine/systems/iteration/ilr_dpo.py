"""016 iLR-DPO: iterative length-regularised DPO. arXiv 2406.11817.

Online DPO with a judge makes answers better and longer. Length becomes a second objective with weight -alpha:
the optimum of E[r - alpha |y|] - beta KL is pi* ~ ref exp((r - alpha |y|)/beta), so the Bradley-Terry likelihood
of a label has the margin beta h + alpha (|y_w| - |y_l|):

    L = -log sigma( beta h + alpha (|y_w| - |y_l|) ),   |y| in tokens with the end token, token sums

A longer winner already has a margin, so it earns less gradient. (Sign derived; the tests hold it to the closed
form above, which the other sign fails. alpha and beta of the paper are reconstructed; on a known judge take
alpha equal to its slope in length.) alpha = 0 is iterative DPO.
"""

from __future__ import annotations

from collections.abc import Mapping

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.annotators import BradleyTerry
from prefine.judging.base import Judge, Scored
from prefine.run import Run
from prefine.worlds.quality import Quality


@system(
    16, "ilr-dpo", "iLR-DPO: iterative length-regularized direct preference optimization",
    family="iteration", paper="arXiv 2406.11817", on_worlds={"lr": 1e-3, "n": 4},
    question="reward-hacking", learning="online", reference="moving", length="penalised",
)  # fmt: skip
def ilr_dpo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    *,
    rounds: int = 3,
    n: int = 2,
    beta: float = 0.1,
    alpha: float = 0.02,
) -> PolicyHandle:
    """Iterative DPO with a length term in the margin, so that answers get better and not longer.

    Use it when the judge likes long answers (most do). Not when longer answers are what you want.

    alpha: reward a token is worth to the biased judge; 0 is plain iterative DPO.
    """
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(prompts, t, rounds), n=n)
        pairs = run.curate(run.judge(slates, judge), curating.extremes("score"))
        policy = run.train(policy, pairs, objective=objectives.length_regularised(beta, alpha))
        run.watch(policy)
    return policy


@claim(
    "ilr-dpo",
    statement="With a judge that pays for length, 3 rounds of plain iterative DPO lengthen answers by more than 20%, "
    "iLR-DPO keeps the length within 5% of the start, at a gold reward not measurably lower (two standard errors).",
    baseline="iterative DPO (alpha = 0)",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        f["plain_length"].mean() > 1.2 * f["start_length"].mean()
        and abs(f["ilr_length"].mean() / f["start_length"].mean() - 1) < 0.05
        and (loss := f["plain_gold"] - f["ilr_gold"]).mean() <= 2 * loss.std(ddof=1) / len(loss) ** 0.5
    ),
)
def length_under_a_biased_judge(lab: Lab, seed: int) -> Mapping[str, float]:
    """Bradley-Terry labels of quality + 0.05 a token, so alpha is the judge's slope in length, 0.05.

    Quality, the gold reward here, is what the world's users like apart from brevity: on samples of the base it
    hardly depends on length (the world's own gold pays for being concise).
    """
    world = lab.world("assistant")
    gold = Scored(Quality(world.attributes), "gold")
    judge = BradleyTerry(Scored(Quality(world.attributes, price=0.05)), scale=1.0, sampled=True, seed=seed)
    figures: dict[str, float] = {}
    for name, alpha in {"plain": 0.0, "ilr": 0.05}.items():
        run = lab.run("arms", seed, world=world, lr=5e-4, batch_size=32, epochs=2)
        base = lab.base(run, world)
        held_out = lab.prompts(run, world, 128, split="test")
        if not figures:
            start = run.evaluate(base, held_out, judge=gold, n=4)
            figures |= {"start_length": start["length"], "start_gold": start["reward"]}
        policy = ilr_dpo(run, base, lab.prompts(run, world, 600), judge, rounds=3, n=2, alpha=alpha)
        end = run.evaluate(policy, held_out, judge=gold, n=4)
        figures |= {f"{name}_length": end["length"], f"{name}_gold": end["reward"]}
    return figures
