"""Token weights on where two responses differ, and a wrapper that puts token weights under any objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import lru_cache

import torch
from torch import Tensor

from prefine.objectives.combine import Combination
from prefine.objectives.pairwise import dpo  # noqa: F401  (for the examples)
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least

Weights = Callable[[Scores, Tensor], Tensor]
"""(scores, (N, T) log-probabilities of one model) -> (N, T) weights of the tokens."""


@dataclass(frozen=True)
class Reweighted(Combination):
    """Any objective with every token's log-probability multiplied by a weight, detached: of policy and references.

    The weights come from the policy's probabilities and serve the references too; with ``own`` each model's
    come from its own. Lengths stay what they are, so token means are weighted sums over the length.
    """

    objective: Objective
    weights: Weights
    own: bool = False

    def __call__(self, scores: Scores) -> Loss:
        policy_NT = self.weights(scores, scores.logp_NT).detach()
        references = {
            name: logp * (self.weights(scores, logp).detach() if self.own else policy_NT)
            for name, logp in scores.references.items()
        }
        return self.objective(replace(scores, logp_NT=scores.logp_NT * policy_NT, references=references))


@dataclass(frozen=True)
class Differing:
    """1 + m min(1/p, delta), m = 1 for tokens of a pair that the other response does not share (``differences``).

    p is the token's probability: the less sure, the more weight, in [1, 1 + delta]. ``plain`` are ids of tokens
    that say little (stopwords) and keep weight 1.
    """

    delta: float = 2.0
    plain: tuple[int, ...] = ()

    def __call__(self, scores: Scores, logp_NT: Tensor) -> Tensor:
        marked_NT = mark(scores, frozenset(self.plain)).to(logp_NT)
        return 1 + marked_NT * torch.exp(-logp_NT).clamp(max=self.delta)


def mark(scores: Scores, plain: frozenset[int] = frozenset()) -> Tensor:
    """(N, T) 1 for the tokens of a pair that differ, but for plain ones; on the CPU."""
    if not scores.ids_N:
        raise ValueError("this objective looks at which tokens differ, and the scores have no token ids")
    rows = torch.arange(len(scores.role_N), device=scores.role_N.device)
    marked_NT = torch.zeros(scores.mask_NT.shape)
    for w, l in zip(*(side.tolist() for side in scores.sides(rows)), strict=True):
        for row, marks in zip((w, l), differences(scores.ids_N[w], scores.ids_N[l], plain), strict=True):
            marked_NT[row, : len(marks)] = torch.tensor(marks, dtype=marked_NT.dtype)
    return marked_NT


@lru_cache(maxsize=1 << 14)
def differences(
    chosen: tuple[int, ...], rejected: tuple[int, ...], plain: frozenset[int] = frozenset()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """1 for the tokens of each response that are outside the longest matching blocks of the two.

    >>> differences((1, 9, 3, 4, 5), (1, 2, 3, 4))  # "a x c d e" and "a b c d"
    ((0, 1, 0, 0, 1), (0, 1, 0, 0))
    """
    # From rejected to chosen, as the edit went. No "popular" tokens are set aside: long responses are full of them.
    blocks = SequenceMatcher(None, rejected, chosen, autojunk=False).get_opcodes()
    changed = [(i1, i2, j1, j2) for kind, i1, i2, j1, j2 in blocks if kind != "equal"]
    new = {j for _, _, j1, j2 in changed for j in range(j1, j2)}
    old = {i for i1, i2, _, _ in changed for i in range(i1, i2)}

    def marks(ids: Sequence[int], places: set[int]) -> tuple[int, ...]:
        return tuple(int(t in places and token not in plain) for t, token in enumerate(ids))

    return marks(chosen, new), marks(rejected, old)


def reweighted(objective: Objective, weights: Weights, own: bool = False) -> Reweighted:
    """Any objective on weighted token log-probabilities.

    >>> s = replace(Scores.of_pairs([-1.0], [-1.0], [-1.0], [-1.0]), ids_N=((5,), (6,)))
    >>> reweighted(dpo(0.1), Differing(delta=0.0))(s).per_contrast == dpo(0.1)(s).per_contrast
    tensor([True])
    """
    return Reweighted(objective, weights, own)


def correlated(objective: Objective, delta: float = 2.0, plain: tuple[int, ...] = (), own: bool = False) -> Reweighted:
    """The modelling half of BMC (arXiv 2408.07471): weight where the responses of a pair differ, under any pair loss.

    With DPO: L = -log sigma( beta [ sum_t lambda_t log pi/ref (w) - sum_t lambda_t log pi/ref (l) ] ),
    lambda_t = 1 + m_t min(1/pi(y_t), delta), detached; m_t = 1 where the responses differ (``differences``) and the
    token is not ``plain``. The policy's lambda serves both models, as in the paper; ``own=True`` is the released
    code, where the reference's comes from its own probabilities. Made for pairs that differ little, as
    ``curating.bridged`` makes them. delta = 0 is the objective itself.

    >>> logp = torch.tensor([-0.6931471805599453])  # p = 1/2: weight 1 + min(2, 1.5)
    >>> s = replace(Scores.of_pairs(logp, 2 * logp, 0 * logp, 2 * logp), ids_N=((5,), (6,)))
    >>> round(float(correlated(dpo(beta=1.0), delta=1.5)(s).mean(s)), 4)  # log(1 + 2^2.5)
    1.8956
    """
    at_least(0, delta=delta)
    return Reweighted(objective, Differing(delta, tuple(plain)), own)
