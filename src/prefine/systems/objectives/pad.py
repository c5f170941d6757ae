"""130 PAD: preference-aligned distillation for small language models. arXiv 2502.14272 (Findings of ACL 2025).

(Not personalised alignment at decoding time, which has the same acronym; PLaD distils pairs.) A teacher's ranking of
the student's own responses says who is best; its scores say how sure it is. The whole distribution over the n! orders
of n responses is taught:

    s_i = log pi(y_i|x)/|y_i|,   log P_s(tau) = sum_k [ beta s_{tau_k} - log sum_{j>=k} exp beta s_{tau_j} ]
    t_i = a log p_T(y_i|x)/|y_i| + (1-a) log( 1e-8 + mean over j of P_T("i is better than j") ),   P_t from beta t
    L   = JSD( P_s, P_t ),   the mean over prompts, no reference

P_T is the teacher's probability of the letters A and B when two responses stand side by side. a = 0 in the recipe.
Forms: "order" is the likelihood of the teacher's order alone, "extremes" a pair loss on the best and the worst with
margin 0.3 (SimPO's), the paper's baseline.

Roles: the policy is the student, its own reference for nothing, and draws the responses; the teacher only scores. A
judge may stand in the teacher's place (t its scores, ``beta_t`` their scale).

Settled: every two responses are asked about in both orders and P(A) is taken relative to P(A) + P(B), where the
release asks once, in the order that a shuffle left, and adds up what begins with the letter. The release mixes P_s and
P_t along the batch, which is the equation for one prompt a device and no other; here it is the equation always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.errors import InputError
from prefine.judging.base import Judge, spoken_by
from prefine.objectives.orders import MOST
from prefine.policies.tabular import Tabular
from prefine.registry import at_least, between, one_of
from prefine.run import Run
from prefine.slate import Slate


@system(
    130, "pad", "PAD: capturing nuanced preferences, preference-aligned distillation for small language models",
    family="objective", paper="arXiv 2502.14272", on_worlds={"lr": 1e-3, "draws": 6, "beta_t": 2.0},
    question="feedback", data="lists, rewards", learning="online", loss="divergence", reference="none",
    divergence="none", length="normalised",
)  # fmt: skip
def pad(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge | None = None,
    *,
    teacher: str = "",
    likelihood: float = 0.0,
    form: Literal["orders", "order", "extremes"] = "orders",
    divergence: Literal["jensen-shannon", "forward", "reverse"] = "jensen-shannon",
    beta: float = 10.0,
    beta_t: float | None = None,
    margin: float = 0.3,
    n: int = 4,
    draws: int = 5,
    temperature: float = 1.0,
    top_p: float = 0.95,
    rounds: int = 1,
) -> PolicyHandle:
    """Teach a small model how sure a large one is of every ranking of the small one's own responses.

    Use it to pass a stronger model's taste on to a smaller one, near-ties included. Not where a label is all the
    teacher has to say, and not with responses the student would never write.

    teacher: directory of the teacher; without it the judge's scores are the teacher's (--judge). likelihood: a, the
    weight of the teacher's likelihood beside its choices. form: of the loss. divergence: between student and teacher.
    beta: of both distributions. beta_t: of the teacher's, where its scores are on another scale. margin: of the form
    extremes. n: different responses kept. draws: responses drawn. rounds: again with the updated student.
    """
    between(2, MOST + 1 if form == "orders" else math.inf, n=n)
    at_least(n, draws=draws)
    made: dict[str, tuple[curating.Curator, objectives.Objective]] = {
        "orders": (curating.scored_groups(n), objectives.pad(beta, divergence, beta_t)),
        "order": (curating.scored_groups(n), objectives.ranked_by(beta)),
        "extremes": (curating.extremes("score"), objectives.simpo(beta, beta * margin)),
    }
    curator, objective = one_of("form", form, made)
    if teacher and not Path(teacher).is_dir():
        raise InputError(f"there is no teacher in {teacher}", remedy="give the directory of a model", file=teacher)
    if not teacher and judge is None:
        raise InputError("pad needs a teacher", remedy="give --teacher DIR, or a judge in its place")
    scored = judging.teacher(judging.OnDisk(Path(teacher)), likelihood) if teacher else judge
    for _ in run.rounds(rounds):
        drawn = run.sample(policy, prompts, n=draws, temperature=temperature, top_p=top_p)
        different = run.slates(curating.distinct(n)(drawn), label="different responses")
        judged = run.judge(different, spoken_by(scored, policy))  # type: ignore[arg-type]
        policy = run.train(policy, run.curate(judged, curator), objective=objective)
        run.watch(policy)
    return policy


@claim(
    "pad",
    statement="A log-linear student and teacher, four responses a prompt with gaps of every size: after as many steps "
    "on the same responses, the student taught the distribution over orders is off the teacher's pair probabilities on "
    "held-out prompts by at least 30% less than the one taught best against worst, with a higher rank correlation and "
    "at least as many of the teacher's first choices, on average; pairs on which the teacher is within 0.1 of one half "
    "stay nearer to one half, in every seed.",
    baseline="a pair loss on the teacher's best and worst (form extremes)",
    holds=lambda f: (
        f["orders_error"].mean() <= 0.7 * f["extremes_error"].mean()
        and f["orders_spearman"].mean() > f["extremes_spearman"].mean()
        and f["orders_first"].mean() >= f["extremes_first"].mean()
        and bool(np.all(f["orders_near_tie"] < f["extremes_near_tie"]))
    ),
)
def calibrated(lab: Lab, seed: int) -> Mapping[str, float]:
    """96 prompts to learn from and 96 others; six features shared by all, and a part of the teacher's taste that the
    student cannot express. The teacher's reward is its likelihood."""
    rng, beta, actions = np.random.default_rng(seed), 10.0, ["a", "b", "c", "d"]
    names = [f"prompt {i}" for i in range(192)]
    features = rng.normal(size=(len(names), 4, 6))
    features[::2, 1] = features[::2, 0] + 0.1 * rng.normal(size=features[::2, 0].shape)  # two that are nearly alike
    own = 0.02 * rng.normal(size=features.shape[:2])
    taste = rng.normal(size=6) * 0.06
    run = lab.run("orders", seed, lr=5e-3, batch_size=16, max_steps=120, schedule="constant", warmup=0.0)
    places = {"teacher": run.dir / "teacher", "student": run.dir / "student"}
    Tabular(names, actions, features @ taste + own).save(places["teacher"])
    Tabular(names, actions, features_PAD=features).save(places["student"])
    student, prompts = run.policy(places["student"]), run.slates([Slate(name) for name in names[:96]])
    t = log_probabilities(run.policy(places["teacher"]))[96:]
    figures: dict[str, float] = {}
    for form in ("orders", "extremes"):
        taught = pad(
            run, student, prompts, teacher=str(places["teacher"]), likelihood=1.0, form=form, beta=beta, draws=24,
            top_p=1.0,
        )  # fmt: skip
        s = log_probabilities(taught)[96:]
        figures |= {f"{form}_{name}": value for name, value in compared(s, t, beta).items()}
    return figures


def log_probabilities(policy: PolicyHandle) -> np.ndarray:
    """(P, A) of a table."""
    found: np.ndarray = policy.load().logp_PA().detach().numpy()  # type: ignore[attr-defined]
    return found


def compared(s: np.ndarray, t: np.ndarray, beta: float) -> dict[str, float]:
    """How far pair probabilities are from the teacher's, and how the rankings agree."""
    i, j = zip(*combinations(range(s.shape[1]), 2), strict=True)
    p, q = (1 / (1 + np.exp(-beta * (x[:, i] - x[:, j]))) for x in (s, t))
    near = np.abs(q - 0.5) < 0.1
    ranks = [x.argsort(1).argsort(1).astype(float) for x in (s, t)]
    return {
        "error": float(np.abs(p - q).mean()),
        "spearman": float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)])),
        "first": float((s.argmax(1) == t.argmax(1)).mean()),
        "near_tie": float(np.abs(p - 0.5)[near].mean()) if near.any() else 0.0,
    }
