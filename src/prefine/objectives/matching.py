"""Distribution matching: supervised fine-tuning as learning a reward, one loss an f-divergence.

min_pi D_f(pi || E) + beta KL(pi || ref), E the demonstrations, has the dual

    max_r E_E[ phi(r) ] - V(r),   phi(u) = -f*(-u),   r = beta log pi/ref + V

with f the generator on the ratio pi/E and f* its conjugate. Adding c (t - 1) to f changes no divergence and only
shifts u by c, as a shift of r by V does: the generators are taken with f'(1) = 0 and V = 0, so every phi has
phi(0) = 0 and (total variation too) phi'(0) = 1. All start with the gradient of ordinary supervised fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.likelihood import Likelihood
from prefine.objectives.measures import LogRatio
from prefine.objectives.scores import Scores
from prefine.registry import one_of, positive

INSIDE = 1e-3
"""How near the end of its domain a phi is followed; beyond, it stays as it is there."""


def total_variation(u: Tensor) -> Tensor:
    """u, from f(t) = |t - 1|/2 (whose |u| <= 1/2 is dropped): ordinary supervised fine-tuning."""
    return u


def pearson(u: Tensor) -> Tensor:
    """u - u^2/4, from f(t) = (t - 1)^2: highest at u = 2, so the push ends there and turns round.

    >>> pearson(torch.tensor([0.0, 2.0, 4.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    return u - u * u / 4


def hellinger(u: Tensor) -> Tensor:
    """u/(1 + u) for u > -1, from f(t) = (sqrt t - 1)^2: the push dies down as 1/(1 + u)^2.

    >>> hellinger(torch.tensor([0.0, 1.0])).tolist()
    [0.0, 0.5]
    """
    u = u.clamp(min=INSIDE - 1)
    return u / (1 + u)


def jensen_shannon(u: Tensor) -> Tensor:
    """log(2 - exp(-u)) for u > -log 2, from f(t) = t log t - (t + 1) log((t + 1)/2): at most log 2."""
    return torch.log(2 - torch.exp(-u.clamp(min=INSIDE - 0.6931471805599453)))


def reverse_kl(u: Tensor) -> Tensor:
    """1 - exp(-u), from f(t) = t log t - t + 1, KL(pi || E)."""
    return 1 - torch.exp(-u)


def forward_kl(u: Tensor) -> Tensor:
    """log(1 + u) for u > -1, from f(t) = -log t + t - 1, KL(E || pi)."""
    return torch.log1p(u.clamp(min=INSIDE - 1))


DIVERGENCES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "total-variation": total_variation,
    "pearson": pearson,
    "hellinger": hellinger,
    "jensen-shannon": jensen_shannon,
    "reverse-kl": reverse_kl,
    "forward-kl": forward_kl,
}
"""Name -> phi."""


@dataclass(frozen=True)
class Matched:
    """phi( beta log pi(y|x)/ref(y|x) ), a number a row: the log-ratio a token mean, or a sum."""

    phi: Callable[[Tensor], Tensor]
    beta: float
    ratio: LogRatio

    def __call__(self, scores: Scores) -> Tensor:
        return self.phi(self.beta * self.ratio(scores))


def matching(
    divergence: str = "pearson", beta: float = 1.0, mean: bool = True, reference: str = "reference"
) -> Likelihood:
    """Supervised fine-tuning by an f-divergence, held to its base (arXiv 2507.00018).

    L = -phi( beta l ),  l = log pi(y_w|x)/ref(y_w|x), a token mean (or, with ``mean=False``, a sum), the mean over
    demonstrations. "total-variation" is ordinary SFT times beta, which nothing holds; "pearson" stops at
    beta l = 2; the pull of "hellinger", "jensen-shannon", "reverse-kl" and "forward-kl" dies down as l grows.

    >>> s = Scores.of_pairs([-1.0], [0.0], [-3.0], [0.0])  # l = 2
    >>> matching("pearson", beta=1.0)(s).per_contrast.tolist()  # -(2 - 2^2/4), the least there is
    [-1.0]
    """
    positive(beta=beta)
    phi = one_of("divergence", divergence, DIVERGENCES)
    ratio = LogRatio(mean=mean, reference=reference)
    return Likelihood(Matched(phi, beta, ratio), references=ratio.references)
