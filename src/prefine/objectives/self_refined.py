"""Labels a model gave itself, softened where it trusts them least: around any pair loss (arXiv 2406.04412).

    z = L(l, w) - L(w, l), for DPO beta h, of a sharpened policy:  h_mix = c log pi - (c - 1) log ref, c = 1 + lam
    t = 1 if z > tau else 0,    tau: the q-quantile of the last z's
    L' = (1 - a + a t) L(w, l) + a (1 - t) L(l, w)

so an untrusted pair has a smoothed label and a trusted one the plain loss. Neither z nor tau has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor

import torch
from torch import Tensor, nn

from prefine.objectives.combine import Combination, both_orders
from prefine.objectives.readings import Distribution, Reading
from prefine.objectives.scores import Loss, Objective, Scores, traits
from prefine.registry import at_least, between


@dataclass(frozen=True)
class LogNormaliser:
    """(m,) log sum_v exp( c log pi(v) + (1 - c) log ref(v) ), what makes mixed logits a distribution again.

    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.2, 0.8]]).log()
    >>> round(float(LogNormaliser(2.0)(p, q).exp()), 6)  # 0.25/0.2 + 0.25/0.8
    1.5625
    """

    c: float

    def __call__(self, logp_MV: Tensor, reference_MV: Tensor) -> Tensor:
        # What both exclude has no share in it; 0 * inf would be nan.
        here = (logp_MV > -torch.inf) & (reference_MV > -torch.inf)
        mixed_MV = self.c * torch.where(here, logp_MV, 0.0) + (1 - self.c) * torch.where(here, reference_MV, 0.0)
        return mixed_MV.masked_fill(~here, -torch.inf).logsumexp(-1)


class SelfRefined(nn.Module):
    """See the module. The last z's are state, in the trainer's checkpoints: those of a step count from the next on,
    so that nothing depends on how a step is cut into micro-batches, and processes look at the z's of all.
    """

    window_W: Tensor
    seen: Tensor
    steps: Tensor

    def __init__(
        self, objective: Objective, eps: float, quantile: float, sharpen: float, window: int, quiet: int
    ) -> None:
        super().__init__()
        self.objective, self.eps, self.quantile, self.sharpen, self.quiet = objective, eps, quantile, sharpen, quiet
        self.register_buffer("window_W", torch.zeros(window, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))
        self.pending: list[float] = []
        self.untrusted = 0.0

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)

    @property
    def reference(self) -> str:
        """The policy that logits are sharpened away from: the loss's first reference."""
        return (*traits(self.objective)[0], "reference")[0]

    @property
    def references(self) -> tuple[str, ...]:
        own: tuple[str, ...] = Combination.references.fget(self)  # type: ignore[attr-defined]
        return own if not self.sharpen else tuple(dict.fromkeys((*own, self.reference)))

    reads_prompt = Combination.reads_prompt
    whole_batch = Combination.whole_batch

    @property
    def readings(self) -> Mapping[str, Reading]:
        if not self.sharpen:
            return {}
        return {"mixture": Distribution(LogNormaliser(1 + self.sharpen), ("policy", self.reference))}

    @property
    def threshold(self) -> float | None:
        """tau, the mean of the two order statistics at and after the quantile; None until the window is full."""
        if self.seen < len(self.window_W):
            return None
        ordered = self.window_W.sort().values
        at = min(floor(self.quantile * len(ordered)), len(ordered) - 1)
        return float((ordered[at] + ordered[min(at + 1, len(ordered) - 1)]) / 2)

    def margin(self, scores: Scores) -> Tensor:
        """(G,) z of the sharpened policy, without gradient."""
        with torch.no_grad():
            if self.sharpen:
                c = 1 + self.sharpen
                mixed_NT = c * scores.logp_NT + (1 - c) * scores.references[self.reference] - scores.reading("mixture")
                scores = replace(scores, logp_NT=torch.where(scores.mask_NT > 0, mixed_NT, scores.logp_NT))
            kept, flipped = both_orders(self.objective, scores)
            return (flipped.per_contrast - kept.per_contrast).detach()

    def forward(self, scores: Scores) -> Loss:
        z_G = self.margin(scores)
        self.pending += z_G.double().tolist()
        tau = self.threshold
        trusted_G = torch.ones_like(z_G) if tau is None else (z_G > tau).to(z_G)
        self.untrusted = float(1 - trusted_G.mean())
        eps = self.eps if self.steps >= self.quiet else 0.0
        kept, flipped = both_orders(self.objective, scores)
        return (1 - eps * (1 - trusted_G)) * kept + eps * (1 - trusted_G) * flipped

    @torch.no_grad()
    def after_step(self, summed: Callable[[Sequence[float]], Sequence[float]] = tuple) -> None:
        """The step's z's into the window."""
        fresh = _of_all(self.pending, summed)
        size = len(self.window_W)
        keep = torch.tensor([*self.window_W.tolist(), *fresh][-size:], dtype=torch.float64)
        self.window_W.copy_(keep)
        self.seen += len(fresh)
        self.steps += 1
        self.pending = []

    def figures(self) -> dict[str, float]:
        tau = self.threshold
        return {"untrusted": self.untrusted, **({} if tau is None else {"trust_threshold": tau})}


def _of_all(own: Sequence[float], summed: Callable[[Sequence[float]], Sequence[float]]) -> list[float]:
    """The numbers of all processes, in their order: each adds its own in places that the others leave at 0."""
    from prefine.place import place

    here = place()
    if here.size == 1:
        return list(own)
    counts = [int(n) for n in summed([float(len(own)) if r == here.rank else 0.0 for r in range(here.size)])]
    before = sum(counts[: here.rank])
    return list(summed([0.0] * before + list(own) + [0.0] * (sum(counts) - before - len(own))))


def self_refined(
    objective: Objective,
    eps: float = 0.1,
    quantile: float = 0.1,
    sharpen: float = 0.0,
    window: int = 50,
    quiet: int = 0,
) -> SelfRefined:
    """Any pair loss on self-given labels, the least trusted ones smoothed (SPA, arXiv 2406.04412).

    L' = (1 - eps (1 - t)) L(w, l) + eps (1 - t) L(l, w), t = 1 where the margin is above the ``quantile`` of the last
    ``window`` pairs' margins. ``sharpen``: lam of the sharpened policy that judges, 0 for the policy itself; above 0
    it reads whole distributions. ``quiet``: steps at first in which every label counts fully.

    >>> from prefine.objectives import dpo
    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> torch.equal(self_refined(dpo(0.1))(s).mean(s), dpo(0.1)(s).mean(s))  # until the window is full
    True
    """
    between(0, 0.5000001, eps=eps)
    between(0, 1, quantile=quantile)
    at_least(0, sharpen=sharpen, quiet=quiet)
    at_least(1, window=window)
    return SelfRefined(objective, eps, quantile, sharpen, window, quiet)
