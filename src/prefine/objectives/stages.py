"""Several dimensions one after another: earlier rewards read off the policies of earlier stages, as a margin.

Stage n keeps pi_{n-1}, ..., pi_0. With a_k the weight of stage k's KL and lam of what is to be kept,

    R_1 = a_1 log pi_1/pi_0,     R_k = a_k log pi_k/pi_{k-1} - lam_k R_{k-1}

and stage n, which solves max E[R_n] with KL(pi_n || pi_{n-1}) and E[R_{n-1}] constrained, is
pi_n ~ pi_{n-1} exp( (R_n + lam R_{n-1})/a ), so that R_n = a log pi_n/pi_{n-1} - lam R_{n-1}: a pair loss with the
margin lam (R_{n-1}(y_w) - R_{n-1}(y_l)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.links import logistic, smooth
from prefine.objectives.measures import LogRatio
from prefine.objectives.pairwise import Pairs
from prefine.objectives.scores import Scores
from prefine.registry import at_least, positive


def stage(k: int) -> str:
    """What the policy of stage k is called among the references."""
    return f"stage-{k}"


@dataclass(frozen=True)
class Kept:
    """(G,) the gap of the earlier stages' rewards: lam R_{n-1}, or with ``every`` lam (R_1 + ... + R_{n-1}).

    ``alphas[k - 1]`` is a_k. All from frozen policies.

    >>> s = Scores.of_pairs([0.0], [0.0])
    >>> stages = {"stage-0": torch.tensor([[-2.0], [-2.0]]), "stage-1": torch.tensor([[-1.0], [-3.0]])}
    >>> Kept((0.5,), 2.0)(Scores(**{**vars(s), "references": stages})).tolist()  # 2 * 0.5 * (1 + 1)
    [2.0]
    """

    alphas: tuple[float, ...]
    lam: float
    every: bool = False

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(stage(k) for k in range(len(self.alphas), -1, -1))

    def __call__(self, scores: Scores) -> Tensor:
        reward_N = torch.zeros_like(scores.length_N)
        total_N = torch.zeros_like(reward_N)
        for k, alpha in enumerate(self.alphas, 1):
            ratio_N = scores.sum(scores.references[stage(k)] - scores.references[stage(k - 1)])
            # What stage k kept was lam R_{k-1}, or lam times all rewards before it.
            reward_N = alpha * ratio_N - self.lam * (total_N if self.every else reward_N)
            total_N = total_N + reward_N
        chosen_G, rejected_G = scores.sides(self.lam * (total_N if self.every else reward_N))
        return chosen_G - rejected_G


def sequential(
    stages: int = 2,
    alpha: float = 0.05,
    lam: float = 1.0,
    beta: float = 0.1,
    every: bool = False,
    label_smoothing: float = 0.0,
) -> Pairs:
    """Sequential preference optimisation (Lou et al., arXiv 2405.12739): stage n of several, n = ``stages``.

    L_n = -log sigma( q(y_w) - q(y_l) ),  q = alpha log pi/pi_{n-1} - lam R_{n-1}  (see ``Kept``), token sums. The
    references are "stage-0" (the start) to "stage-{n-1}". Stage 1 is DPO with ``beta`` and "stage-0"; later stages
    have ``alpha``; lam = 0 is DPO with beta = alpha against the stage before. ``every``: keep all earlier rewards.

    >>> s = Scores.of_pairs([-1.0], [-3.0])
    >>> at = {"stage-0": torch.tensor([[-2.0], [-2.0]]), "stage-1": torch.tensor([[-2.0], [-2.0]])}
    >>> round(float(sequential(2, alpha=1.0)(Scores(**{**vars(s), "references": at})).per_contrast), 6)
    0.126928
    """
    at_least(1, stages=stages)
    at_least(0, lam=lam)
    positive(alpha=alpha, beta=beta)
    link = smooth(logistic, label_smoothing)
    if stages == 1:
        return Pairs(LogRatio(reference=stage(0)), link, beta)
    kept = Kept((beta, *(alpha,) * (stages - 2)), lam, every)
    return Pairs(LogRatio(reference=stage(stages - 1)), link, alpha, kept)
