"""107 MRPO: multi-reference preference optimisation. arXiv 2405.16388 (Le et al. 2024).

A lower bound of the objective with a KL to each of K references has a closed form, in which they are one virtual
reference, their weighted harmonic mean pi~ = ( sum_k a_k/pi_k )^-1. With s_k(y) = log pi_k(y), token sums:

    s~(y) = -log sum_k a_k exp(-s_k(y)),   L = -log sigma( beta [ (log pi - s~)(y_w) - (log pi - s~)(y_l) ] )

Trust region: s_k for k > 1 is clipped to [ (1 + e_y) s_1(y), (1 - e_y) s_1(y) ],  e_y = eps |b_y|/(|b_w| + |b_l|),
b_y the mean of all s_k(y). Weights: a_k = |s_k(y_w) - s_k(y_l)| / sum_j |s_j(y_w) - s_j(y_l)|, before clipping.

In the released code (two references) each reference's weight lands on the other one: ``weights=code``. ``own`` is the
rule as the paper states it. ``combine=losses`` is the baseline, the weighted mean of K DPO losses.

The others' log-probabilities are sums over whole responses, stored once: K references cost K scorings and no memory in
training, and each may have its own tokenizer. The code's moving second reference (a copy of the best checkpoint) is
left out: `offline --following` moves the one reference of DPO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.errors import InputError
from prefine.objectives import Objective
from prefine.policies import directory
from prefine.policies.tabular import Tabular
from prefine.registry import one_of
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair

TRAINED: Mapping[str, Callable[[], Objective]] = {"sft": objectives.sft, "simpo": objectives.simpo}
"""References that are made of the start and the same pairs."""


@system(
    107, "mrpo", "MRPO: multi-reference preference optimization",
    family="objective", paper="arXiv 2405.16388", on_worlds={"lr": 1e-3, "epochs": 2},
    question="reference", reference="several",
)  # fmt: skip
def mrpo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    references: tuple[str, ...] = ("sft",),
    beta: float = 0.1,
    weights: Literal["own", "code", "equal"] = "own",
    alpha: tuple[float, ...] = (),
    eps: float | None = 0.1,
    band: Literal["adaptive", "fixed"] = "adaptive",
    combine: Literal["references", "losses"] = "references",
    eta: float = 0.0,
) -> PolicyHandle:
    """DPO against several references at once: the start, and others held near it.

    Use it when there are other models whose taste is worth something (a larger one, one tuned for the task) and few
    pairs. Not when the start is the only model you trust: a reference that prefers the wrong responses is held back by
    the clipping, not ignored.

    references: besides the start: model directories or hub names, with any tokenizer; or sft or simpo, the start
    trained so on the same pairs. weights: by each reference's own clarity, as in the released code, or equal.
    alpha: stated weights instead, the start's first. eps: how far, as a share of its log-probability under the start, a
    response may go (none: no clipping). band: of the pair's width by likelihood, or all of it for both responses.
    combine: one virtual reference, or the mean of one loss each (without eta). eta: weight of the chosen's likelihood.
    """
    names = tuple(f"reference_{i + 2}" for i in range(len(references)))
    made: Mapping[str, Callable[[], Objective]] = {
        "references": lambda: objectives.mrpo(beta, names, alpha or weights, eps, band, eta),
        "losses": lambda: objectives.multi_dpo(beta, names, alpha or weights, eps, band),
    }
    loss = one_of("combine", combine, made)()
    if not references:
        raise InputError("no other reference is named", remedy="give --references DIR,DIR or sft; with one it is dpo")
    for name in references:
        if name not in TRAINED:
            directory.find(name)  # found missing now, not after the others were scored
    others = [
        run.train(policy, pairs, objective=TRAINED[name](), label=f"the reference {name}")
        if name in TRAINED
        else run.policy(name)
        for name in references
    ]
    stored = tuple(run.logps(other, pairs) for other in others)
    known = run.curate((pairs, *stored), curating.with_logps(*names))  # type: ignore[arg-type]
    return run.train(policy, known, objective=loss)


@claim(
    "mrpo",
    statement="With 50 pairs labelled by a Bradley-Terry annotator, a first reference that knows nothing of the reward "
    "and a second that is a noisy copy of the optimal policy: MRPO (own weights, clipped) ranks held-out pairs better "
    "than DPO with the first reference in at least 4 of 5 seeds. With an adversarial second reference clipped MRPO "
    "loses less accuracy to DPO than unclipped MRPO in every seed.",
    baseline="dpo with the first reference",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        (f["mrpo"] > f["dpo"]).mean() >= 0.8 and bool(np.all(f["adversarial_clipped"] > f["adversarial_unclipped"]))
    ),
)
def a_second_opinion(lab: Lab, seed: int) -> Mapping[str, float]:
    """Log-linear policies over 250 prompts of 6 responses with 16 features, each response of probability e^-20: beside
    them every prompt has one that is nearly certain, as long texts are. Accuracy: of the log-ratio to the start."""
    run = lab.run("opinions", seed, lr=0.05, schedule="cosine", warmup=0.0, clip=None, batch_size=50, max_steps=200)
    rng, P, A, D, beta = np.random.default_rng(seed), 250, 6, 16, 0.5
    features = np.concatenate([rng.normal(size=(P, A, D)) / 4, np.zeros((P, 1, D))], 1)
    truth = rng.normal(size=D)
    first = np.concatenate([rng.normal(size=(P, A)) - 20, np.zeros((P, 1))], 1)
    names, actions = [f"q{i}" for i in range(P)], [*"abcdef", "rest"]

    def saved(name: str, theta: np.ndarray) -> PolicyHandle:
        Tabular(names, actions, first, features_PAD=features, theta_D=theta).save(run.dir / name)
        return run.policy(run.dir / name)

    noisy = (truth + rng.normal(size=D)) / beta  # the optimal policy has truth / beta
    start, good, bad = saved("start", np.zeros(D)), saved("good", noisy), saved("bad", -noisy)
    reward = features @ truth
    label = rng.random(P)

    def labelled(first_prompt: int, count: int, drawn: bool) -> Contrasts:
        rows = []
        for p in range(first_prompt, first_prompt + count):
            a, b = rng.permutation(A)[:2]
            gap = reward[p, a] - reward[p, b]
            won = label[p] < 1 / (1 + np.exp(-gap)) if drawn else gap > 0
            w, l = (a, b) if won else (b, a)
            rows.append(Slate(names[p], (Candidate(actions[w]), Candidate(actions[l])), meta={"id": names[p]}))
        return run.curate(run.slates(rows), lambda slates, rng: [pair(s, 0, 1) for s in slates])

    train, test = labelled(0, 50, drawn=True), labelled(50, 200, drawn=False)
    before = np.asarray(run.logps(start, test).sums())

    def accuracy(policy: PolicyHandle) -> float:
        gained = np.asarray(run.logps(policy, test).sums()) - before
        return float((gained[:, 0] > gained[:, 1]).mean())

    def ours(second: PolicyHandle, eps: float | None) -> float:
        return accuracy(mrpo(run, start, train, references=(str(second.path),), beta=beta, eps=eps))

    return {
        "dpo": accuracy(run.train(start, train, objective=objectives.dpo(beta))),
        "second_alone": accuracy(good),
        "mrpo": ours(good, 0.1),
        "mrpo_unclipped": ours(good, None),
        "adversarial_clipped": ours(bad, 0.1),
        "adversarial_unclipped": ours(bad, None),
    }
