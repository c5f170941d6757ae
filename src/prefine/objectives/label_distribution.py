"""A list of samples as one soft label: the policy's distribution over them towards that of their scores (LDL-GRPO)."""

from __future__ import annotations

from prefine.objectives.combine import Sum, add, scale
from prefine.objectives.distributions import ByReward, Distributions, forward
from prefine.objectives.measures import LogRatio
from prefine.objectives.policy_gradient import Nearby
from prefine.registry import at_least, positive


def label_distribution(
    beta: float = 0.1, tau: float = 0.5, kl_coef: float = 0.02, score: str = "reward", reference: str = "reference"
) -> Sum:
    """Label-distribution learning over a group of samples (LDL-GRPO, arXiv 2601.20687; formulas reconstructed).

    L = -sum_k d_k log q_k + kl_coef k3,  d = softmax( u / tau ), a constant,  q = softmax( s ),
    s_k = beta/|y_k| log pi(y_k)/ref(y_k);  u the members' value ``score``, k3 = ref/pi - log ref/pi - 1 a token.
    dL/ds_k = q_k - d_k: at pi = ref that is -(d_k - 1/K), an advantage without a deviation to divide by. Least at
    q = d. For two samples and tau -> 0 it is DPO on token means; equal scores hold the group together.

    >>> import math, torch
    >>> from prefine.objectives import Scores
    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], reward=torch.tensor([[1.0, 0.0]]))  # s = 1, -1
    >>> round(float(label_distribution(beta=1.0, tau=1e-3, kl_coef=0.0)(s).mean(s)) - math.log(1 + math.exp(-2)), 6)
    0.0
    """
    positive(beta=beta, tau=tau)
    at_least(0, kl_coef=kl_coef)
    towards = Distributions(ByReward(score, tau), LogRatio(mean=True, reference=reference), beta, forward)
    return add(towards, scale(kl_coef, Nearby(reference, "response"))) if kl_coef else add(towards)
