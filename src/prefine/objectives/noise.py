"""Wrong labels: wrappers that need nothing but a pair loss in both orders, L(w, l) and L(l, w).

robust   the flip rate is known: an unbiased estimate of the clean loss (rDPO, arXiv 2403.00409)
lcpo     it is not: every label is right with a probability that the policy itself infers, and every annotator
         has a reliability, learnt along (LCPO, arXiv 2509.24159)

(Smoothing a label, which is biased and bounded, is ``combine.smoothed``.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prefine.objectives.combine import BothOrders, Combination, both_orders
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least, between


@dataclass(frozen=True)
class Unbiased:
    """((1 - eps), -eps) / (1 - 2 eps) with eps a number, or a value of the contrasts."""

    eps: float
    by: str | None = None

    def __call__(self, scores: Scores) -> tuple[float | Tensor, float | Tensor]:
        eps = self.eps if self.by is None else scores.value(self.by).detach()
        if isinstance(eps, Tensor) and not bool(((eps >= 0) & (eps < 0.5)).all()):
            raise ValueError(f"the value {self.by!r} is a rate of wrong labels: from 0 to below 0.5")
        return (1 - eps) / (1 - 2 * eps), -eps / (1 - 2 * eps)


def robust(objective: Objective, eps: float = 0.1, by: str | None = None, most: float | None = None) -> Objective:
    """Labels that are flipped with a known rate: on average the loss of the clean ones (arXiv 2403.00409, eq. 6).

    L_rob = [ (1 - eps) L(w, l) - eps L(l, w) ] / (1 - 2 eps),  so (1-eps) L_rob(w, l) + eps L_rob(l, w) = L(w, l).

    For DPO the push, zeta = (1-eps)/(1-2eps) sigma(-h) + eps/(1-2eps) sigma(h), never turns round, and the loss
    falls for ever with h: ``most`` cuts L(l, w) off there (None: not). ``by``: eps is this value of the contrasts.

    >>> from prefine.objectives import dpo
    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> clean, rob = dpo(1.0), robust(dpo(1.0), 0.2)
    >>> round(float(0.8 * rob(s).mean(s) + 0.2 * rob(s.swapped()).mean(s) - clean(s).mean(s)), 6)
    0.0
    """
    between(0, 0.5, eps=eps)
    if not eps and by is None:
        return objective
    return BothOrders(objective, Unbiased(eps, by), most)


class Latent(nn.Module):
    """L = c L(w, l) + (1 - c) L(l, w), with c the posterior that the label is right, and the annotators'
    reliabilities eta as state: see ``lcpo``. Updated after every optimiser step; in the trainer's checkpoints."""

    eta_K: Tensor

    def __init__(self, objective: Objective, eta: float, momentum: float, annotators: int, by: str) -> None:
        super().__init__()
        self.objective, self.momentum, self.by = objective, momentum, by
        self.register_buffer("eta_K", torch.full((annotators,), float(eta)))
        self.right_K: Tensor
        self.seen_K: Tensor
        self.labels_K: Tensor
        self.register_buffer("labels_K", torch.zeros(annotators))
        self.register_buffer("right_K", torch.zeros(annotators), persistent=False)
        self.register_buffer("seen_K", torch.zeros(annotators), persistent=False)

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)

    references = Combination.references
    reads_prompt = Combination.reads_prompt
    whole_batch = Combination.whole_batch

    def forward(self, scores: Scores) -> Loss:
        kept, flipped = both_orders(self.objective, scores)
        who_G = scores.value(self.by, 0.0).detach().long()
        if int(who_G.max()) >= len(self.eta_K) or int(who_G.min()) < 0:
            raise ValueError(
                f"annotator {int(who_G.max())} of {len(self.eta_K)}: they are numbered from 0, and `annotators` says "
                "how many there are"
            )
        with torch.no_grad():
            h_G = flipped.per_contrast - kept.per_contrast
            right_G = posterior(self.eta_K[who_G].to(h_G), h_G)
            self.right_K.index_add_(0, who_G, right_G.to(self.right_K))
            self.seen_K.index_add_(0, who_G, torch.ones_like(right_G).to(self.seen_K))
        return right_G * kept + (1 - right_G) * flipped

    @torch.no_grad()
    def after_step(self, summed: Callable[[Sequence[float]], Sequence[float]] = tuple) -> None:
        """eta_k <- (1 - momentum) eta_k + momentum * mean of c over the step's labels by k."""
        K = len(self.eta_K)
        totals = torch.tensor(list(summed([*self.right_K.tolist(), *self.seen_K.tolist()]))).to(self.eta_K)
        right_K, seen_K = totals[:K], totals[K:]
        moved_K = self.eta_K + self.momentum * (right_K / seen_K.clamp(min=1) - self.eta_K)
        if self.momentum:
            self.eta_K.copy_(torch.where(seen_K > 0, moved_K.clamp(*ALLOWED), self.eta_K))
        self.labels_K += seen_K
        self.right_K.zero_()
        self.seen_K.zero_()

    def figures(self) -> dict[str, float]:
        """The reliabilities of those who have labelled so far: each, or of many the mean and the ends."""
        eta = {k: self.eta_K[k].item() for k in self.labels_K.nonzero().flatten().tolist()}
        if len(eta) <= MANY:
            return {f"reliability/{k}": value for k, value in eta.items()}
        values = list(eta.values())
        return {"reliability/mean": sum(values) / len(values), "reliability/low": min(values),
                "reliability/high": max(values)}  # fmt: skip


ALLOWED = (0.5 + 1e-3, 1 - 1e-3)
"""Below a half the latent truth would change its sign."""

MANY = 32


def posterior(eta: Tensor, h: Tensor) -> Tensor:
    """P(the label is right) = eta p / (eta p + (1 - eta)(1 - p)) with p = sigma(h), h = L(l, w) - L(w, l).

    >>> one, nine, none = torch.tensor(1.0), torch.tensor(0.9), torch.tensor(0.0)
    >>> float(posterior(one, none - 200)), round(float(posterior(nine, none)), 6)
    (1.0, 0.9)
    """
    return torch.sigmoid(torch.logit(eta) + h)  # the same, for every h


def lcpo(
    objective: Objective, eta: float = 0.9, momentum: float = 0.1, annotators: int = 256, by: str = "annotator"
) -> Latent:
    """Labels whose correctness is latent: EM along with training (arXiv 2509.24159), around any pair loss.

    p = sigma( L(l, w) - L(w, l) ), for DPO sigma(beta h);  c = eta_k p / ( eta_k p + (1 - eta_k)(1 - p) ), detached;
    L_lcpo = c L(w, l) + (1 - c) L(l, w);  after each step eta_k moves by ``momentum`` towards the mean of c.

    eta: the reliability at first. annotators: how many there can be; the value ``by`` of the contrasts, 0 where
    there is none, says who. eta near 1 is the plain loss; the start is the loss with labels smoothed by 1 - eta.

    >>> from prefine.objectives import dpo, smoothed
    >>> s = Scores.of_pairs([-2.0], [-3.0], [-2.0], [-3.0])  # the policy is its reference: p = 1/2
    >>> torch.allclose(lcpo(dpo(0.1), eta=0.9)(s).mean(s), smoothed(dpo(0.1), 0.1)(s).mean(s))
    True
    """
    between(0.5, 1.0 + 1e-9, eta=eta)
    between(0, 1.0 + 1e-9, momentum=momentum)
    at_least(1, annotators=annotators)
    return Latent(objective, eta, momentum, annotators, by)
