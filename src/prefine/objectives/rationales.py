"""Rationales: learning to say why, beside learning to choose.

A contrast carries its rationale as one more member, with role 0, under a prompt that shows both responses
(``curating.with_rationales``); the members' value ``rationale`` is 1 for it and 0 for the others. Pair losses do not
see it, and it has no reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.combine import Sum, add, scale
from prefine.objectives.likelihood import likelihood, token_mean, token_sum
from prefine.objectives.links import Link, logistic
from prefine.objectives.measures import LogOdds
from prefine.objectives.pairwise import Pairs, dpo
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least, one_of, positive


def negative(z: Tensor) -> Tensor:
    """-z: the likelihood itself.

    >>> negative(torch.tensor([-3.0])).tolist()
    [3.0]
    """
    return -z


FORMS: Mapping[str, Link] = {"logistic": logistic, "likelihood": negative}


@dataclass(frozen=True)
class Explained:
    """link( gamma m(r) ) of the rationale of every contrast, 0 where it has none.

    >>> s = Scores(torch.tensor([[-1.0], [-2.0], [-4.0]]), torch.ones(3, 1), torch.tensor([1, -1, 0]),
    ...            torch.zeros(3, dtype=torch.long), values={"rationale": torch.tensor([0.0, 0.0, 1.0])})
    >>> Explained(0.5, negative)(s).per_contrast.tolist()
    [2.0]
    """

    gamma: float = 0.001
    link: Link = logistic
    measure: Callable[[Scores], Tensor] = token_sum
    references: tuple[str, ...] = ()

    def __call__(self, scores: Scores) -> Loss:
        is_one_N = scores.value("rationale")
        if len(is_one_N) != len(scores.role_N):
            raise ValueError("a rationale is a member: give 1 for it and 0 for the others")
        term_N = self.link(self.gamma * self.measure(scores))
        return Loss.of(scores.over_group(torch.where(is_one_N > 0, term_N, torch.zeros_like(term_N))))


def with_rationale(objective: Objective, gamma: float = 0.001, form: str = "logistic", mean: bool = False) -> Sum:
    """Any objective plus the likelihood of the rationale r given the prompt and both responses (arXiv 2407.14477).

    logistic (the released code): -log sigma( gamma S_r ), about -gamma S_r since S_r is far below 0; likelihood (the
    paper): -gamma S_r. S_r = log pi(r | x, y_w, y_l), a token sum, or their mean. No reference.

    >>> s = Scores(torch.tensor([[-1.0], [-1.0], [-4.0]]), torch.ones(3, 1), torch.tensor([1, -1, 0]),
    ...            torch.zeros(3, dtype=torch.long), {"reference": torch.tensor([[-1.0], [-1.0], [-9.0]])},
    ...            {"rationale": torch.tensor([0.0, 0.0, 1.0])})
    >>> round(float(with_rationale(dpo(), 0.25, "likelihood")(s).mean(s)), 6)  # log 2 + 0.25 * 4
    1.693147
    """
    at_least(0, gamma=gamma)
    return add(objective, Explained(gamma, one_of("form", form, FORMS), token_mean if mean else token_sum))


def rationale_dpo(beta: float = 0.1, gamma: float = 0.001, form: str = "logistic", mean: bool = False) -> Sum:
    """DPO with rationales, RDPO (Just et al., arXiv 2407.14477): with_rationale:dpo, gamma of the documented run.

    L = -log sigma( beta h ) - log sigma( gamma log pi(r | x, y_w, y_l) ). gamma = 0 is DPO plus log 2 a rationale.

    >>> s = Scores(torch.tensor([[-1.0], [-1.0], [-4.0]]), torch.ones(3, 1), torch.tensor([1, -1, 0]),
    ...            torch.zeros(3, dtype=torch.long), {"reference": torch.tensor([[-1.0], [-1.0], [-9.0]])},
    ...            {"rationale": torch.tensor([0.0, 0.0, 1.0])})
    >>> round(float(rationale_dpo(gamma=0.0)(s).mean(s)), 6)  # 2 log 2
    1.386294
    """
    return with_rationale(dpo(beta), gamma, form, mean)


def rationale_orpo(beta: float = 0.1, gamma: float = 1.0, form: str = "likelihood") -> Sum:
    """ORPO with rationales, RORPO (Just et al., arXiv 2407.14477): no reference, token means throughout.

    L = -log pi(y_w)/|y_w| - beta log sigma( log odds(y_w) - log odds(y_l) ) - gamma log pi(r | x, y_w, y_l)/|r|, or,
    in the logistic form, - log sigma( gamma log pi(r | ...)/|r| ) as the last term.

    >>> s = Scores(torch.tensor([[-1.0], [-1.0], [-4.0]]), torch.ones(3, 1), torch.tensor([1, -1, 0]),
    ...            torch.zeros(3, dtype=torch.long), values={"rationale": torch.tensor([0.0, 0.0, 1.0])})
    >>> round(float(rationale_orpo(beta=1.0, gamma=0.5)(s).mean(s)), 6)  # 1 + log 2 + 2
    3.693147
    """
    positive(beta=beta)
    pair = add(likelihood(mean=True), scale(beta, Pairs(LogOdds(), logistic)))
    return with_rationale(pair, gamma, form, mean=True)
