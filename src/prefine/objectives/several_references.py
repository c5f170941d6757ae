"""Several references at once: as one virtual reference, their weighted harmonic mean, or as one loss each.

The first is the usual reference. The others come as values of the members: the log-probability that each of them
gives to the whole response (``curating.with_logps``), so they may have another tokenizer, and cost nothing in
training. Shapes: K references, N rows, G pairs; nothing here but the policy's own log-probabilities has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.errors import InputError
from prefine.objectives.links import Link, logistic
from prefine.objectives.pairwise import Pairs
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.objectives.wrap import plus_likelihood
from prefine.registry import at_least, between, one_of, positive

TINY = 1e-6

Weigh = Callable[[Tensor], Tensor]
"""(K, G) margins of the references -> (K, G) weights that sum to 1 over the references."""
Band = Callable[[Tensor, Scores], Tensor]
"""(K, N) log-probabilities -> (N,) share of the whole width that a response's band has."""


# -- weights


def own(margin_KG: Tensor) -> Tensor:
    """a_k = |m_k| / sum_j |m_j|: the more clearly a reference tells the two apart, the more it counts.

    >>> [round(float(a), 3) for a in own(torch.tensor([[1.0], [-3.0]])).flatten()]
    [0.25, 0.75]
    """
    clear_KG = margin_KG.abs() + TINY  # equal weights where none tells them apart
    return clear_KG / clear_KG.sum(0)


def of_the_others(margin_KG: Tensor) -> Tensor:
    """a_k = (1 - own_k)/(K - 1): what each of the others is due, shared. With two, their weights are exchanged."""
    K = len(margin_KG)
    return own(margin_KG) if K == 1 else (1 - own(margin_KG)) / (K - 1)


def equal(margin_KG: Tensor) -> Tensor:
    """a_k = 1/K."""
    return torch.full_like(margin_KG, 1 / len(margin_KG))


WEIGHTS: Mapping[str, Weigh] = {"own": own, "code": of_the_others, "equal": equal}


@dataclass(frozen=True)
class Fixed:
    """Stated weights, the first reference's first, scaled to sum to 1."""

    shares: tuple[float, ...]

    def __call__(self, margin_KG: Tensor) -> Tensor:
        if len(self.shares) != len(margin_KG):
            raise ValueError(f"{len(self.shares)} weights for {len(margin_KG)} references (the first one included)")
        shares = margin_KG.new_tensor(self.shares)
        return (shares / shares.sum())[:, None].expand_as(margin_KG)


# -- bands


def by_likelihood(logp_KN: Tensor, scores: Scores) -> Tensor:
    """|b_y| / (|b_w| + |b_l|), b_y the mean of the references' log-probabilities of a response."""
    size_N = logp_KN.mean(0).abs()
    both_G = scores.over_group(size_N * (scores.role_N != 0))
    return size_N / both_G.clamp(min=TINY)[scores.group_N]


def whole(logp_KN: Tensor, scores: Scores) -> Tensor:
    """1 for every response."""
    return torch.ones_like(logp_KN[0])


BANDS: Mapping[str, Band] = {"adaptive": by_likelihood, "fixed": whole}


@dataclass(frozen=True)
class References:
    """The references of a batch: their log-probabilities, clipped to a band around the first, and their weights."""

    others: tuple[str, ...]
    weigh: Weigh = own
    eps: float | None = 0.1
    band: Band = by_likelihood
    reference: str = "reference"

    def __call__(self, scores: Scores) -> tuple[Tensor, Tensor]:
        """((K, N) clipped log-probabilities, (K, G) weights), without gradient."""
        first_N = scores.sum(scores.references[self.reference])
        more = [scores.value(name) for name in self.others]
        if any(len(logp) != len(first_N) for logp in more):
            raise ValueError("a reference's log-probability belongs to a response: give a number for each member")
        raw_KN = torch.stack([first_N, *more]).detach()
        margin_KG = torch.stack([scores.over_group(logp_N * scores.role_N) for logp_N in raw_KN])
        if self.eps is None:
            return raw_KN, self.weigh(margin_KG)
        width_N = (self.eps * self.band(raw_KN, scores) * raw_KN[0]).abs()
        near_KN = torch.minimum(torch.maximum(raw_KN, raw_KN[0] - width_N), raw_KN[0] + width_N)
        return near_KN, self.weigh(margin_KG)


@dataclass(frozen=True)
class VirtualRatio:
    """log pi(y) - s~(y),  s~(y) = -log sum_k a_k exp(-s_k(y)): the log-ratio to the references' harmonic mean.

    >>> s = Scores.of_pairs([-1.0], [-1.0], [-2.0], [-2.0], second=torch.tensor([[-2.0, -3.0]]))
    >>> [round(float(x), 4) for x in VirtualRatio(References(("second",), equal, None))(s)]  # -log (e^2 + e^3)/2
    [1.0, 1.6201]
    """

    of: References

    @property
    def references(self) -> tuple[str, ...]:
        return (self.of.reference,)

    def __call__(self, scores: Scores) -> Tensor:
        logp_KN, weight_KG = self.of(scores)
        return scores.sum() + torch.logsumexp(weight_KG.log()[:, scores.group_N] - logp_KN, 0)


@dataclass(frozen=True)
class OneEach:
    """sum_k a_k link( beta [ (log pi - s_k)(w) - (log pi - s_k)(l) ] ): the losses averaged, not the references."""

    of: References
    link: Link = logistic
    beta: float = 0.1

    @property
    def references(self) -> tuple[str, ...]:
        return (self.of.reference,)

    def __call__(self, scores: Scores) -> Loss:
        logp_KN, weight_KG = self.of(scores)
        gaps = [chosen - rejected for chosen, rejected in (scores.sides(scores.sum() - s_N) for s_N in logp_KN)]
        return Loss.of((weight_KG * self.link(self.beta * torch.stack(gaps))).sum(0))


def mrpo(
    beta: float = 0.1,
    others: str | tuple[str, ...] = "second",
    weights: str | tuple[float, ...] = "own",
    eps: float | None = 0.1,
    band: str = "adaptive",
    eta: float = 0.0,
) -> Objective:
    """Multi-reference preference optimisation (Le et al., arXiv 2405.16388): DPO against a harmonic mean.

    L = -log sigma( beta [ (log pi - s~)(y_w) - (log pi - s~)(y_l) ] ) - eta log pi(y_w)/|y_w|,
    s~(y) = -log sum_k a_k exp(-s_k(y)), s_1 the reference's log-probability of the response, s_k for k > 1 the
    members' values ``others`` (names with spaces between), clipped to s_1 (1 -+ e_y). e_y = eps |b_y|/(|b_w| + |b_l|)
    with b the mean of the s_k ("adaptive"), or eps ("fixed"); no clipping where eps is None.
    weights: "own", by |s_k(y_w) - s_k(y_l)| before clipping; "code", the released code's, where the other one's clarity
    counts; "equal"; or numbers, the first reference's first. One reference, or eps = 0: DPO.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], second=torch.tensor([[-1.0, -4.0]]))
    >>> round(float(mrpo(1.0, eps=0.0)(s).mean(s)), 6)  # DPO: h = 2
    0.126928
    """
    positive(beta=beta)
    at_least(0, eta=eta)
    made: Objective = Pairs(VirtualRatio(_references(others, weights, eps, band)), logistic, beta)
    return plus_likelihood(made, eta) if eta else made


def multi_dpo(
    beta: float = 0.1,
    others: str | tuple[str, ...] = "second",
    weights: str | tuple[float, ...] = "own",
    eps: float | None = 0.1,
    band: str = "adaptive",
) -> OneEach:
    """The mean of the DPO losses of several references, the baseline of arXiv 2405.16388: sum_k a_k L_DPO(s_k).

    Options as of ``mrpo``.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], second=torch.tensor([[-1.0, -3.0]]))  # h = 2 and 0
    >>> round(float(multi_dpo(1.0, weights=(1, 1), eps=None)(s).mean(s)), 6)  # (0.126928 + 0.693147)/2
    0.410038
    """
    positive(beta=beta)
    return OneEach(_references(others, weights, eps, band), logistic, beta)


def _references(
    others: str | tuple[str, ...], weights: str | tuple[float, ...], eps: float | None, band: str
) -> References:
    names = tuple(others.split()) if isinstance(others, str) else tuple(others)
    if eps is not None:
        between(0, 1, eps=eps)
    if isinstance(weights, str):
        return References(names, one_of("weights", weights, WEIGHTS), eps, one_of("band", band, BANDS))
    shares = tuple(float(share) for share in weights)
    if len(shares) != len(names) + 1 or min(shares) < 0 or not sum(shares) > 0:
        raise InputError(
            f"{shares} are no weights of {len(names) + 1} references",
            remedy="give a number, 0 or above, for each: the first reference's first",
        )
    return References(names, Fixed(shares), eps, one_of("band", band, BANDS))
