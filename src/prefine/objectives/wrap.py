"""Wrappers that change what a pair loss compares: its margin, its reference, or a term beside it.

A margin belongs inside the link, so ``penalised`` and ``with_margin`` look for the pair kernel in the objective,
through sums and other wrappers, and give it one more margin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prefine.errors import InputError
from prefine.objectives.combine import Combination, Sum, add, scale
from prefine.objectives.likelihood import likelihood
from prefine.objectives.margins import LengthGap, Margin, Plus, Valued
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least


@dataclass(frozen=True)
class ReferenceFree(Combination):
    """The objective with a reference to which every response is equally likely: log ref = 0."""

    objective: Objective

    @property
    def references(self) -> tuple[str, ...]:
        return ()

    def __call__(self, scores: Scores) -> Loss:
        flat: Tensor = torch.zeros_like(scores.logp_NT)
        names = Combination.references.fget(self)  # type: ignore[attr-defined]
        return self.objective(replace(scores, references={**scores.references, **dict.fromkeys(names, flat)}))


def reference_free(objective: Objective) -> ReferenceFree:
    """Any objective without its reference: log-ratios become log-probabilities (DPO becomes the loss of CPO).

    >>> from prefine.objectives import dpo
    >>> s = Scores.of_pairs([-1.0], [-3.0])
    >>> round(float(reference_free(dpo(beta=0.5))(s).mean(s)), 6)  # log(1 + exp(-1))
    0.313262
    """
    return ReferenceFree(objective)


def penalised(objective: Objective, alpha: float = 0.02) -> Objective:
    """A pair loss with length as a second objective: alpha (|y_w| - |y_l|) inside the link (R-DPO, 2403.19159).

    A longer winner then already has a margin, and gets less gradient. Lengths in tokens that count.

    >>> from prefine.objectives import dpo, length_regularised
    >>> penalised(dpo(0.1), 0.02) == length_regularised(0.1, 0.02)
    True
    """
    at_least(0, alpha=alpha)
    return with_one_more(objective, LengthGap(-alpha), "length")


def with_margin(objective: Objective, by: str = "margin", factor: float = 1.0) -> Objective:
    """A pair loss that asks for a margin: factor * v inside the link, v a value of the pairs (a stated strength).

    >>> from prefine.objectives import dpo
    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], margin=[2.0])  # h = 2
    >>> round(float(with_margin(dpo(1.0))(s).mean(s)), 6)  # log 2
    0.693147
    """
    return with_one_more(objective, Valued(by, factor), "margin")


def plus_likelihood(objective: Objective, eta: float = 0.1, mean: bool = True) -> Sum:
    """Any objective plus eta times the negative log-likelihood of the chosen, a token mean (or sum).

    It keeps the chosen responses likely, which pair losses do not promise (RPO, IRPO).

    >>> from prefine.objectives import dpo, regularised
    >>> plus_likelihood(dpo(0.1), 0.2) == regularised(0.1, 0.2, average=True)
    True
    """
    at_least(0, eta=eta)
    return add(objective, scale(eta, likelihood(mean=mean)))


def with_one_more(objective: Objective, margin: Margin, what: str) -> Objective:
    """The objective with one more margin in each of its pair kernels, an InputError where it has none."""
    changed = _rebuilt(objective, margin)
    if changed is None:
        raise InputError(
            f"this objective has no margin that {what!r} could add to",
            remedy=f"put {what} around a loss on margins such as dpo, ipo or simpo, and other wrappers around {what}",
        )
    return changed


def _rebuilt(objective: Any, margin: Margin) -> Any:
    if not is_dataclass(objective) or isinstance(objective, type):
        return None
    names = {f.name for f in fields(objective)}
    if "margin" in names:
        own: Margin = objective.margin  # type: ignore[attr-defined]
        return replace(objective, margin=Plus(own, margin) if callable(own) or own else margin)
    for name, rebuild in INSIDE.items():
        if name in names:
            inner = rebuild(getattr(objective, name), margin)
            return None if inner is None else replace(objective, **{name: inner})
    return None


def _one_of_several(objectives: tuple[Any, ...], margin: Margin) -> tuple[Any, ...] | None:
    found = [_rebuilt(one, margin) for one in objectives]
    if all(one is None for one in found):
        return None
    return tuple(old if new is None else new for old, new in zip(objectives, found, strict=True))


INSIDE: dict[str, Callable[[Any, Margin], Any]] = {"objective": _rebuilt, "objectives": _one_of_several}
"""Field of a combination that holds its parts -> how to change them."""
