"""The reverse KL from the policy's own samples, by its score function; and a pair loss with it.

KL(pi || ref) is an expectation under the policy, so its gradient needs samples of the policy and the score:

    grad KL = E_{y ~ pi}[ (log pi(y) - log ref(y)) grad log pi(y) ]

(differentiating the log-ratio itself gives E[ grad log pi ] = 0). Samples are the members with role 0, any
number a contrast. The value of such a loss is not the KL; its gradient is the KL's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.combine import Sum, add, scale
from prefine.objectives.pairwise import dpo
from prefine.objectives.scores import Loss, Scores
from prefine.registry import at_least, positive


@dataclass(frozen=True)
class ReverseKL:
    """1/k sum_i sg[ w_i (R_i - b_i) ] log pi(y_i),  R = log pi(y) - log ref(y), b_i the mean of the other k - 1 R's.

    ``sampler`` names the reference that drew the samples, when that is not the policy as it is now: then
    w = pi(y)/sampler(y), cut at ``most``, which keeps the gradient right (up to the cut) while the policy moves
    away from its samples; w = 1 without. b does not depend on y_i, so it changes no expectation (k = 1: b = 0).
    ``per_token`` credits every token with the log-ratios from it on, sum_t sg[ w sum_{s >= t} R_s ] log pi(y_t):
    the same in expectation, less variance on long responses, no baseline.

    >>> s = Scores(torch.tensor([[-1.0], [-2.0]]), torch.ones(2, 1), torch.zeros(2), torch.tensor([0, 0]),
    ...            {"reference": torch.tensor([[-3.0], [-1.0]])})  # R = 2 and -1
    >>> ReverseKL()(s).per_contrast.tolist()  # ((2 + 1) (-1) + (-1 - 2) (-2)) / 2
    [1.5]
    """

    reference: str = "reference"
    sampler: str | None = None
    per_token: bool = False
    most: float = 10.0

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference,) if self.sampler is None else (self.reference, self.sampler)

    def __call__(self, scores: Scores) -> Loss:
        own_N = (scores.role_N == 0).to(scores.logp_NT.dtype)
        k_N = scores.over_group(own_N)[scores.group_N].clamp(min=1)
        credit = self._to_go(scores) if self.per_token else self._against_others(scores, own_N, k_N)
        weight_NT = (self._importance(scores) * own_N / k_N)[:, None] * credit
        return Loss.of(scores.over_group(scores.sum(weight_NT.detach() * scores.logp_NT)))

    def _against_others(self, scores: Scores, own_N: Tensor, k_N: Tensor) -> Tensor:
        R_N = scores.ratio(self.reference).detach() * own_N
        others_N = scores.over_group(R_N)[scores.group_N] - R_N
        return (R_N - others_N / (k_N - 1).clamp(min=1))[:, None]

    def _to_go(self, scores: Scores) -> Tensor:
        R_NT = scores.ratio_NT(self.reference).detach() * scores.mask_NT
        return R_NT.flip(-1).cumsum(-1).flip(-1)

    def _importance(self, scores: Scores) -> Tensor:
        if self.sampler is None:
            return torch.ones_like(scores.logp_NT[:, 0])
        return scores.ratio(self.sampler).detach().exp().clamp(max=self.most)


def hypo(
    beta: float = 0.05,
    lam: float = 1e-4,
    sampler: str | None = None,
    per_token: bool = False,
    reference: str = "reference",
) -> Sum:
    """Hybrid preference optimisation (Song et al., arXiv 2406.01462, alg. 1): offline DPO, online reverse KL.

    L = -log sigma(beta h) + lam * ReverseKL: DPO on the pair of a contrast, the score-function KL on its members
    with role 0, unlabelled samples of the policy at temperature 1. lam = 0 is DPO. See ``ReverseKL`` for
    ``sampler`` and ``per_token``.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])  # without samples there is no KL
    >>> round(float(hypo(beta=1.0, lam=0.5)(s).mean(s)), 6)  # log(1 + exp(-2))
    0.126928
    """
    positive(beta=beta)
    at_least(0, lam=lam)
    return add(dpo(beta, reference=reference), scale(lam, ReverseKL(reference, sampler, per_token)))
