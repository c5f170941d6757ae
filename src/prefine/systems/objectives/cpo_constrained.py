"""143 CPO (constrained): when DPO is not RLHF, and a margin that makes up for it. arXiv 2605.20834 (ICML 2026).

With Delta = log pi(y_w) - log pi(y_l) and Delta_ref of the reference, RLHF's optimum on a pair with reward gap G has
beta (Delta* - Delta_ref) = G: it prefers y_w only if Delta_ref > -G/beta. Where the reference is more against it,
DPO's loss falls while y_l stays preferred (Delta_ref < Delta < 0, the undesirable region). Adding
gamma (log pi(y_w) - log pi(y_l)) to RLHF's objective gives the stationary condition

    G = beta (Delta - Delta_ref) - gamma (1/pi(y_w) + 1/pi(y_l))

and, with the reference in the bracket, DPO with a margin that is a constant of the pair:

    L = -log sigma( beta (Delta - Delta_ref) - m ),   m = gamma ( 1/ref(y_w) + 1/ref(y_l) )

Objective, condition and margin are the published ones (read in an independent audit, which did not find a clear gain
of learned policies). How a sequence enters m is ours: 1/ref of a whole response is out of any scale, so probabilities
are token means, exp(log ref(y)/|y|), and m is capped. The paper's own practical variant could not be read; as a
careful alternative, m = beta max(0, -Delta_ref) + gamma asks for Delta >= 0 and no more. Note that m is large for
all unlikely pairs, also those that the reference already ranks rightly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.objectives import Objective, Scores, diagnosis
from prefine.run import Run


@system(
    143, "cpo-constrained", "CPO (constrained): conditional equivalence of DPO and RLHF",
    family="objective", paper="arXiv 2605.20834", on_worlds={"lr": 1e-3, "epochs": 2, "gamma": 0.2},
    question="implicit-reward", beta="adaptive",
)  # fmt: skip
def cpo_constrained(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    beta: float = 0.1,
    gamma: float = 0.1,
    margin: Literal["stationary", "conservative"] = "stationary",
    cap: float = 5.0,
    mean: bool = True,
    label_smoothing: float = 0.0,
) -> PolicyHandle:
    """DPO with a margin set by how unlikely the reference finds the pair, and a count of where the pairs end.

    Use it when the model starts out preferring many of the rejected responses: the report's notes say how many
    (reference_against), how many DPO-like progress leaves behind (undesirable) and how many changed sides
    (escaped). Not when the reference already ranks the pairs: there the margin only makes for longer strides.

    gamma: weight of the constraint (so that most margins are 0.1 to 1). cap: largest margin.
    margin: "stationary" (the paper's) or "conservative" (beta max(0, -Delta_ref) + gamma).
    mean: probabilities a token in the margin; False takes whole responses (single tokens, bandits).
    """
    objective = objectives.constrained(beta, gamma, margin, cap, mean, label_smoothing)
    trained = run.train(policy, pairs, objective=objective)
    before, after = deltas(run, policy, pairs), deltas(run, trained, pairs)
    run.note(**diagnosis(after, before))
    return trained


def deltas(run: Run, policy: PolicyHandle, pairs: Contrasts) -> np.ndarray:
    """log pi(y_w) - log pi(y_l) of every pair, token sums."""
    logp = np.asarray(run.logps(policy, pairs).sums())
    return np.asarray(logp[:, 0] - logp[:, 1])


@claim(
    "cpo-constrained",
    statement="From a reference that prefers most rejected responses, after 12 equal full-batch steps the share of "
    "held-out pairs with the chosen preferred, and the share of pairs that changed sides, are each at least 0.08 "
    "higher with CPO than with DPO in every seed, and DPO leaves at least 45% of the pairs "
    "on the rejected side. What the margin buys here is stride: DPO going on until it has CPO's KL to the reference is "
    "within 0.03 of CPO in both shares.",
    baseline="dpo",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        bool(np.all(f["cpo_preferred"] - f["dpo_preferred"] >= 0.08))
        and bool(np.all(f["cpo_escaped"] - f["dpo_escaped"] >= 0.08))
        and bool(np.all(f["dpo_preferred"] < 0.55))
        and bool(np.all(abs(f["cpo_preferred"] - f["dpo_same_kl_preferred"]) < 0.03))
        and bool(np.all(abs(f["cpo_escaped"] - f["dpo_same_kl_escaped"]) < 0.03))
    ),
)
def against_the_reference(lab: Lab, seed: int) -> Mapping[str, float]:
    """A log-linear policy over two responses a prompt, 20 features, exactly: plain gradient descent on 1000 pairs."""
    rng = np.random.default_rng(seed)
    train_PD, test_PD = torch.as_tensor(rng.normal(size=(2, 1000, 20)))  # features of y_w less those of y_l
    truth_D = torch.as_tensor(rng.normal(size=20))
    train_PD, test_PD = (x * (x @ truth_D).sign()[:, None] for x in (train_PD, test_PD))
    flipped = torch.as_tensor(np.where(rng.random(1000) < 0.6, -1.0, 1.0))
    nothing_D = torch.zeros(20, dtype=torch.float64)
    reference_D = descended(objectives.dpo(1.0), train_PD * flipped[:, None], nothing_D, steps=400, lr=0.5)[-1]

    def stands(theta_D: Tensor, name: str) -> dict[str, float]:
        delta, delta_ref = test_PD @ theta_D, test_PD @ reference_D
        found = diagnosis(delta.numpy(), delta_ref.numpy())
        kl = delta.sigmoid() * (logsigmoid(delta) - logsigmoid(delta_ref))
        kl += (-delta).sigmoid() * (logsigmoid(-delta) - logsigmoid(-delta_ref))
        return {f"{name}_{what}": x for what, x in {**found, "kl": float(kl.mean())}.items()}

    def arm(objective: Objective, steps: int) -> list[Tensor]:
        return descended(objective, train_PD, reference_D, steps, lr=0.05)

    cpo = stands(arm(objectives.constrained(1.0, 0.3, mean=False), 12)[-1], "cpo")
    dpo = [stands(theta_D, "dpo") for theta_D in arm(objectives.dpo(1.0), 60)]
    same = next((i for i, found in enumerate(dpo) if found["dpo_kl"] >= cpo["cpo_kl"]), len(dpo) - 1)
    at_same_kl = {name.replace("dpo", "dpo_same_kl"): x for name, x in dpo[same].items()}
    start = {"reference_preferred": 1 - dpo[0]["dpo_reference_against"], "dpo_steps_to_the_same_kl": float(same + 1)}
    return {**start, **cpo, **dpo[11], **at_same_kl}


def descended(objective: Objective, pairs_PD: Tensor, start_D: Tensor, steps: int, lr: float) -> list[Tensor]:
    """The parameters after every step. log pi(y_w) and log pi(y_l) are those of a softmax over the two."""
    delta_ref = pairs_PD @ start_D
    theta_D, found = start_D.clone().requires_grad_(), []
    for _ in range(steps):
        delta = pairs_PD @ theta_D
        sides = (logsigmoid(delta), logsigmoid(-delta), logsigmoid(delta_ref), logsigmoid(-delta_ref))
        scores = Scores.of_pairs(*sides)
        (slope_D,) = torch.autograd.grad(objective(scores).mean(scores), theta_D)
        with torch.no_grad():
            theta_D -= lr * slope_D
        found.append(theta_D.detach().clone())
    return found
