"""070 ORPO: supervised fine-tuning with an odds-ratio penalty. arXiv 2403.07691 (EMNLP 2024).

With P(y) = exp( log pi(y|x)/|y| ) and odds = P/(1 - P):

    L = NLL(y_w) - lam log sigma( log odds(y_w) - log odds(y_l) )

The NLL is a token mean over the batch; the prompt's tokens count in it, as in the released code
(``prompt_in_nll=False`` leaves them out). Nothing is detached and there is no reference.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.objectives import Objective
from prefine.run import Run


@system(
    70, "orpo", "ORPO: monolithic preference optimization without reference model",
    family="objective", paper="arXiv 2403.07691", on_worlds={"lr": 1e-3, "epochs": 3, "lam": 1.0},
    question="reference", reference="none", divergence="none", loss="likelihood", length="normalised",
    likelihood="guarded",
)  # fmt: skip
def orpo(
    run: Run, policy: PolicyHandle, pairs: Contrasts, *, lam: float = 0.1, prompt_in_nll: bool = True
) -> PolicyHandle:
    """One stage from the base model: imitate the chosen response, penalise the rejected one's odds.

    Use it to go from a base model to an aligned one in one pass over pairs. Not on a model that is already
    fine-tuned, where the likelihood term pulls it back to the chosen responses.

    lam: weight of the odds-ratio term (0.1 Mistral, 0.25 Phi-2 in the paper).
    """
    return run.train(policy, pairs, objective=objectives.orpo(lam, prompt_in_nll))


@claim(
    "orpo",
    statement="From the same base and pairs, after 300 steps, ORPO ends with the mean token log-probability of the "
    "rejected responses at least 0.3 nat below SFT's while that of the chosen ones stays within 0.1, in every seed; "
    "held-out ranking accuracy is above SFT's.",
    baseline="sft",
    holds=lambda f: (
        bool(np.all(f["sft_rejected"] - f["orpo_rejected"] > 0.3))
        and bool(np.all(abs(f["sft_chosen"] - f["orpo_chosen"]) < 0.1))
        and f["orpo_accuracy"].mean() > f["sft_accuracy"].mean()
    ),
)
def against_sft(lab: Lab, seed: int) -> Mapping[str, float]:
    """About 200 pairs, as in the sheet: token means on the pairs trained on, ranking on held-out ones."""
    world = lab.world("assistant")
    run = lab.run("pairs", seed, world=world, lr=1e-3, batch_size=16, max_steps=300)
    base = lab.base(run, world)

    def pairs_of(split: str, n: int) -> Contrasts:
        slates = run.sample(base, lab.prompts(run, world, n, split=split), n=4)
        return run.curate(run.judge(slates, world.annotators["perfect"]), curating.extremes("score"))

    def means(policy: PolicyHandle, pairs: Contrasts) -> np.ndarray:
        return np.asarray([[row.mean() for row in contrast] for contrast in run.logps(policy, pairs)])

    train, test = pairs_of("train", 200), pairs_of("test", 128)
    figures = {}
    arms: dict[str, Objective] = {"sft": objectives.sft(), "orpo": objectives.orpo(1.0, prompt_in_nll=False)}
    for name, objective in arms.items():
        policy = run.train(base, train, objective=objective)
        figures[f"{name}_chosen"], figures[f"{name}_rejected"] = (float(x) for x in means(policy, train).mean(0))
        ranked = means(policy, test)
        figures[f"{name}_accuracy"] = float((ranked[:, 0] > ranked[:, 1]).mean())
    return figures
