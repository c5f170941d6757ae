"""Doubly robust: a preference model on fresh samples, corrected by importance-weighted residuals on logged pairs.

    psi(pi) = E_{a* ~ pi}[ g(a*, a2) ] + E_data[ (pi/mu)(a1) (z - g(a1, a2)) ]

z = 1 if a1 was preferred, g(u, v) the preference model's probability that u beats v, mu the logging policy. psi is
the probability that pi beats mu if either g or mu is right. A contrast is one row of the data: a1 with role +1
(z = 1) or -1 (z = 0), samples a* of the policy with role 0. Values: ``residual`` of the contrast, z - g(a1, a2);
``win`` of the members, g(a*, a2) for a sample (of a1 it is not read).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.combine import Sum, add, scale
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least, one_of

Ratio = Callable[[Tensor], Tensor]
"""log(pi/mu) of the logged responses -> their importance weights."""


@dataclass(frozen=True)
class Clipped:
    """(pi/mu) cut to [1/C, C]."""

    C: float

    def __call__(self, log_ratio_G: Tensor) -> Tensor:
        return log_ratio_G.exp().clamp(1 / self.C, self.C)


def raw(log_ratio_G: Tensor) -> Tensor:
    """pi/mu as it is."""
    return log_ratio_G.exp()


def self_normalised(log_ratio_G: Tensor) -> Tensor:
    """pi/mu divided by its mean over the batch: biased a little, bounded by the batch."""
    return log_ratio_G.softmax(0) * len(log_ratio_G)


@dataclass(frozen=True)
class Residual:
    """L1 = -sg[ rho (z - g(a1, a2)) ] log pi(a1), rho the importance weight of the logged response."""

    ratio: Ratio
    reference: str = "reference"
    whole_batch: bool = False

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference,)

    def __call__(self, scores: Scores) -> Loss:
        logged_N = scores.role_N != 0
        rho_G = self.ratio(scores.ratio(self.reference)[logged_N].detach())
        logp_G = scores.sum()[logged_N]
        if len(logp_G) != scores.groups:
            raise ValueError("the doubly robust loss needs one logged response a contrast")
        return Loss.of(-(rho_G * scores.value("residual").detach()) * logp_G)


@dataclass(frozen=True)
class Sampled:
    """L2 = -mean over samples of sg[ v (g(a*, a2) - b) ] log pi(a*): the policy gradient of the direct term.

    v = pi/sampler(a*) cut to [1/C, C], 1 for the first step after sampling; without ``sampler`` it is 1 always.
    """

    baseline: float = 0.0
    sampler: str | None = None
    C: float = 2.5

    @property
    def references(self) -> tuple[str, ...]:
        return () if self.sampler is None else (self.sampler,)

    def __call__(self, scores: Scores) -> Loss:
        own_N = (scores.role_N == 0).to(scores.logp_NT.dtype)
        win_N = scores.value("win")
        v_N = torch.ones_like(own_N)
        if self.sampler is not None:
            v_N = scores.ratio(self.sampler).detach().exp().clamp(1 / self.C, self.C)
        gain_N = (v_N * (win_N - self.baseline)).detach() * scores.sum()
        return Loss.of(-scores.over_group(own_N * gain_N) / scores.over_group(own_N).clamp(min=1))


@dataclass(frozen=True)
class SampledKL:
    """The k3 estimate of KL(pi || ref) on the samples: sum_t exp(d) - d - 1, d = log ref - log pi, with gradient.

    >>> s = Scores(torch.tensor([[-1.0]]), torch.ones(1, 1), torch.tensor([0]), torch.tensor([0]),
    ...            {"reference": torch.tensor([[-1.0]])})
    >>> SampledKL()(s).per_contrast.tolist()
    [0.0]
    """

    reference: str = "reference"

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference,)

    def __call__(self, scores: Scores) -> Loss:
        own_N = (scores.role_N == 0).to(scores.logp_NT.dtype)
        # Of samples alone: a logged response far below the reference would be 0 times infinity.
        d_NT = torch.where(own_N[:, None] > 0, -scores.ratio_NT(self.reference), 0.0)
        kl_N = scores.sum(d_NT.exp() - d_NT - 1)
        return Loss.of(scores.over_group(own_N * kl_N) / scores.over_group(own_N).clamp(min=1))


def doubly_robust(
    beta: float = 0.04,
    C: float = 2.5,
    ratio: str = "clip",
    estimator: str = "doubly-robust",
    baseline: float = 0.0,
    sampler: str | None = None,
    reference: str = "reference",
) -> Objective:
    """Doubly robust preference optimisation (Xu et al., arXiv 2506.01183): L1 + L2 + beta KL, means over contrasts.

    ``estimator``: "doubly-robust", or one term alone: "direct" (L2) or "importance" (L1; its residual is then z, which
    the curator ``both_orders`` writes with ``model=False``). ``ratio``: "clip" to [1/C, C], "none", "self-normalised".
    ``sampler`` names the reference that drew the samples when a round has several steps. ``reference`` is the logging
    policy. See the module for the contrasts.

    >>> doubly_robust(baseline=0.5).references
    ('reference',)
    """
    at_least(0, beta=beta)
    at_least(1, C=C)
    ratios: Mapping[str, Ratio] = {"clip": Clipped(C), "none": raw, "self-normalised": self_normalised}
    weigh = one_of("ratio", ratio, ratios)
    residual = Residual(weigh, reference, whole_batch=ratio == "self-normalised")
    direct = Sampled(baseline, sampler, C)
    parts: Mapping[str, tuple[Objective, ...]] = {
        "doubly-robust": (residual, direct),
        "direct": (direct,),
        "importance": (residual,),
    }
    terms = one_of("estimator", estimator, parts)
    return add(*terms, scale(beta, SampledKL(reference))) if beta else Sum(terms)


def value(pi_A: Tensor, mu_A: Tensor, log_A: Tensor, g_AA: Tensor, P_AA: Tensor) -> float:
    """psi, exactly: target pi, assumed logging policy mu, true logging policy, preference model, true preference.

    >>> half = torch.full((2, 2), 0.5)
    >>> value(torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5]), half, half)
    0.5
    """
    direct = pi_A @ g_AA @ log_A
    residual = (log_A * pi_A / mu_A) @ (P_AA - g_AA) @ log_A
    return float(direct + residual)
