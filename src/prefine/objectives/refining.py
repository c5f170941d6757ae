"""Answering and refining at once: a pair loss on pairs, another on the pairs under a prompt that shows an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch  # noqa: F401  (for the examples)
from torch import Tensor

from prefine.objectives.combine import Sum, add, weighted
from prefine.objectives.links import logistic, squared
from prefine.objectives.margins import Valued
from prefine.objectives.measures import LogRatio
from prefine.objectives.pairwise import Pairs, dpo
from prefine.objectives.scores import Objective, Scores
from prefine.registry import one_of, positive


@dataclass(frozen=True)
class Kind:
    """factor * weight for contrasts whose value ``by`` is ``kind``, 0 for the others. Without values: kind 0, weight 1.

    >>> s = Scores.of_pairs([0.0, 0.0], [0.0, 0.0], refinement=[0.0, 1.0], weight=[3.0, 3.0])
    >>> Kind(1, 0.5)(s).tolist()
    [0.0, 1.5]
    """

    kind: int
    factor: float
    by: str = "refinement"

    def __call__(self, scores: Scores) -> Tensor:
        is_it_G = (scores.value(self.by, 0.0) == self.kind).to(scores.logp_NT)
        return self.factor * is_it_G * scores.value("weight", 1.0)


def evolve(
    beta: float = 0.1, a: float = 0.5, form: str = "squared", soft: bool = False, reference: str = "reference"
) -> Sum:
    """EVOLVE's preference loss (arXiv 2502.05605): L = (1 - a) L_d + a L_r over pairs ``curating.with_refinements``.

    L_d: DPO. L_r: for y_s in (y_l, y_w), with h(y | y_s) = log pi(y | x, y_s, z)/ref(y | x, y_s, z),
    sum over y_s of ( 1/2 - beta [ h(y_w | y_s) - h(y_l | y_s) ] )^2, or ("logistic") of -log sigma of the bracket.
    ``soft``: P - 1/2 in place of 1/2, P the value "preference", the probability that y_w beats y_l.

    >>> s = Scores.of_pairs([-1.0, -1.0], [-3.0, -3.0], [-2.0, -2.0], [-2.0, -2.0], refinement=[0.0, 1.0])
    >>> [round(v, 6) for v in evolve(beta=1.0)(s).per_contrast.tolist()]  # log(1 + exp(-2))/2 and (1/2 - 2)^2/2
    [0.063464, 1.125]
    """
    positive(beta=beta)
    measure = LogRatio(reference=reference)
    target = Valued("preference", 1.0, -0.5) if soft else 0.5
    forms: Mapping[str, Callable[[], Objective]] = {
        "squared": lambda: Pairs(measure, squared, beta, target),
        "logistic": lambda: Pairs(measure, logistic, beta),
    }
    refining = one_of("form", form, forms)()
    return add(weighted(dpo(beta, reference=reference), Kind(0, 1 - a)), weighted(refining, Kind(1, a)))
