"""Points: labelled single responses, link( sign * (beta m(y) - shift) ), sign +1 for good and -1 for bad.

A contrast is one labelled response, and may carry members with role 0, which take part without a label. A
pair is read as two points. Shapes: (G,), the mean over the labelled members of a contrast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from prefine.errors import InputError
from prefine.objectives.links import Link, logistic, saturating, smooth
from prefine.objectives.measures import LOG_RATIO, LogRatio, Measure, Reward
from prefine.objectives.scores import Loss, Scores
from prefine.registry import one_of, positive


@dataclass(frozen=True)
class Points:
    """L = weight * link( sign * (beta m(y) - shift) ), averaged over the labelled members of a contrast.

    >>> s = Scores.of_pairs([2.0], [3.0])  # a good response with reward 2, a bad one with reward 3
    >>> from prefine.objectives.links import hinge
    >>> Points(Reward(), hinge)(s).per_contrast.tolist()  # (max(0, 1 - 2) + max(0, 1 + 3)) / 2
    [2.0]
    """

    measure: Measure = LOG_RATIO
    link: Link = logistic
    beta: float = 1.0
    shift: float | Callable[[Scores], Tensor] = 0.0
    good: float = 1.0
    bad: float = 1.0
    whole_batch: bool = False
    """Whether the shift couples the contrasts of a step."""

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        sign_N = scores.role_N.sign().to(scores.logp_NT.dtype)
        shift = self.shift(scores).detach() if callable(self.shift) else self.shift
        weight_N = self.good * sign_N.clamp(min=0) + self.bad * sign_N.clamp(max=0).abs()
        loss_N = weight_N * self.link(sign_N * (self.beta * self.measure(scores) - shift))
        labelled_G = scores.over_group(sign_N.abs())
        return Loss.of(scores.over_group(loss_N) / labelled_G.clamp(min=1))


@dataclass(frozen=True)
class MismatchedKL:
    """beta * max(0, mean log-ratio of responses to other prompts): KTO's reference point, z_0.

    They are the members with role 0.
    """

    beta: float
    measure: Measure

    def __call__(self, scores: Scores) -> Tensor:
        mismatched = scores.role_N == 0
        if not bool(mismatched.any()):
            raise InputError(
                "KTO's reference point needs responses to other prompts, and the contrasts have none",
                remedy="curate labels of at least two prompts with `mismatched(...)`, or set reference_point to zero",
            )
        return self.beta * self.measure(scores).detach()[mismatched].mean().clamp(min=0)


def kto(
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    reference_point: str = "mismatched",
    reference: str = "reference",
) -> Points:
    """Kahneman-Tversky optimisation (Ethayarajh et al., arXiv 2402.01306, eq. 8): labels, not pairs.

    r(y) = log pi(y)/ref(y), token sums.
    L = lambda_D (1 - sigma(beta (r(y) - z_0))) for a good response, lambda_U (1 - sigma(beta (z_0 - r(y))))
    for a bad one; z_0 = max(0, mean r over the step's members with role 0), responses to *other* prompts
    (curator ``mismatched``), detached. ``reference_point="zero"`` sets z_0 = 0. The step is one batch.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-3.0])  # r = 1 (good) and 0 (bad)
    >>> loss = kto(beta=1.0, reference_point="zero")(s)
    >>> round(float(loss.mean(s)), 6)  # ((1 - sigma(1)) + 1/2) / 2
    0.384471
    """
    measure = LogRatio(reference=reference)
    points: dict[str, Callable[[], float | MismatchedKL]] = {
        "mismatched": lambda: MismatchedKL(beta, measure),
        "zero": lambda: 0.0,
    }
    positive(beta=beta)
    z0 = one_of("reference_point", reference_point, points)()
    return Points(measure, saturating, beta, z0, desirable_weight, undesirable_weight, callable(z0))


def binary_cross_entropy(good: float = 1.0, bad: float = 1.0, label_smoothing: float = 0.0) -> Points:
    """Labelled responses, or steps, with one number each: a process or outcome reward model.

    L = -log sigma(s(y)) for good, -log sigma(-s(y)) for bad, s the model's output (a logit).

    >>> s = Scores.of_pairs([0.0], [0.0])
    >>> round(float(binary_cross_entropy()(s).mean(s)), 6)
    0.693147
    """
    return Points(Reward(), smooth(logistic, label_smoothing), good=good, bad=bad)
