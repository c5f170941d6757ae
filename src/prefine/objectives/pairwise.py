"""Pairs: one kernel, link(beta * (m(w) - m(l)) - margin), and the objectives that only fill it in.

m is a measure (``measures``), the link a function of the margin (``links``), the margin a constant of the
pair (``margins``). Shapes: (G,) over G pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch  # noqa: F401  (for the examples)

from prefine.objectives.links import Link, logistic, smooth, squared
from prefine.objectives.margins import LengthGap, Margin, Valued, ValueGap, margin_of
from prefine.objectives.measures import LOG_RATIO, LogProbability, LogRatio, Measure, Reward
from prefine.objectives.scores import Loss, Scores
from prefine.registry import one_of, positive


@dataclass(frozen=True)
class Pairs:
    """L = link( beta (m(w) - m(l)) - margin ), one value a pair; the margin carries no gradient.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])  # log-ratios +1 and -1
    >>> Pairs(LogRatio(), squared, beta=0.5, margin=3.0)(s).per_contrast.tolist()  # (0.5 * 2 - 3)^2
    [4.0]
    """

    measure: Measure = LOG_RATIO
    link: Link = logistic
    beta: float = 1.0
    margin: Margin = 0.0

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.measure.references, *getattr(self.margin, "references", ()))))

    def __call__(self, scores: Scores) -> Loss:
        chosen_G, rejected_G = scores.sides(self.measure(scores))
        return Loss.of(self.link(self.beta * (chosen_G - rejected_G) - margin_of(self.margin, scores)))


def dpo(beta: float = 0.1, label_smoothing: float = 0.0, reference: str = "reference") -> Pairs:
    """Direct preference optimisation (Rafailov et al., arXiv 2305.18290, eq. 7).

    L = -log sigma(beta h),  h = log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l), token sums, frozen reference.
    With ``label_smoothing`` eps: -(1-eps) log sigma(beta h) - eps log sigma(-beta h) (conservative DPO).

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])  # h = 2
    >>> round(float(dpo(beta=1.0)(s).mean(s)), 6)  # log(1 + exp(-2))
    0.126928
    """
    positive(beta=beta)
    return Pairs(LogRatio(reference=reference), smooth(logistic, label_smoothing), beta)


def ipo(tau: float = 0.1, mean: bool = True, target: str = "hard", reference: str = "reference") -> Pairs:
    """Identity preference optimisation (Azar et al., arXiv 2310.12036, eq. 17): a bounded target for the gap.

    L = (h - t)^2 with h as in DPO, of token means (``mean``, as in the paper's experiments on language
    models) or token sums. The target t:
    "hard": 1/(2 tau), one observed label a pair;
    "preference": (2p - 1)/(2 tau), p the value "preference", the probability that w beats l;
    "win": (p(w > mu) - p(l > mu))/tau, from the members' values "win": the population form.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])  # h = 2, target 5
    >>> ipo(tau=0.1)(s).per_contrast.tolist()
    [9.0]
    """
    positive(tau=tau)
    targets: Mapping[str, Callable[[], Margin]] = {
        "hard": lambda: 1 / (2 * tau),
        "preference": lambda: Valued("preference", 1 / tau, -1 / (2 * tau)),
        "win": lambda: ValueGap("win", 1 / tau),
    }
    return Pairs(LogRatio(mean=mean, reference=reference), squared, margin=one_of("target", target, targets)())


def simpo(beta: float = 2.0, gamma: float = 1.0, label_smoothing: float = 0.0) -> Pairs:
    """Simple preference optimisation (Meng et al., arXiv 2405.14734, eq. 6): token means, no reference.

    L = -log sigma( beta/|y_w| log pi(y_w) - beta/|y_l| log pi(y_l) - gamma ).

    >>> s = Scores.of_pairs([-2.0], [-9.0], chosen_length=[2], rejected_length=[3])  # means -1 and -3
    >>> round(float(simpo(beta=1.0, gamma=2.0)(s).mean(s)), 6)  # log 2
    0.693147
    """
    positive(beta=beta)
    return Pairs(LogProbability(mean=True), smooth(logistic, label_smoothing), beta, gamma)


def length_regularised(
    beta: float = 0.1, alpha: float = 0.02, label_smoothing: float = 0.0, reference: str = "reference"
) -> Pairs:
    """DPO with length as a second objective (iLR-DPO, arXiv 2406.11817; R-DPO, arXiv 2403.19159).

    L = -log sigma( beta h + alpha (|y_w| - |y_l|) ), token sums; lengths in response tokens, end token
    included. A longer winner already has a margin, so it gets less gradient. alpha = 0 is DPO.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], chosen_length=[1], rejected_length=[5])
    >>> round(float(length_regularised(beta=1.0, alpha=0.5)(s).mean(s)), 6)  # h = 2, length term -2
    0.693147
    """
    positive(beta=beta)
    return Pairs(LogRatio(reference=reference), smooth(logistic, label_smoothing), beta, LengthGap(-alpha))


def bradley_terry(margin: str | None = None, label_smoothing: float = 0.0) -> Pairs:
    """The likelihood of a reward model (Bradley and Terry 1952; margins: arXiv 2307.09288, eq. 2).

    L = -log sigma( r(w) - r(l) - m ), r the reward model's output; m the value of that name on the pairs.

    >>> s = Scores.of_pairs([2.0], [0.5], rating_gap=[1.5])
    >>> round(float(bradley_terry(margin="rating_gap")(s).mean(s)), 6)
    0.693147
    """
    return Pairs(Reward(), smooth(logistic, label_smoothing), margin=0.0 if margin is None else Valued(margin))
