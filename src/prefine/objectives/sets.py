"""Sets: some responses of a prompt accepted, some rejected, as many as there are.

One softmax over both sets (``SetContrast``: MPO), or separate likelihoods of each held together by a divergence
from the reference (``pmpo``). Roles say who is in which set; members with role 0 are in neither. Shapes: N
members of G contrasts, sets of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prefine.errors import InputError
from prefine.objectives.combine import Sum, add, scale
from prefine.objectives.likelihood import token_sum
from prefine.objectives.measures import LOG_RATIO, LogRatio, Measure
from prefine.objectives.readings import Distribution, Reading, kl
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least, one_of, positive


def log_sum_exp(scores: Scores, x_N: Tensor, within_N: Tensor) -> Tensor:
    """(G,) log of the sum of exp(x) over the members of each contrast that are within; -inf where none is.

    >>> s = Scores.of_pairs([0.0], [0.0])
    >>> round(float(log_sum_exp(s, torch.zeros(2), torch.tensor([True, True]))), 6)  # log 2
    0.693147
    """
    inside = torch.where(within_N, x_N, torch.full_like(x_N, -torch.inf))
    start_G = torch.full((scores.groups,), -torch.inf, dtype=x_N.dtype, device=x_N.device)
    largest_G = start_G.scatter_reduce(0, scores.group_N, inside.detach(), "amax")
    largest_G = torch.where(largest_G.isfinite(), largest_G, torch.zeros_like(largest_G))
    return scores.over_group((inside - largest_G[scores.group_N]).exp()).log() + largest_G


def side_mean(scores: Scores, x_N: Tensor, within_N: Tensor) -> Tensor:
    """(G,) mean over the members of each contrast that are within; 0 where none is.

    >>> side_mean(Scores.of_pairs([0.0], [0.0]), torch.tensor([1.0, 3.0]), torch.tensor([True, True])).tolist()
    [2.0]
    """
    counted_N = within_N.to(x_N.dtype)
    return scores.over_group(x_N * counted_N) / scores.over_group(counted_N).clamp(min=1)


# -- one softmax over both sets


@dataclass(frozen=True)
class SetContrast:
    """L = -log [ sum over accepted of exp(b_i) / sum over both sets of exp(b_i) ],  b = beta m(y) + bonus.

    One value a contrast. The bonus is a constant: a weight exp(bonus) on the member.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> round(float(SetContrast(beta=1.0)(s).mean(s)), 6)  # as DPO: log(1 + exp(-2))
    0.126928
    """

    of_sets: ClassVar[bool] = True
    measure: Measure = LOG_RATIO
    beta: float = 1.0
    bonus: Callable[[Scores], Tensor] | None = None

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        accepted_N, taking_part_N = scores.role_N > 0, scores.role_N != 0
        if not bool((scores.over_group(accepted_N.float()) > 0).all()):
            raise ValueError("this objective needs an accepted response in every contrast")
        b_N = self.beta * self.measure(scores)
        if self.bonus is not None:
            b_N = b_N + self.bonus(scores).detach()
        return Loss.of(log_sum_exp(scores, b_N, taking_part_N) - log_sum_exp(scores, b_N, accepted_N))


@dataclass(frozen=True)
class Deviation:
    """alpha |r - mean r|^power for a value of the members, the mean over those with a side; or signed.

    >>> s = Scores.of_pairs([0.0], [0.0], score=torch.tensor([[4.0, 1.0]]))
    >>> Deviation("score", 2.0)(s).tolist(), Deviation("score", 2.0, signed=True)(s).tolist()
    ([3.0, 3.0], [3.0, -3.0])
    """

    name: str
    alpha: float
    power: int = 1
    signed: bool = False

    def __call__(self, scores: Scores) -> Tensor:
        r_N = scores.value(self.name)
        if len(r_N) != len(scores.role_N):
            raise ValueError(f"the value {self.name!r} is needed for every response, and there is one a contrast")
        away_N = r_N - side_mean(scores, r_N, scores.role_N != 0)[scores.group_N]
        return self.alpha * (away_N if self.signed else away_N.abs() ** self.power)


def mpo_set(
    beta: float = 0.01, alpha: float = 1.0, power: int = 1, signed: bool = False, reference: str = "reference"
) -> SetContrast:
    """Multi-preference optimisation over sets (Gupta et al., arXiv 2412.04628; earlier SWEPO).

    L = -log [ sum_{i in Y+} w_i e^{beta s_i} / sum_{i in Y+ u Y-} w_i e^{beta s_i} ],  s_i = log pi(y_i)/ref(y_i),
    w_i = exp(alpha |r_i - mean r|^power), constants, from the value "score" of the members (``signed``: without
    the absolute value, power 1). alpha = 0 or power = 0: all weights alike, which one against one is DPO.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> from prefine.objectives import dpo
    >>> torch.allclose(mpo_set(beta=0.5, alpha=0.0)(s).mean(s), dpo(0.5)(s).mean(s))
    True
    """
    positive(beta=beta)
    at_least(0, alpha=alpha)
    if one_of("power", str(power), {"0": 0, "1": 1, "2": 2}) == 0:
        alpha = 0.0
    weights = Deviation("score", alpha, power, signed) if alpha else None
    return SetContrast(LogRatio(reference=reference), beta, weights)


# -- likelihoods of each set


@dataclass(frozen=True)
class SetLikelihood:
    """-mean over the members of a side of log pi(y|x), token sums; 0 for a contrast without one.

    >>> s = Scores.of_pairs([-4.0], [-1.0])
    >>> SetLikelihood(1)(s).per_contrast.tolist(), SetLikelihood(-1)(s).per_contrast.tolist()
    ([4.0], [1.0])
    """

    of_sets: ClassVar[bool] = True
    role: int
    measure: Callable[[Scores], Tensor] = token_sum
    references: tuple[str, ...] = ()

    def __call__(self, scores: Scores) -> Loss:
        return Loss.of(-side_mean(scores, self.measure(scores), scores.role_N == self.role))


@dataclass(frozen=True)
class ReferenceKL:
    """KL( ref || pi ), reference first: the mean over a contrast's samples of the reference of sum_t KL_t.

    KL_t = sum over the vocabulary of ref(v|x, y_<t) log [ ref(v|x, y_<t) / pi(v|x, y_<t) ], in closed form.
    ``drawn``: which members are samples of the reference, "all" of them (whatever their role) or the "other"s,
    those with role 0, where the labelled ones come from somewhere else.
    """

    drawn: str = "all"
    reference: str = "reference"

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference,)

    @property
    def readings(self) -> Mapping[str, Reading]:
        return {self._name: Distribution(kl, of=(self.reference, "policy"), gradient=True)}

    @property
    def _name(self) -> str:
        return f"kl of {self.reference}"

    def __call__(self, scores: Scores) -> Loss:
        kl_N = scores.sum(scores.reading(self._name))
        drawn_N = scores.role_N == 0 if self.drawn == "other" else torch.ones_like(kl_N, dtype=torch.bool)
        return Loss.of(side_mean(scores, kl_N, drawn_N))


def pmpo(alpha: float = 0.5, beta: float = 0.5, drawn: str = "all", reference: str = "reference") -> Sum:
    """Preference optimisation as probabilistic inference (Abdolmaleki et al., arXiv 2410.04166).

    L = -alpha mean_{accepted} log pi + (1 - alpha) mean_{rejected} log pi + beta KL(ref || pi), a prompt; log pi
    token sums, the KL in closed form at every position of the reference's samples (``drawn``: "all" members or
    the "other"s). alpha = 1 learns from accepted responses alone, 0 from rejected ones alone; a prompt may lack
    either. Where alpha p_a - (1 - alpha) p_r + beta ref is negative somewhere, L has no lower bound
    (``pmpo_optimum``). beta = 0 leaves out the KL, and the reference with it.

    >>> s = Scores.of_pairs([-4.0], [-1.0])
    >>> pmpo(alpha=0.75, beta=0.0)(s).per_contrast.tolist()  # 0.75 * 4 - 0.25 * 1
    [2.75]
    """
    share("alpha", alpha)
    at_least(0, beta=beta)
    one_of("drawn", drawn, {"all": 1, "other": 0})
    parts: list[Objective] = [scale(alpha, SetLikelihood(1)), scale(alpha - 1, SetLikelihood(-1))]
    held = [scale(beta, ReferenceKL(drawn, reference))] if beta else []
    return add(*parts, *held)


def pmpo_optimum(accepted_A: Tensor, rejected_A: Tensor, reference_A: Tensor, alpha: float, beta: float) -> Tensor:
    """(A,) the minimiser of PMPO's loss over all distributions: w / (2 alpha - 1 + beta), where it exists.

    w = alpha p_a - (1 - alpha) p_r + beta ref. With w negative somewhere that response's probability collapses
    and the loss falls for ever: an error says which beta would hold.

    >>> half = torch.tensor([0.5, 0.5])
    >>> pmpo_optimum(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), half, 0.5, 2.0).tolist()
    [0.75, 0.25]
    """
    share("alpha", alpha)
    w_A = alpha * accepted_A - (1 - alpha) * rejected_A + beta * reference_A
    if bool((w_A < 0).any()) or float(w_A.sum()) <= 0:
        needed = (((1 - alpha) * rejected_A - alpha * accepted_A) / reference_A).max()
        raise InputError(
            f"PMPO has no optimum at alpha={alpha}, beta={beta}: the rejected outweigh the reference somewhere",
            remedy=f"give beta of more than {float(needed):.4g}, or a larger alpha",
        )
    return w_A / w_A.sum()


def share(name: str, value: float) -> None:
    """From 0 to 1, both included."""
    if not 0 <= value <= 1:
        raise InputError(f"{name}={value!r} is not from 0 to 1", remedy=f"give {name} in that range")
