"""077 RPO (relative): contrasting responses across identical and diverse prompts. arXiv 2402.10958.

Every chosen response of a step is contrasted with every rejected one, also of other prompts, each contrast scaled by
how alike the two prompts are, so that related prompts teach each other. With the log-ratios a_i of the chosen and b_j
of the rejected (token sums, frozen reference) and the cosine distance d_ij of the prompts' embeddings:

    w_ij = softmax over j of ( -d_ij / tau ),  a constant
    L = 1/M sum_i 1/R sum_j -log sigma( beta w_ij (a_i - b_j) )

The weight is inside the sigmoid and the mean over j even. Variants: uniform (w = 1); diagonal, without embeddings,
L_i = c DPO_i + (1 - c) mean_{j != i}. As tau -> 0 with distinct prompts L_i -> ( DPO_i + (R - 1) log 2 ) / R.

Across prompts the partition terms beta log Z(x) do not cancel. And since the weight is inside the sigmoid, an unlike
contrast asks for a larger margin, not for less: trained long at a middling tau (0.25 in the claim's set-up), or with
embeddings that blur the clusters, the cluster is relied on more than with even weights. The released code makes the
matrix of a micro-batch on a device; here it is that of the whole optimiser step (``batch_size``), however it is
computed. The release takes a sentence encoder (all-MiniLM-L6-v2): give its directory as ``embedder``; "words" needs no
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.errors import InputError
from prefine.objectives import Scores
from prefine.objectives.measures import LogProbability
from prefine.objectives.relative import Crossed, Similarity
from prefine.registry import given_for
from prefine.run import Run


@system(
    77, "rpo-relative", "RPO: relative preference optimization across identical and diverse prompts",
    family="objective", paper="arXiv 2402.10958", on_worlds={"lr": 1e-3, "epochs": 2, "tau": 0.1},
    question="feedback", data="pairs, labels", granularity="prompt",
)  # fmt: skip
def rpo_relative(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts | None = None,
    labels: Contrasts | None = None,
    *,
    learn_from: Literal["pairs", "labels"] = "pairs",
    beta: float = 0.1,
    tau: float = 0.5,
    contrast: Literal["similar", "uniform", "diagonal"] = "similar",
    diagonal: float = 0.8,
    embedder: str = "words",
) -> PolicyHandle:
    """Contrast every good response of a step with every bad one, the more the more alike their prompts are.

    Use it when good and bad responses come from different but related prompts (labels), or when pairs are few and
    their prompts related. Not with small batches, and not with prompts that have nothing in common.

    learn_from: pairs, or labels (unpaired). tau: 0.25 to 0.75 in the paper; small: only like prompts. contrast:
    similar, uniform, or diagonal (pairs alone; ``diagonal`` is the share of a pair's own contrast).
    embedder: words, given (a column "embedding" of the data), or the directory of a sentence encoder.
    """
    given = {"pairs": pairs, "labels": labels}
    lessons = given_for("learn_from", learn_from, given)
    if (contrast, learn_from) == ("diagonal", "labels"):
        raise InputError("the diagonal contrast is of pairs", remedy="give --contrast similar, or --learn-from pairs")
    objective = objectives.rpo_relative(beta, tau, contrast, diagonal)
    if contrast == "similar":
        lessons = run.curate(lessons, curating.embedded(embedder))
    return run.train(policy, lessons, objective=objective)


@claim(
    "rpo-relative",
    statement="From unpaired labels where 80% of the good but 20% of the bad responses belong to one cluster of "
    "prompts that the embeddings tell apart, weights by similarity (tau 0.05) leave at most 0.8 times the reliance on "
    "the cluster (its coefficient over that of quality) that even weights do, and rank unconfounded responses more "
    "accurately. (Reported beside it, and no better: embeddings that are mostly noise.)",
    baseline="the same contrasts with even weights, 1/N each",
    seeds=tuple(range(8, 16)),
    holds=lambda f: (
        f["similar"].mean() <= 0.8 * f["even"].mean() and f["similar_accuracy"].mean() > f["even_accuracy"].mean()
    ),
)
def confounded(lab: Lab, seed: int) -> Mapping[str, float]:
    """32 good and 32 bad responses; score = W0 quality + W1 style, style = the cluster of the prompt, embeddings of the
    prompts with noise of 0.2 in each of seven further directions (0.45 where they are blurred); 300 Adam steps of 0.02.
    A linear reward, since what all responses to a prompt share is nothing that a policy can express. On seeds 0 to 7,
    with noise of 0.3, the reliance varied from 0.1 to 6 and the claim failed: near that edge a few chance neighbours
    carry all the weight. Seeds 8 and on had not been looked at."""
    N, rng = 32, np.random.default_rng(seed)
    good = np.arange(2 * N) < N
    style = np.where(rng.random(2 * N) < np.where(good, 0.8, 0.2), 1.0, -1.0)
    quality = rng.normal(size=2 * N) + np.where(good, 0.5, -0.5)
    noise = rng.normal(size=(2 * N, 7))
    features = torch.from_numpy(np.stack([quality, style], 1))
    fair = np.stack([rng.normal(size=(4000, 2)) + np.array([0.5, -0.5]), rng.choice([-1.0, 1.0], size=(4000, 2))], -1)
    figures: dict[str, float] = {}
    for name, tau, blur in (("similar", 0.05, 0.2), ("even", 1e6, 0.2), ("blurred", 0.05, 0.45)):
        topic = torch.from_numpy(np.concatenate([style[:, None], blur * noise], 1))
        values = {f"embedding.{d}": topic[:, d] for d in range(8)}
        objective = Crossed(Similarity(tau=tau), measure=LogProbability(mean=False), beta=3.0)
        w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([w], lr=0.02)
        for _ in range(300):
            scores = Scores(
                (features @ w)[:, None], torch.ones(2 * N, 1).double(), torch.from_numpy(np.where(good, 1, -1)),
                torch.arange(2 * N), values=values,
            )  # fmt: skip
            adam.zero_grad()
            objective(scores).mean(scores).backward()
            adam.step()
        found = w.detach().numpy()
        ranked = fair @ found
        figures |= {name: found[1] / found[0], f"{name}_accuracy": (ranked[:, 0] > ranked[:, 1]).mean()}
    return figures
