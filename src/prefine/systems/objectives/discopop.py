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
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.discovery import Attempt, Proposed, search, winner
from prefine.discovery.examples import PROPOSALS, VALID
from prefine.discovery.proposers import find
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.objectives import Objective
from prefine.policies.tabular import Tabular
from prefine.registry import at_least
from prefine.run import Run
from prefine.slate import Slate
from prefine.store import read_jsonl
from prefine.worlds.margins import Margins


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
        run.note(generation=generation, **attempt.figures)

    attempts, conversation = search(propose, fitness, run.rounds(generations), tell=tell)
    run.slates([Slate(conversation, meta={"id": "search"})], label="the search's conversation")
    return trained[winner(attempts)]


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
    """16 pairs in a table, beta 1, gradient descent with small steps."""
    rng = np.random.default_rng(seed)
    world = Margins((*rng.uniform(-0.4, 0.05, 8), *rng.uniform(0.1, 0.4, 8)))
    run = lab.run(
        "trap", seed, lr=0.64, batch_size=16, optimizer="sgd", schedule="constant", warmup=0.0, clip=None,
        max_steps=800, save_every=10**6,
    )  # fmt: skip
    start, reference = (run.policy(path) for path in world.saved(run.dir))
    pairs = run.curate(run.judge(run.slates(world.slates()), world.gold), curating.extremes("gold"))

    def margins(objective: Objective) -> np.ndarray:
        return world.of(Tabular.load(run.train(start, pairs, objective=objective, reference=reference).path))

    dpo, lrml = margins(objectives.dpo(1.0)), margins(objectives.discopop(1.0))
    return {
        "dpo_least": float(dpo.min()),
        "trap_error": float(np.abs(lrml[:8] + 0.118570).max()),
        "lrml_right_least": float(lrml[8:].min()),
        **searched(lab, seed),
    }


def searched(lab: Lab, seed: int) -> Mapping[str, float]:
    """The recipe's search on 8 pairs, the proposals in an order that the seed draws."""
    rng = np.random.default_rng(seed)
    world, order = Margins(tuple(rng.normal(scale=0.4, size=8))), rng.permutation(list(PROPOSALS))
    run = lab.run("search", seed, lr=0.5, batch_size=8, schedule="constant", warmup=0.0, max_steps=20, save_every=10**6)
    start, _ = (run.policy(path) for path in world.saved(run.dir))
    slates = run.slates(world.slates())
    pairs = run.curate(run.judge(slates, world.gold), curating.extremes("gold"))
    script, prompts = run.dir / "script.jsonl", run.bare(slates)
    script.write_text("\n".join(PROPOSALS[name] for name in order))
    done = discopop(run, start, pairs, prompts, world.gold, generations=len(order), proposer=f"script:{script}")
    notes = read_jsonl(run.dir / "notes.jsonl")[-len(order) :]
    trained = {name for name, note in zip(order, notes, strict=True) if note["valid"]}
    reached = run.evaluate(done, run.slice(prompts, 0, 1), judge=world.gold)["reward"]
    return {
        "trained_the_valid": float(trained == VALID),
        "returned_the_best": float(reached == max(note["fitness"] for note in notes if note["valid"])),
    }
