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
from prefine.run import Run


@system(
    70, "orpo", "ORPO: monolithic preference optimization without reference model",
    family="objective", paper="arXiv 2403.07691", on_worlds={"lr": 1e-3, "epochs": 3, "lam": 1.0},
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
    statement="From the same base and pairs, ORPO ends with the mean token log-probability of held-out rejected "
    "responses at least 0.3 nat below SFT's, in every seed, with a held-out ranking accuracy above SFT's.",
    baseline="sft",
    holds=lambda f: (
        bool(np.all(f["sft_rejected"] - f["orpo_rejected"] > 0.3))
        and f["orpo_accuracy"].mean() > f["sft_accuracy"].mean()
    ),
)
def against_sft(lab: Lab, seed: int) -> Mapping[str, float]:
    """Chosen and rejected token means of held-out pairs after equal training."""
    run = lab.run("pairs", seed, lr=1e-3, batch_size=16, epochs=6)
    world = lab.world("assistant")
    base = lab.base(run, world)

    def pairs_of(split: str, n: int) -> Contrasts:
        slates = run.sample(base, lab.prompts(run, world, n, split=split), n=4, max_tokens=world.max_tokens)
        return run.curate(run.judge(slates, world.annotators["perfect"]), curating.extremes("score"))

    train, test = pairs_of("train", 256), pairs_of("test", 128)
    figures = {}
    arms = {"sft": objectives.sft(), "orpo": objectives.orpo(1.0, prompt_in_nll=False)}
    for name, objective in arms.items():
        logps = run.logps(run.train(base, train, objective=objective), test)
        means = np.asarray([[row.mean() for row in contrast] for contrast in logps])
        figures[f"{name}_chosen"], figures[f"{name}_rejected"] = (float(x) for x in means.mean(0))
        figures[f"{name}_accuracy"] = float((means[:, 0] > means[:, 1]).mean())
    return figures
