"""155 SCIR: a self-rewarding model whose internal rewards are made to agree. arXiv 2502.08922.

A model that is its own judge has at least two rewards inside: what its likelihoods say against an earlier model (the
implicit reward) and what it answers when asked. They often disagree. In every step, on unlabelled pairs of its own,

    P_0 = sigma( beta [log-ratio(y_1) - log-ratio(y_2)] ),   P_j = p(A)/(p(A) + p(B)), the mean over both orders
    L   = c * L_DPO( the side they are all on ) + lam * ( symmetric KL of every couple of P + w_H mean entropy )

c = 1 where all are on one side of 1/2; sides and c are those of the model as it is at this step. Gradients of the
penalty go into both judges, which are the same network.

Roles: the current model speaks and judges; DPO's reference is the current model at the start of the round; the implicit
reward is scored against the first model throughout (against the round's start it would be 1/2 for every pair).

The paper's seed model is fine-tuned on answers and on judgements. Here ``pairs`` make one: their verdicts are imitated,
then DPO on them gives the implicit reward. Without pairs, and with a model that was not trained by DPO from another
(``trained_from``), the implicit reward starts at 1/2: only the penalty teaches, until it has taken a side. Penalty,
weights and question are reconstructed; positions in the question never favour one, each is asked in both orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.registry import at_least
from prefine.run import Run
from prefine.worlds.two_judges import TwoJudges


@system(
    155, "scir", "Self-consistency of the internal reward models improves self-rewarding language models",
    family="iteration", paper="arXiv 2502.08922", on_worlds={"lr": 1e-3, "n": 4},
    question="online", learning="online", reference="moving, several", loss="logistic, divergence",
)  # fmt: skip
def scir(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    pairs: Contrasts | None = None,
    *,
    rounds: int = 2,
    n: int = 4,
    beta: float = 0.1,
    lam: float = 0.5,
    entropy: float = 0.1,
    margin: float = 0.0,
    label_by: Literal["all", "implicit", "generative"] = "all",
    temperature: float = 1.0,
    trained_from: str = "",
) -> PolicyHandle:
    """Rounds of DPO on own pairs that the model's two ways of judging agree on, while they learn to agree.

    Use it in place of plain self-rewarding, where the model's verdicts and its likelihoods both know something and err
    apart. Not where they have the same errors: agreement then says nothing.

    lam: of the penalty on disagreement; entropy: of doubt in it. margin: how far from 1/2 a verdict must be to count.
    label_by: "implicit" or "generative" alone gives labels (with lam = 0 that is DICE or self-rewarding).
    trained_from: directory of the model that the given one was DPO-trained from.
    """
    at_least(2, n=n)
    first = run.policy(trained_from) if trained_from else policy
    if pairs is not None and not trained_from:
        lessons = run.curate(pairs, curating.verdict_lessons())
        first = policy = run.train(policy, lessons, objective=objectives.sft(), label="seed: imitate verdicts")
        policy = run.train(policy, pairs, objective=objectives.dpo(beta), label="seed: DPO")
    objective = objectives.scir(beta, lam, entropy, margin, label_by)
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=temperature)
        lessons = run.curate(slates, curating.internal_pairs())
        policy = run.train(policy, lessons, objective=objective, reference={"reference": policy, "scoring": first})
        run.watch(policy)
    return policy


SINGLE: tuple[str, ...] = ("implicit", "generative")


@claim(
    "scir",
    statement="From two judges in one model that are each right on about 70% of held-out pairs and err apart: over two "
    "rounds their agreement rises by at least 10 points; the pairs they agree on at first are labelled better "
    "than by either; and the policy's gold reward ends above that of either judge's labels alone, on the mean and on "
    "most seeds. With the same errors there is nothing to gain: agreed pairs are labelled no better.",
    baseline="the same rounds of DPO with the labels of one judge (DICE, self-rewarding), equal samples and steps",
    seeds=tuple(range(16)),
    holds=lambda f: bool(
        (f["agreement_end"] - f["agreement_start"]).mean() >= 0.1
        and all((f["agreed_start"] > f[f"{judge}_start"]).all() for judge in ("implicit", "generative"))
        and all((g := f["gold_scir"] - f[f"gold_{one}"]).mean() > 0 and (g > 0).mean() > 0.5 for one in SINGLE)
        and (f["control"] <= 0).all()
    ),
)
def two_that_err_apart(lab: Lab, seed: int) -> Mapping[str, float]:
    """160 prompts with 4 samples, 20 plain gradient steps a round; gold is exact, on 40 other prompts."""
    world = TwoJudges(seed=seed)
    run = lab.run(
        "arms", seed, lr=0.5, batch_size=400, max_steps=20, schedule="constant", warmup=0.0, optimizer="sgd", clip=None
    )
    first, trained = world.saved(lab.root)
    policy, prompts = run.policy(trained), run.slates(world.slates())
    figures = {f"{name}_start": v for name, v in world.told(policy.load()).items()}  # type: ignore[arg-type]
    arms: Mapping[str, Mapping[str, Any]] = {"scir": {}, **{one: {"lam": 0.0, "label_by": one} for one in SINGLE}}
    for name, options in arms.items():
        end = scir(run, policy, prompts, n=4, beta=1.0, trained_from=str(first), **options).load()
        figures[f"gold_{name}"] = world.value(end)  # type: ignore[arg-type]
        if name == "scir":
            figures["agreement_end"] = world.told(end)["agreement"]  # type: ignore[arg-type]
    same = TwoJudges(seed=seed, same_errors=True)
    told = same.told(same.trained())
    return {**figures, "control": told["agreed"] - max(told["implicit"], told["generative"])}
