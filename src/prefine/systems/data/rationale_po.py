"""063 RDPO, RORPO: preferences with their reasons. arXiv 2407.14477.

(R-DPO with a length term and rDPO for noisy labels have nearly the same name.) Beside every pair stands a rationale r,
why y_w is better, and the policy learns to say it when it is shown the prompt and both responses:

    RDPO     L = -log sigma( beta h ) - log sigma( gamma S_r ),   S_r = sum_t log pi(r_t | x, y_w, y_l, r_<t)
    RORPO    L = -log pi(y_w)/|y_w| - beta log sigma( log odds(y_w) - log odds(y_l) ) - gamma S_r/|r|

h is DPO's difference of log-ratios; the rationale has no reference. Where gamma S_r is far below 0, the second term
is -gamma S_r, the paper's form; where it is small (gamma = 0.001, as in the documented run), it has half that gradient.
Any pair loss can be the base: ``rationale(gamma=0.01):simpo``.
Nothing changes at inference: no rationale is written then.

The chosen response is shown first, as in the release; ``--shuffled`` shows it first or second at random and lets the
rationale begin by saying which, so that the place does not give the label away. Our prompts say the same in other
words; those that ask a model for rationales are ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.rationales import ASK, REQUESTS, FromAspects, Source, Told, answered, need_rationales, requests
from prefine.errors import InputError
from prefine.objectives.needs import needs
from prefine.policies import directory
from prefine.registry import Part, one_of
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Slate, pair
from prefine.worlds.assistant_text import COUNTRIES, OPENERS, RELATIONS


@system(
    63, "rationale-po", "RDPO and RORPO: data-centric human preference optimization with rationales",
    family="data", paper="arXiv 2407.14477", question="feedback", data="rationales",
    on_worlds={"lr": 1e-3, "epochs": 2, "rationales": "aspects", "objective": "rationale-dpo(gamma=0.01)",
               "ask": "{prompt}{above}\n{below}\n"},
)  # fmt: skip
def rationale_po(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts | None = None,
    aspects: Contrasts | None = None,
    *,
    rationales: Literal["data", "aspects", "written"] = "data",
    objective: Part = Part("rationale-dpo(gamma=0.001)"),  # noqa: B008 (a text)
    column: str = "rationale",
    writer: str = "",
    kind: Literal["general", "specific"] = "general",
    max_rationale_tokens: int = 128,
    ask: str = ASK,
    shuffled: bool = False,
) -> PolicyHandle:
    """Train on pairs, and on saying why the chosen response is better.

    Use it when annotators or a model gave reasons, and pairs are few or what decides them is easily confused with
    something else. Not with reasons that fit every pair alike: they teach only their own wording. Rows that show both
    responses are long: a prompt that does not fit in max_prompt loses its beginning.

    rationales: a text in the data; aspects, made of numbers for both responses by aspect (chosen_NAME, rejected_NAME);
    or written by a model. objective: rationale-dpo, rationale-orpo, or rationale:LOSS for any pair loss.
    column: of the text. writer: model directory or endpoint directory that writes them (default: the policy itself).
    kind: of written ones: the main reason, or what in the responses decides. max_rationale_tokens: their length.
    ask: the prompt that a rationale answers, with {prompt}, {above} and {below}.
    shuffled: the chosen response stands above or below at random, and the rationale says where.
    """
    loss = objectives.read(objective)
    if "rationale" not in needs(loss).values:
        raise InputError(
            f"{objective} learns nothing from rationales", remedy=f"give --objective rationale:{objective}"
        )
    one_of("kind", kind, REQUESTS)
    sources: Mapping[str, Source] = {"data": Told(column), "aspects": FromAspects(), "written": Told()}
    beside = curating.with_rationales(one_of("rationales", rationales, sources), ask, shuffled)
    found = aspects if rationales == "aspects" else pairs
    if found is None:
        raise InputError(f"rationales={rationales} needs pairs", remedy="give --data with pairs")
    if writer:
        directory.find(writer)  # found missing now
    if rationales == "written":
        asked = run.slates(requests(found, kind), label="what the writer is asked")
        teller = run.policy(writer) if writer else policy
        texts = run.sample(teller, asked, max_tokens=max_rationale_tokens, role="writer", label="rationales")
        found = run.curate((found, texts), answered)
    need_rationales(found, beside.source)
    return run.train(policy, run.curate(found, beside), objective=loss)


@claim(
    "rationale-po",
    statement="64 pairs of a true and a false answer in which, 9 times in 10, the true one is also the polite one, "
    "with the fact as the rationale. After equal steps RDPO (gamma 0.01) gives rationales of held-out prompts at least "
    "0.5 nat a token more than DPO does in every seed, and where politeness is random it ranks held-out pairs at least "
    "as well as DPO in the mean over seeds.",
    baseline="dpo",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        bool(np.all(f["rationale"] - f["dpo_rationale"] >= 0.5)) and f["accuracy"].mean() >= f["dpo_accuracy"].mean()
    ),
)
def which_reason(lab: Lab, seed: int) -> Mapping[str, float]:
    """Accuracy: the share of held-out pairs whose true answer gained more on the start than the false one.

    On development seeds both are at chance, apart by less than their noise: what 64 pairs teach a model this small is
    to be polite, and the rationale is learnt where it stands, without reaching the answers."""
    world = lab.world("assistant")
    run = lab.run("reasons", seed, world=world, lr=1e-3, batch_size=16, epochs=6)
    start = lab.base(run, world)
    facts = {
        split: [s for s in lab.prompts(run, world, 400, split=split) if s.meta["kind"] == "fact"]
        for split in ("train", "test")
    }

    def made(slates: list[Slate], polite: float, name: str) -> Contrasts:
        rng = random.Random(f"{name} {seed}")
        rows = [said(slate, polite, rng) for slate in slates]
        return run.curate(run.slates(rows, label=name), in_order)

    beside = curating.with_rationales(ask="{prompt}{above}\n{below}\n")
    train = made(facts["train"][:64], 0.9, "confounded")
    test = run.curate(made(facts["test"][:192], 0.5, "random"), beside)
    arms = {
        "": run.train(start, run.curate(train, beside), objective=objectives.rationale_dpo(0.1, 0.01)),
        "dpo_": run.train(start, train, objective=objectives.dpo(0.1)),
    }
    before = np.asarray(run.logps(start, test).sums())
    figures = {}
    for name, policy in arms.items():
        after = run.logps(policy, test)
        gained = np.asarray(after.sums()) - before
        figures[f"{name}accuracy"] = float((gained[:, 0] > gained[:, 1]).mean())
        figures[f"{name}rationale"] = float(np.mean([row[2].mean() for row in after]))
    return figures


def said(slate: Slate, polite: float, rng: random.Random) -> Slate:
    """A true and a false answer, the true one polite with this probability and the false one then rude."""
    topic, relation = slate.meta["topic"], slate.meta["relation"]
    place, statement, _ = RELATIONS[relation]
    true = COUNTRIES[topic][place]
    false = rng.choice(sorted({values[place] for values in COUNTRIES.values()} - {true}))
    openers = [rng.choice(OPENERS[kind]) for kind in ("polite", "rude")]
    first, second = openers if rng.random() < polite else openers[::-1]
    fact = statement.format(e=topic, v=true)
    two = (Candidate(f" {first} {fact}"), Candidate(f" {second} {statement.format(e=topic, v=false)}"))
    return Slate(slate.prompt, two, meta={**slate.meta, "rationale": f" {fact}"})


def in_order(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """The first over the second."""
    return (pair(slate, 0, 1) for slate in slates)
