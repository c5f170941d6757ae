"""080 SFT as implicit reward: implicit reward as the bridge between SFT and DPO. arXiv 2507.00018 (NeurIPS 2025).

Fitting demonstrations E with a KL to the base, min_pi D_f(pi || E) + beta KL(pi || pi_0), has the dual

    max_r E_E[ phi(r) ] - V(r),   phi(u) = -f*(-u),   whose inner optimum is pi = pi_0 exp(r/beta)/Z

so r = beta log pi/pi_0 + V, the rewards DPO learns among (where V cancels in the pair). On a demonstration, V = 0:

    L_f = -phi( beta l ),   l = log pi(y|x)/pi_0(y|x)

Total variation (phi(u) = u) is ordinary SFT: the KL term has become a constant and nothing holds the model. Remedies:
(a) a much smaller learning rate for SFT before DPO; (b) another f, where the term survives: Pearson (u - u^2/4) turns
its push round at beta l = 2, squared Hellinger (u/(1 + u)) lets it die down. What counts is the model after DPO.

The dual and the first three losses are the paper's; that V is 0 and l a token mean (which keeps beta l near one) is
settled here: l = 0 at the start, so with f'(1) = 0 every f begins as ordinary SFT does (``objectives.matching``).
With V at its own optimum instead, Pearson would be SFT plus a penalty on the variance of l over demonstrations, and
would no longer stop at beta l = 2. The reduced rates are as reported: one a model.

The paper also reads a language model's logits as Q-values after SFT: ``prefine.policies.q_values``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.evaluation import every_candidate
from prefine.policies.tabular import Tabular
from prefine.registry import positive
from prefine.run import Run
from prefine.slate import Candidate, Slate


@system(
    80, "sft-implicit-reward", "Implicit reward as the bridge: a unified view of SFT and DPO connections",
    family="objective", paper="arXiv 2507.00018",
    on_worlds={"lr": 1e-3, "epochs": 2, "sft_lr": 2e-4, "sft_epochs": 2.0},
    question="alignment-tax", data="demos, pairs", divergence="f-divergence", loss="likelihood, logistic",
)  # fmt: skip
def sft_implicit_reward(
    run: Run,
    policy: PolicyHandle,
    demos: Contrasts,
    pairs: Contrasts,
    *,
    divergence: Literal[
        "total-variation", "pearson", "hellinger", "jensen-shannon", "reverse-kl", "forward-kl"
    ] = "total-variation",
    sft_lr: float = 5e-6,
    sft_epochs: float = 1.0,
    sft_beta: float = 1.0,
    mean: bool = True,
    beta: float = 0.1,
) -> PolicyHandle:
    """A careful supervised stage, then DPO from what it gives.

    Use it when a base model needs demonstrations before preferences: with a rate well below the usual, or a loss
    that holds it, more is left for DPO to shape. Not when there will be no preference stage: compared after SFT
    alone, it looks undertrained.

    divergence: "total-variation" is ordinary SFT (times sft_beta); the others hold the model to its base.
    sft_lr: of the supervised stage; 5e-6 (Llama-3-8B) or 1e-6 (Mistral-7B) where 2e-5 is usual.
    sft_beta: 0.1 to 1; a larger one stops nearer to the base. mean: token means, else whole responses.
    beta: of DPO, whose learning rate is --lr.
    """
    positive(sft_lr=sft_lr, beta=beta)
    supervised = objectives.matching(divergence, sft_beta, mean)
    tuned = run.train(policy, demos, objective=supervised, lr=sft_lr, epochs=sft_epochs, label="supervised stage")
    run.watch(tuned)
    return run.train(tuned, pairs, objective=objectives.dpo(beta))


@claim(
    "sft-implicit-reward",
    statement="On a 50-way softmax with 3 demonstrated responses ordinary SFT ends at 1/3 each and the Pearson loss "
    "stops at base exp(2/beta): 0.1478 each with beta 1 and 0.0544 with beta 2, within 0.005. On a language model, "
    "SFT at a tenth of the rate before the same DPO ends at less than half the KL to the base, with at least the "
    "gold reward (means over seeds).",
    baseline="sft at the full rate, then dpo",
    holds=lambda f: (
        bool(np.all(abs(f["sft_share"] - 1 / 3) < 0.005))
        and bool(np.all(abs(f["pearson_1_share"] - 0.02 * np.e**2) < 0.005))
        and bool(np.all(abs(f["pearson_2_share"] - 0.02 * np.e) < 0.005))
        and f["reduced_kl"].mean() < 0.5 * f["full_kl"].mean()
        and f["reduced_gold"].mean() >= f["full_gold"].mean()
    ),
)
def before_dpo(lab: Lab, seed: int) -> Mapping[str, float]:
    """The softmax exactly; then demonstrations from a narrow slice (one kind of question) on the assistant world."""
    figures = on_three_of_fifty(lab, seed)
    world = lab.world("assistant")
    run = lab.run("stages", seed, world=world, lr=5e-4, batch_size=32, epochs=2)
    base = lab.base(run, world)
    assert world.demonstrate is not None
    prompts, held_out = lab.prompts(run, world, 256), lab.prompts(run, world, 128, split="test")
    rng = np.random.default_rng(seed)
    narrow = [s for s in prompts if s.meta["kind"] == "chore"]
    shown = [
        Slate(s.prompt, (Candidate(world.demonstrate(s, random.Random(int(rng.integers(2**31))))),), {}, s.meta)
        for s in narrow
    ]
    demos = run.curate(run.slates(shown), every_candidate)
    pairs = run.curate(run.judge(run.sample(base, prompts, n=4), world.annotators["perfect"]), curating.extremes())
    for name, lr in {"full": 2e-3, "reduced": 2e-4}.items():
        tuned = run.train(base, demos, objective=objectives.matching("total-variation"), lr=lr, epochs=6)
        final = run.train(tuned, pairs, objective=objectives.dpo(0.1))
        found = run.evaluate(final, held_out, judge=world.gold, start=base, n=2)
        figures[f"{name}_kl"], figures[f"{name}_gold"] = found["kl"], found["reward"]
    return figures


def on_three_of_fifty(lab: Lab, seed: int) -> dict[str, float]:
    """The share of one demonstrated response after long training, whole-response log-ratios."""
    run = lab.run("softmax", seed, lr=0.05, schedule="constant", warmup=0.0, clip=None, batch_size=3, max_steps=600)
    names = [str(i) for i in range(50)]
    picked = np.random.default_rng(seed).choice(50, size=3, replace=False)
    Tabular.uniform(["x"], names).save(run.dir / "uniform")
    base = run.policy(run.dir / "uniform")
    demos = run.curate(
        run.slates(Slate("x", (Candidate(str(i)),), meta={"id": str(i)}) for i in picked), every_candidate
    )
    arms = {
        "sft": objectives.matching("total-variation", mean=False),
        "pearson_1": objectives.matching("pearson", 1.0, mean=False),
        "pearson_2": objectives.matching("pearson", 2.0, mean=False),
    }
    trained = {name: run.train(base, demos, objective=objective).load() for name, objective in arms.items()}
    return {
        f"{name}_share": float(table.probabilities("x")[int(picked[0])])  # type: ignore[attr-defined]
        for name, table in trained.items()
    }
