"""150 LCPO (RE-PO): latent collective preference optimisation, robust alignment by EM. arXiv 2509.24159 (ICLR 2026).

Whether a label is right is latent. For any pair loss L the policy itself says how plausible it is, by the Gibbs
link, and an annotator k is right with probability eta_k:

    p   = sigma( L(l, w) - L(w, l) )                                 for DPO sigma( beta h ), exactly
    c   = eta_k p / ( eta_k p + (1 - eta_k)(1 - p) )                  the posterior, without gradient
    L_c = c L(w, l) + (1 - c) L(l, w)                                 in the other order all roles swap
    eta_k <- (1 - m) eta_k + m mean of c over the step's labels by k  after every step

At the start of DPO p = 1/2, so c = eta: labels smoothed by 1 - eta, then each by its own. eta_0 = 0.9, m = 0.1 and
the bounds 0.501 and 0.999 of eta (below a half the truth would change its sign) are reconstructed; the algebra is
the paper's, and that it finds the reliabilities when p is calibrated is a test. eta is in the trainer's checkpoints,
in every row of metrics (``reliability/k``) and beside the trained model in objective.safetensors. RPO is what the
paper's first version called it; two other papers have that name.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from safetensors.torch import load_file

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.with_values import has, with_values
from prefine.engine.learner import LEARNT
from prefine.formats import pairs_of
from prefine.objectives.noise import posterior
from prefine.registry import Part
from prefine.run import Run
from prefine.worlds.loglinear import LogLinear


@system(
    150, "lcpo", "LCPO: latent collective preference optimization, a general framework for robust LLM alignment",
    family="objective", paper="arXiv 2509.24159", on_worlds={"lr": 1e-3, "epochs": 2}, question="implicit-reward",
    data="noisy-pairs, diverse-pairs", reference="fixed, none",
)  # fmt: skip
def lcpo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    over: Part = Part("dpo(beta=0.1)"),  # noqa: B008 (a text)
    eta: float = 0.9,
    momentum: float = 0.1,
    by: str = "annotator",
) -> PolicyHandle:
    """Any pair loss on labels of unknown quality: each is weighed against its flip by how plausible it is.

    Use it when some labels are wrong and nobody knows how many, or when annotators of unlike quality are known by
    name. Not when the rate is known (see rdpo), nor for long training: reliability and size of the margins are told
    apart by little, so trained on and on it trusts itself, margins grow beyond the truth and p is overconfident.

    over: the pair loss, as simpo(beta=2.5) or ipo. eta: the reliability that is assumed at first. momentum: how fast
    it follows. by: the column that says who gave a label; without it all are one annotator's.
    """
    loss, columns = objectives.lcpo(objectives.read(over), eta, momentum), {"annotator": by}
    if not has(pairs[0], "annotator", columns):
        return run.train(policy, pairs, objective=loss)
    known = run.curate(pairs, with_values("annotator", columns))
    people = 1 + int(max(float(c.values["annotator"]) for c in known))  # type: ignore[arg-type]
    loss = objectives.lcpo(objectives.read(over), eta, momentum, annotators=people)
    return run.train(policy, known, objective=loss)


@claim(
    "lcpo",
    statement="On 2,000 pairs of a known log-linear reward with 30% of the labels flipped, LCPO over DPO has less than "
    "0.6 of DPO's relative parameter error on average over seeds, gives clean labels a posterior above that of flipped "
    "ones by more than 0.15, and agrees with the clean labels at most one point less.",
    baseline="dpo",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: bool(
        f["error_lcpo"].mean() < 0.6 * f["error_dpo"].mean()
        and f["posterior_gap"].mean() > 0.15
        and f["clean_accuracy_lcpo"].mean() > f["clean_accuracy_dpo"].mean() - 0.01
    ),
)
def parameters_from_labels_of_unknown_quality(lab: Lab, seed: int) -> Mapping[str, float]:
    """d = 10, |theta| = 2, beta = 1, eta_0 = 0.9, momentum 0.1; 600 steps of 50 pairs for both."""
    world = LogLinear(pairs=2000, dimensions=10, flips=(0.3,), seed=seed)
    run = lab.run("latent", seed, lr=0.1, batch_size=50, epochs=15, warmup=0.0, clip=None, log_every=50)
    base = run.policy(world.base(lab.root / "bases"))
    pairs = run.curate(run.slates(world.slates()), lambda slates, rng: pairs_of(slates))
    plain = run.train(base, pairs, objective=objectives.dpo(1.0))
    latent = run.train(base, pairs, objective=objectives.lcpo(objectives.dpo(1.0), 0.9, 0.1, annotators=1))
    eta = load_file(latent.path / LEARNT)["objective.eta_K"][0]
    ratio = np.asarray(run.logps(latent, pairs).sums()) - np.asarray(run.logps(base, pairs).sums())
    right = posterior(eta.double(), torch.tensor(ratio[:, 0] - ratio[:, 1])).numpy()
    return {
        "error_dpo": world.error(plain.load()),  # type: ignore[arg-type]
        "error_lcpo": world.error(latent.load()),  # type: ignore[arg-type]
        "posterior_gap": float(right[~world.flipped].mean() - right[world.flipped].mean()),
        "reliability": float(eta),
        "clean_accuracy_dpo": world.accuracy(plain.load()),  # type: ignore[arg-type]
        "clean_accuracy_lcpo": world.accuracy(latent.load()),  # type: ignore[arg-type]
    }
