"""Combining objectives: sums, factors, weights and softened labels, over any objective.

``dpo(0.1) + eta * likelihood()`` is ``add(dpo(0.1), scale(eta, likelihood()))``; a combination asks for what
its parts ask for (references, the prompt's log-probabilities, the whole batch).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch  # noqa: F401  (for the examples)
from torch import Tensor

from prefine.objectives.scores import Loss, Objective, Scores, Term, traits
from prefine.registry import between


class Combination:
    """What every combination shares: its needs are those of its parts."""

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)  # type: ignore[attr-defined]

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in traits(part)[0]))

    @property
    def reads_prompt(self) -> bool:
        return any(traits(part)[1] for part in self.parts)

    @property
    def whole_batch(self) -> bool:
        return any(traits(part)[2] for part in self.parts)


@dataclass(frozen=True)
class Sum(Combination):
    """L_1 + L_2 + ..., each divided by its own unit."""

    objectives: tuple[Objective, ...]

    @property
    def parts(self) -> tuple[Objective, ...]:
        return self.objectives

    def __call__(self, scores: Scores) -> Loss:
        return Loss(tuple(term for part in self.objectives for term in part(scores).terms))


@dataclass(frozen=True)
class Scaled(Combination):
    """c L."""

    factor: float
    objective: Objective

    def __call__(self, scores: Scores) -> Loss:
        return self.factor * self.objective(scores)


@dataclass(frozen=True)
class Weighted(Combination):
    """w_i L_i with a weight a contrast: a value of that name, or a function of the scores. Detached."""

    objective: Objective
    by: str | Callable[[Scores], Tensor] = "weight"
    default: float | None = None

    def __call__(self, scores: Scores) -> Loss:
        weight_G = scores.value(self.by, self.default) if isinstance(self.by, str) else self.by(scores)
        return weight_G.detach() * self.objective(scores)


@dataclass(frozen=True)
class BothOrders(Combination):
    """a L(w, l) + b L(l, w), with numbers a and b a contrast (or for all)."""

    objective: Objective
    coefficients: Callable[[Scores], tuple[float | Tensor, float | Tensor]]
    most: float | None = None
    """L(l, w) is cut off here, for b < 0, where the sum has no lower bound otherwise."""

    def __call__(self, scores: Scores) -> Loss:
        keep, flip = self.coefficients(scores)
        kept, flipped = both_orders(self.objective, scores)
        if self.most is not None:
            flipped = Loss(tuple(Term(t.values.clamp(max=self.most), t.per) for t in flipped.terms))
        return keep * kept + flip * flipped


def both_orders(objective: Objective, scores: Scores) -> tuple[Loss, Loss]:
    """L(w, l) and L(l, w): the roles swap everywhere, in a likelihood term and in a length margin too."""
    flipped = objective(scores.swapped())
    if any(term.per.startswith("chosen") for term in flipped.terms):
        # In the other order it would be divided by the tokens of the wrong side.
        raise ValueError("a mean over the tokens of the chosen has no other order: take it per contrast")
    return objective(scores), flipped


@dataclass(frozen=True)
class Constant:
    """The same two numbers for every contrast."""

    keep: float
    flip: float

    def __call__(self, scores: Scores) -> tuple[float, float]:
        return self.keep, self.flip


@dataclass(frozen=True)
class Probability:
    """(p, 1 - p) from a value of the contrasts."""

    name: str

    def __call__(self, scores: Scores) -> tuple[Tensor, Tensor]:
        p_G = scores.value(self.name)
        return p_G, 1 - p_G


def add(*objectives: Objective) -> Sum:
    """The sum of objectives.

    >>> from prefine.objectives import dpo, likelihood
    >>> s = Scores.of_pairs([-1.0], [-1.0], [-1.0], [-1.0])
    >>> round(float(add(dpo(0.1), likelihood())(s).mean(s)), 6)  # log 2 + 1
    1.693147
    """
    return Sum(objectives)


def scale(factor: float, objective: Objective) -> Scaled:
    """A number times an objective.

    >>> from prefine.objectives import likelihood
    >>> s = Scores.of_pairs([-4.0], [-1.0])
    >>> scale(0.25, likelihood())(s).per_contrast.tolist()
    [1.0]
    """
    return Scaled(factor, objective)


def weighted(
    objective: Objective, by: str | Callable[[Scores], Tensor] = "weight", default: float | None = None
) -> Weighted:
    """An objective with a weight a contrast. The mean stays over contrasts: weights are not renormalised.

    >>> from prefine.objectives import likelihood
    >>> s = Scores.of_pairs([-4.0, -4.0], [-1.0, -1.0], weight=[1.0, 0.0])
    >>> float(weighted(likelihood())(s).mean(s))
    2.0
    """
    return Weighted(objective, by, default)


def smoothed(objective: Objective, eps: float = 0.1) -> BothOrders:
    """(1 - eps) L(w, l) + eps L(l, w): any pair objective when a label is wrong with probability eps.

    The roles swap everywhere, in a likelihood term and in a length margin too.

    >>> from prefine.objectives import dpo
    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> torch.equal(smoothed(dpo(0.1), 0.2)(s).mean(s), dpo(0.1, label_smoothing=0.2)(s).mean(s))
    True
    """
    between(0, 0.5, eps=eps)
    return BothOrders(objective, Constant(1 - eps, eps))


def soft_labels(objective: Objective, by: str = "preference") -> BothOrders:
    """p L(w, l) + (1 - p) L(l, w) with the probability p, a value of the contrasts, that w beats l.

    >>> from prefine.objectives import dpo
    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], preference=[0.8])
    >>> torch.allclose(soft_labels(dpo(0.1))(s).mean(s), dpo(0.1, label_smoothing=0.2)(s).mean(s))
    True
    """
    return BothOrders(objective, Probability(by))
