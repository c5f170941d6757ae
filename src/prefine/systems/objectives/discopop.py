"""044 DiscoPOP: discovering preference optimisation algorithms with and for large language models. arXiv 2406.08414.

A language model proposes pair losses as code; each valid one trains a model, and its fitness is told to the proposer,
who proposes again. The best loss of the paper's search, LRML alias DiscoPOP, mixes the logistic and the exponential
link with a gate that depends on the margin itself and is not detached:

    z = beta h,  h = log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l),  g = sigma(z/tau),  tau = 0.05
    L = (1 - g)( -log sigma(z) ) + g exp(-z)

It is not convex: below its local maximum at z = 0.0720 (a gap of 1.44 at beta 0.05) descent leads to the local minimum
at z = -0.1186. A policy that starts as its reference starts in that basin, at z = 0: pairs leave it by the noise of
steps and by what other pairs teach, or stay. The other losses found are there too
(``objectives.discovered``): CELL, DBAQL, AQL, AQFL, PADLL, PFL.

The search (``prefine.discovery``): proposals are read in the sandbox, where they run once on recording tensors; what
is trained with is the list of operations that comes out, never the code. A proposal is valid if it is one function
that gives one number a pair, without NaN in value and gradient. The fitness here is the judge's mean score of the
trained policy's responses; the archive it starts from has the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.discovery import Attempt, Proposed, best, search
from prefine.discovery.examples import PROPOSALS, VALID
from prefine.discovery.proposers import Scripted, find
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.policies.tabular import Tabular
from prefine.registry import at_least
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair


@system(
    44, "discopop", "DiscoPOP: discovering preference optimization algorithms with and for large language models",
    family="objective", paper="arXiv 2406.08414", on_worlds={"lr": 1e-3},
    question="implicit-reward", loss="other",
)  # fmt: skip
def discopop(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    prompts: Slates | None = None,
    judge: Judge | None = None,
    *,
    loss: Literal["lrml", "cell", "dbaql", "aql", "aqfl", "padll", "pfl"] = "lrml",
    beta: float = 0.05,
    generations: int = 0,
    proposer: str = "grammar",
    fitness_prompts: int = 64,
) -> PolicyHandle:
    """Train with a loss that a search found, or search for one.

    Use it as an alternative to DPO that trusts the reference on close pairs, with a learning rate that takes gaps
    beyond 1.44 in a few steps; to look for losses that suit a judge, with generations above 0. Not with small steps:
    pairs then settle at a gap of -2.4, ranked wrongly.

    generations: losses to propose, train and score; the result is the policy of the best. proposer: grammar[:SEED]
    (random mixtures), script:FILE (a JSON object a line), model:DIR, or endpoint:URL#MODEL. fitness_prompts: how many
    of the prompts are answered to score a loss.
    """
    at_least(0, generations=generations)
    objective = objectives.discovered(loss, beta)
    if not generations:
        return run.train(policy, pairs, objective=objective)
    if prompts is None or judge is None:
        raise InputError("a search needs prompts and a judge to score policies with", remedy="give both")
    propose = find(proposer, run)
    asked = run.slice(prompts, 0, max(1, len(prompts) // fitness_prompts))
    trained: dict[Proposed, PolicyHandle] = {}

    def fitness(found: Proposed) -> float:
        trained[found] = run.train(policy, pairs, objective=found, label=f"train with {found.name}")
        return run.evaluate(trained[found], asked, judge=judge, name="fitness")["reward"]

    def tell(generation: int, attempt: Attempt) -> None:
        scored = {} if attempt.fitness is None else {"fitness": attempt.fitness}
        run.note(generation=generation, valid=float(attempt.fitness is not None), **scored)

    attempts, conversation = search(propose, fitness, run.rounds(generations), tell=tell)
    run.slates([Slate(conversation, meta={"id": "search"})], label="the search's conversation")
    found = best(attempts)
    if found is None or found.loss is None:
        errors = "; ".join(attempt.error for attempt in attempts[-3:])
        raise InputError(f"none of {generations} proposals was a loss: {errors}", remedy="use another proposer")
    return trained[found.loss]


@claim(
    "discopop",
    statement="Pairs that start at margins z in (-0.4, 0.05): DPO turns every one of them to z > 0, LRML leaves every "
    "one within 0.002 of the trap at z = -0.1186; from (0.1, 0.4) LRML takes all beyond 1. A search over 10 scripted "
    "proposals, 5 of them invalid, trains exactly the valid ones and returns the policy of the fittest.",
    baseline="dpo",
    holds=lambda f: (
        f["dpo_least"].min() > 0
        and f["trap_error"].max() < 0.002
        and f["lrml_right_least"].min() > 1.0
        and bool(np.all(f["trained_the_valid"] == 1) and np.all(f["returned_the_best"] == 1))
    ),
)
def the_trap(lab: Lab, seed: int) -> Mapping[str, float]:
    """An exact table of 16 pairs with margins drawn by the seed, gradient descent with small steps; the search on 8
    pairs of actions whose gold reward is the chosen one's."""
    rng = np.random.default_rng(seed)
    starts, beta = np.concatenate([rng.uniform(-0.4, 0.05, 8), rng.uniform(0.1, 0.4, 8)]), 1.0
    names = [f"pair {i}" for i in range(16)]
    run = lab.run(
        "trap", seed, lr=0.64, batch_size=16, optimizer="sgd", schedule="constant", warmup=0.0, clip=None,
        max_steps=800, save_every=10**6,
    )  # fmt: skip

    def table(name: str, gaps: np.ndarray) -> PolicyHandle:
        Tabular(names, ["w", "l"], np.stack([gaps / 2, -gaps / 2], 1)).save(Path(run.dir) / name)
        return run.policy(Path(run.dir) / name)

    reference, policy = table("reference", np.zeros(16)), table("start", starts)
    slates = run.slates(Slate(name, (Candidate("w"), Candidate("l"))) for name in names)
    pairs = run.curate(slates, lambda rows, rng: [pair(s, 0, 1) for s in rows])

    def margins(objective: objectives.Objective) -> np.ndarray:
        done = run.train(policy, pairs, objective=objective, reference=reference).load()
        logp = done.logp_PA().detach().numpy()  # type: ignore[attr-defined]
        return logp[:, 0] - logp[:, 1]

    dpo, lrml = margins(objectives.dpo(beta)), margins(objectives.discopop(beta))
    return {
        "dpo_least": float(dpo.min()),
        "trap_error": float(np.abs(lrml[:8] + 0.118570).max()),
        "lrml_right_least": float(lrml[8:].min()),
        **_scripted_search(lab, seed),
    }


def _scripted_search(lab: Lab, seed: int) -> Mapping[str, float]:
    run = lab.run("search", seed, lr=0.5, batch_size=8, schedule="constant", warmup=0.0, max_steps=20, save_every=10**6)
    names = [f"pair {i}" for i in range(8)]
    Tabular(names, ["w", "l"], np.random.default_rng(seed).normal(scale=0.3, size=(8, 2))).save(Path(run.dir) / "base")
    base = run.policy(Path(run.dir) / "base")
    slates = run.slates(Slate(name, (Candidate("w"), Candidate("l"))) for name in names)
    pairs = run.curate(slates, lambda rows, rng: [pair(s, 0, 1) for s in rows])
    trained: dict[str, float] = {}

    def fitness(found: Proposed) -> float:
        policy = run.train(base, pairs, objective=found).load()
        trained[found.name] = float(policy.probabilities_PA()[:, 0].mean())  # type: ignore[attr-defined]
        return trained[found.name]

    order = np.random.default_rng(seed).permutation(len(PROPOSALS))
    replies = tuple(list(PROPOSALS.values())[i] for i in order)
    attempts, _ = search(Scripted(replies), fitness, range(len(replies)))
    top = best(attempts)
    return {
        "trained_the_valid": float(set(trained) == VALID and sum(a.fitness is None for a in attempts) == 5),
        "returned_the_best": float(top is not None and top.fitness == max(trained.values())),
    }
