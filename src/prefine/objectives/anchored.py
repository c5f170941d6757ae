"""An anchor: every response against a virtual one whose utility is learnt, instead of against its rival.

    good: -log sigma( r(y) - a ),   bad: -log sigma( a - r(y) ),   r = beta m(y)

A pair falls apart into two labels that share a, so labels need no partners. With a free for every pair the best a is
(r_w + r_l)/2, where the two terms are -2 log sigma( (r_w - r_l)/2 ): the pair loss at half its scale, doubled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from prefine.objectives.links import logistic
from prefine.objectives.measures import LogProbability, LogRatio, Measure
from prefine.objectives.readings import Learned, Reading, Size, View
from prefine.objectives.scores import Loss, Scores, Term
from prefine.registry import at_least, between, one_of, positive


@dataclass(frozen=True)
class Anchored:
    """The mean of the good responses' terms plus the mean of the bad ones', each with its weight.

    ``kappa`` weighs a term by 1 + kappa (1/2 - u), u = 1 - |2 sigma(r - a) - 1| detached: above 0 what the model
    finds undecided counts less. ``penalty`` adds penalty a^2, for labels of one kind, where a has no end.

    >>> s = Scores.of_pairs([1.3], [-0.4])
    >>> fixed = Scores(**{**vars(s), "readings": {"anchor": torch.tensor(0.45)}})
    >>> round(float(Anchored(LogProbability(mean=False), Read())(fixed).mean(fixed)), 4)  # -2 log sigma(0.85)
    0.7117
    """

    measure: Measure
    anchor: Callable[[Scores, Tensor], Tensor]
    beta: float = 1.0
    kappa: float = 0.0
    good: float = 1.0
    bad: float = 1.0
    penalty: float = 0.0

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    @property
    def parts(self) -> tuple[object, ...]:
        return (self.anchor,)

    @property
    def whole_batch(self) -> bool:
        return bool(getattr(self.anchor, "whole_batch", False))

    def __call__(self, scores: Scores) -> Loss:
        reward_N = self.beta * self.measure(scores)
        anchor_N = self.anchor(scores, reward_N).to(reward_N).expand_as(reward_N)
        gap_N = reward_N - anchor_N
        unsure_N = 1 - (2 * torch.sigmoid(gap_N.detach()) - 1).abs()
        weight_N = 1 + self.kappa * (0.5 - unsure_N)

        def side(role: int, factor: float) -> Tensor:
            return factor * scores.over_group((scores.role_N == role) * weight_N * logistic(role * gap_N))

        terms = [Term(side(1, self.good), "chosen"), Term(side(-1, self.bad), "rejected")]
        if self.penalty:
            terms.append(Term(self.penalty * scores.over_group(anchor_N**2), "response"))
        return Loss(tuple(terms))


@dataclass(frozen=True)
class Read:
    """The anchor that was read under "anchor": one number for all, or one a row."""

    def __call__(self, scores: Scores, reward_N: Tensor) -> Tensor:
        return scores.reading("anchor")


@dataclass(frozen=True)
class LearnedAnchor(Read):
    """An anchor trained along: one number, or a linear head of the last prompt token's state (detached)."""

    module: Callable[[Size], nn.Module]
    of: tuple[str, ...] = ()

    @property
    def readings(self) -> Mapping[str, Reading]:
        return {"anchor": Learned(self.module, self.of, shape=("N",) if self.of else ())}


class Number(nn.Module):
    """One number, 0 at first."""

    def __init__(self, lr_factor: float, size: Size) -> None:
        super().__init__()
        self.lr_factor = lr_factor
        self.a = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        return self.a

    def figures(self) -> dict[str, float]:
        return {"anchor": float(self.a.detach())}


class OfPrompt(nn.Module):
    """(N,) a linear head on the state of the last prompt token, 0 at first."""

    def __init__(self, lr_factor: float, size: Size) -> None:
        super().__init__()
        self.lr_factor = lr_factor
        self.head = nn.Linear(size.needed().hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, view: View) -> Tensor:
        return self.head(view.states_NSD[:, 0].detach().to(self.head.weight.dtype))[:, 0]


class RunningMean(nn.Module):
    """(mean reward of the good + mean reward of the bad)/2, detached: of this step, and of earlier ones by momentum.

    a <- momentum a + (1 - momentum) of the step; of the first step its own mean. A side that is missing from the
    step leaves a to the other; the step is one batch.
    """

    whole_batch = True
    last: Tensor
    before: Tensor
    momentum: Tensor
    steps: Tensor

    def __init__(self, momentum: float) -> None:
        super().__init__()
        # All of it state: what a run is remembered by is a module's state.
        self.register_buffer("momentum", torch.tensor(float(momentum), dtype=torch.float64))
        self.register_buffer("before", torch.zeros((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))
        self.register_buffer("last", torch.zeros((), dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def forward(self, scores: Scores, reward_N: Tensor) -> Tensor:
        sides = [reward_N[scores.role_N == role] for role in (1, -1)]
        means = [side.mean() for side in sides if len(side)]
        here = torch.stack(means).mean() if means else reward_N.new_zeros(())
        share = self.momentum.to(here) if self.steps else here.new_zeros(())
        anchor = share * self.before.to(here) + (1 - share) * here
        self.last.copy_(anchor)
        return anchor

    @torch.no_grad()
    def after_step(self, summed: object = None) -> None:
        self.before.copy_(self.last)
        self.steps += 1

    def figures(self) -> dict[str, float]:
        return {"anchor": float(self.before)}


def uapo(
    beta: float = 0.1,
    anchor: str = "global",
    host: str = "dpo",
    kappa: float = 0.0,
    good: float = 1.0,
    bad: float = 1.0,
    penalty: float = 0.0,
    anchor_lr: float = 10.0,
    momentum: float = 0.9,
    reference: str = "reference",
) -> Anchored:
    """Preference optimisation with an uncertainty-aware utility anchor (arXiv 2509.10515), on labels or pairs.

    L = good * mean over good of -log sigma(r - a) + bad * mean over bad of -log sigma(a - r).
    ``host``: r = beta log pi/ref, token sums ("dpo"), or beta times the token mean of log pi ("simpo", beta about 2).
    ``anchor``: "global", one learnt number; "prompt", a linear head on the prompt's last state; "batch", a running
    mean of the rewards with ``momentum``, nothing learnt. ``anchor_lr``: times the policy's learning rate.
    See ``Anchored`` for ``kappa`` and ``penalty``.

    >>> s = Scores.of_pairs([1.3], [-0.4], [0.0], [0.0])  # at the mean of both: -2 log sigma(0.85)
    >>> round(float(uapo(beta=1.0, anchor="batch")(s).mean(s)), 4)
    0.7117
    """
    positive(beta=beta, anchor_lr=anchor_lr)
    at_least(0, good=good, bad=bad, penalty=penalty)
    between(-2, 2.0001, kappa=kappa)
    between(0, 1, momentum=momentum)
    measures: Mapping[str, Callable[[], Measure]] = {
        "dpo": lambda: LogRatio(reference=reference),
        "simpo": lambda: LogProbability(mean=True),
    }
    anchors: Mapping[str, Callable[[], Callable[[Scores, Tensor], Tensor]]] = {
        "global": lambda: LearnedAnchor(partial(Number, anchor_lr)),
        "prompt": lambda: LearnedAnchor(partial(OfPrompt, anchor_lr), ("policy",)),
        "batch": lambda: RunningMean(momentum),
    }
    measure = one_of("host", host, measures)()
    return Anchored(measure, one_of("anchor", anchor, anchors)(), beta, kappa, good, bad, penalty)
