"""Groups of responses on preference levels: every pair across levels, held near the policy that sampled them.

A contrast is a whole group, its members' value "level" says how good each is (1 is best; only the order and who
is on level 1 matter). Shapes: N members in G groups, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prefine.objectives.combine import Combination, Sum, add, scale
from prefine.objectives.links import Link, logistic
from prefine.objectives.measures import LogRatio, Measure
from prefine.objectives.scores import Loss, Objective, Scores, Term, across_levels
from prefine.registry import at_least, positive

PER_TOKEN = LogRatio(mean=True)
ROOM = 0.25
"""Under the square root of the trust region, so that its slope at 0 is 1."""


@dataclass(frozen=True)
class AcrossLevels:
    """L = mean over all pairs of the step with level_i < level_j of link( c beta (m_i - m_j) ).

    c = kappa where level_i = 1, else 1; the mean is over pairs pooled from all groups, so that groups with many
    count for more. A step without any pair: the mean over its responses of link( s m ), s = +1 on level 1, else -1.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], level=torch.tensor([[1.0, 2.0]]))  # m = 1, -1
    >>> round(float(AcrossLevels(beta=0.5, kappa=2.0)(s).mean(s)), 6)  # log(1 + exp(-2))
    0.126928
    """

    measure: Measure = PER_TOKEN
    link: Link = logistic
    beta: float = 1.0
    kappa: float = 1.0

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        level_N, m_N = scores.value("level"), self.measure(scores)
        if len(level_N) != len(m_N):
            raise ValueError("the value 'level' is needed for every response, and there is one a contrast")
        if not self._pairs(scores):
            sign_N = 2 * (level_N == 1).to(m_N) - 1
            return Loss.of(scores.over_group(self.link(sign_N * m_N)), "response")
        i, j = across_levels(scores)
        scale_P = self.beta * (1 + (self.kappa - 1) * (level_N[i] == 1).to(m_N))
        loss_P = self.link(scale_P * (m_N[i] - m_N[j]))
        return Loss.of(loss_P.new_zeros(scores.groups).index_add(0, scores.group_N[i], loss_P), "level_pair")

    def _pairs(self, scores: Scores) -> float:
        """How many the whole step has."""
        return scores.count("level_pair") if scores.totals is None else scores.totals["level_pair"]


@dataclass(frozen=True)
class TrustRegion:
    """The mean over tokens of k3 = exp(d) - d - 1, d = log old(y_t) - log pi(y_t), cut to at most 10.

    At pi = old both it and its slope are 0. (k3 is unbiased for KL(pi || old) on samples of pi; the samples here
    are the old policy's, which is the same thing at the start of every round and close to it within one.)

    >>> s = Scores.of_pairs([-1.0], [-1.0])
    >>> s = Scores(**{**vars(s), "references": {"old": s.logp_NT}})
    >>> float(TrustRegion()(s).mean(s))
    0.0
    """

    reference: str = "old"
    largest: float = 10.0

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference,)

    def __call__(self, scores: Scores) -> Loss:
        # Cut before the exponential too: past 20 the value is ``largest`` anyway, and its slope stays a number.
        d_NT = (-scores.ratio_NT(self.reference)).clamp(max=20.0)
        k3_NT = (torch.exp(d_NT) - d_NT - 1).clamp(-self.largest, self.largest)
        return Loss.of(scores.over_group(scores.sum(k3_NT)), "token")


@dataclass(frozen=True)
class Root(Combination):
    """sqrt( L + room ) of the mean of an objective over the step."""

    objective: Objective
    room: float = ROOM
    whole_batch: bool = True

    def __call__(self, scores: Scores) -> Loss:
        value = torch.sqrt(self.objective(scores).mean(scores) + self.room)
        return Loss((Term(value.expand(scores.groups)),))


def trpa(
    beta: float = 0.1,
    kappa: float = 2.5,
    c: float = 0.001,
    root: bool = False,
    reference: str = "reference",
    old: str = "old",
) -> Sum:
    """Trust region preference approximation (arXiv 2504.04524): a pair loss across levels, and a trust region.

    L = mean_{level_i < level_j} -log sigma( h_ij ) + c KL_old,  h_ij = [kappa if level_i = 1] beta (rho_i - rho_j),
    rho = the token MEAN of log pi/ref; KL_old the token mean of the k3 estimate against the sampling policy, the
    reference named ``old`` (``root``: c sqrt(KL_old + 1/4), the step one batch). Without any pair in the step:
    mean_i -log sigma( +-rho_i ), + on level 1.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], level=torch.tensor([[1.0, 2.0]]))  # rho = 1, -1
    >>> s = Scores(**{**vars(s), "references": {**s.references, "old": s.logp_NT}})
    >>> round(float(trpa(beta=0.5, kappa=2.0)(s).mean(s)), 6)  # log(1 + exp(-2))
    0.126928
    """
    positive(beta=beta, kappa=kappa)
    at_least(0, c=c)
    region: Objective = Root(TrustRegion(old)) if root else TrustRegion(old)
    return add(AcrossLevels(LogRatio(mean=True, reference=reference), beta=beta, kappa=kappa), scale(c, region))
