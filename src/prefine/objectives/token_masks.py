"""Token masks: two weights >= 0 a token, one on its log-ratio and one on its KL, fixed or learnt along.

    u = sum_t m^u_t log pi(y_t)/ref(y_t),   d = sum_t m^d_t (-KL_t),   KL_t = KL( ref(.|ctx_t) || pi(.|ctx_t) )
    L = -log sigma( beta [ (u_w - u_l) - (d_w - d_l) ] ) + lam_u (|m^u|_1) + lam_d (|m^d|_1)

over the vocabulary, with gradient through pi in both. All masks 1: token-level DPO (TDPO1, arXiv 2404.11999). Masks
1 and 0: DPO. A mask for the token t is made of the reference's state before it, which has not seen the token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from prefine.objectives.combine import add
from prefine.objectives.links import logistic, smooth
from prefine.objectives.pairwise import Pairs
from prefine.objectives.readings import Distribution, Learned, Reading, Size, View, kl, over_vocabulary
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least, between, one_of, positive

Masks = tuple[str | float, str | float]
"""(on the log-ratio, on the KL): the name of a reading, or the same number for every token."""


def mask_of(mask: str | float, scores: Scores) -> Tensor:
    """(N, T) a mask, 0 where a token does not count."""
    m_NT = scores.reading(mask) if isinstance(mask, str) else torch.full_like(scores.mask_NT, mask)
    return m_NT * scores.mask_NT


@dataclass(frozen=True)
class Masked:
    """(N,) sum_t m^u_t log pi/ref + m^d_t KL_t: a measure, whose difference over a pair is u - d.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> read = Scores(**{**vars(s), "readings": {"forward-kl": torch.tensor([[0.5], [0.25]])}})
    >>> Masked((1.0, 2.0), ())(read).tolist()  # 1 + 2 / 2, -1 + 2 / 4
    [2.0, -0.5]
    """

    masks: Masks
    learnt: tuple[tuple[str, Reading], ...]
    reference: str = "reference"

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference,)

    @property
    def readings(self) -> Mapping[str, Reading]:
        # Without a mask on it the KL is not computed.
        of_kl = (
            {} if self.masks[1] == 0 else {"forward-kl": Distribution(kl, (self.reference, "policy"), gradient=True)}
        )
        return {**dict(self.learnt), **of_kl}

    def __call__(self, scores: Scores) -> Tensor:
        gain_NT = mask_of(self.masks[0], scores) * scores.ratio_NT(self.reference)
        if self.masks[1] != 0:
            gain_NT = gain_NT + mask_of(self.masks[1], scores) * scores.reading("forward-kl")
        return scores.sum(gain_NT)


@dataclass(frozen=True)
class Norm:
    """lam |m|_1 over the tokens of both responses, one value a contrast."""

    mask: str
    lam: float
    references: tuple[str, ...] = ()

    def __call__(self, scores: Scores) -> Loss:
        sided_N = scores.role_N.abs()
        return Loss.of(self.lam * scores.over_group(sided_N * scores.sum(mask_of(self.mask, scores).abs())))


# -- where masks come from


class MaskNet(nn.Module):
    """(N, T) masks from a reference's states, without gradient to them; exact zeros through the ReLU.

    "all": a shared LayerNorm, a number a layer by ReLU(W_l h + b_l), and a mixer without bias to one, ReLU.
    "last": the last layer's number alone. "two-layer": the last layer through 200 units. With a ``bias`` above 0
    every token starts with that mask.
    """

    def __init__(self, net: str, dropout: float, bias: float, lr_factor: float, size: Size) -> None:
        super().__init__()
        size = size.needed()
        self.net, self.lr_factor = net, lr_factor
        self.norm, self.dropout = nn.LayerNorm(size.hidden), nn.Dropout(dropout)
        wide = 200 if net == "two-layer" else 1
        self.heads = nn.ModuleList(nn.Linear(size.hidden, wide) for _ in range(size.layers if net == "all" else 1))
        inputs = size.layers if net == "all" else wide
        self.mixer = None if net == "last" else nn.Linear(inputs, 1, bias=net == "two-layer")
        starting = self.heads if net != "two-layer" else [self.mixer]
        with torch.no_grad():
            if net == "all":
                assert self.mixer is not None
                # Only an average of non-negative numbers is sure to begin off the ReLU's flat side.
                self.mixer.weight.fill_(1 / size.layers)
            for layer in starting:
                assert layer is not None
                layer.get_parameter("bias").fill_(bias)
                if bias > 0:
                    # Random weights would shut some tokens at once, and a ReLU that is shut never learns to open.
                    layer.get_parameter("weight").zero_()
        self.zeros, self.seen = 0.0, 0.0

    def forward(self, view: View) -> Tensor:
        layers_NTLD = view.layers_NSLD[:, :-1].detach().to(self.norm.weight.dtype)
        used = layers_NTLD.unbind(2) if self.net == "all" else layers_NTLD[:, :, -1:].unbind(2)
        parts = [head(self.norm(h)) for head, h in zip(self.heads, used, strict=True)]
        mask_NT1 = torch.cat(parts, -1)
        if self.mixer is not None:
            mask_NT1 = self.mixer(self.dropout(mask_NT1.relu()))
        mask_NT = self.dropout(mask_NT1.relu())[..., 0]
        counts = view.mask_NT > 0
        self.zeros += float(((mask_NT == 0) & counts).sum())
        self.seen += float(counts.sum())
        return mask_NT * counts

    def figures(self) -> dict[str, float]:
        """The share of exact zeros since this was asked last."""
        share = self.zeros / max(self.seen, 1.0)
        self.zeros = self.seen = 0.0
        return {"mask/zeros": share}


@dataclass(frozen=True)
class Activations:
    """(N, T) masks in [0, 1] from what the reference's parts do (MaPO): no parameters, no gradient.

    Every activation (attention, feed-forward and output of each layer, logits): its mean over features, normalised
    over the response's tokens (mean and deviation, then least and greatest to 0 and 1). The mean over a kind's
    layers, then over kinds.
    """

    of: tuple[str, ...]
    deep: bool = True
    shape: tuple[str | int, ...] = ("N", "T")

    def made(self, size: Size) -> Callable[[View], Tensor]:
        size.needed()
        return activity


@torch.no_grad()
def activity(view: View) -> Tensor:
    """See ``Activations``."""
    counts_NT = view.mask_NT > 0
    kinds = [[x_NS[:, :-1] for x_NS in found] for found in view.means_NS.values()]
    kinds.append([over_vocabulary(lambda logits_MV: logits_MV.mean(-1), view, logits=True)])
    return torch.stack([torch.stack([ranged(x, counts_NT) for x in kind]).mean(0) for kind in kinds]).mean(0)


def ranged(x_NT: Tensor, counts_NT: Tensor) -> Tensor:
    """Every row to [0, 1] over the tokens that count: z-scores, then from the least to the greatest; 0 elsewhere.

    >>> ranged(torch.tensor([[1.0, 3.0, 2.0, 9.0]]), torch.tensor([[True, True, True, False]])).tolist()
    [[0.0, 1.0, 0.5, 0.0]]
    """
    # The z-score drops out of what follows, except in how a row without differences is treated.
    low = torch.where(counts_NT, x_NT, torch.inf).amin(-1, keepdim=True)
    high = torch.where(counts_NT, x_NT, -torch.inf).amax(-1, keepdim=True)
    return torch.where(counts_NT, (x_NT - low) / (high - low).clamp(min=1e-12), torch.zeros_like(x_NT))


def sparsepo(
    beta: float = 0.1,
    masks: str = "common",
    lam_u: float = 0.0,
    lam_d: float = 0.0,
    net: str = "all",
    dropout: float = 0.01,
    bias: float = 0.0,
    mask_lr: float = 1.0,
    label_smoothing: float = 0.0,
    reference: str = "reference",
) -> Objective:
    """SparsePO (Christopoulou et al., arXiv 2410.05102, eq. 8 and 9): token-level DPO with sparse masks.

    ``masks``: "common" (one learnt network, m^u = m^d), "independent" (two), "activations" (MaPO, fixed), "ones"
    (TDPO1), "reward" (m^u = 1, m^d = 0: DPO). ``net``: "all", "last" or "two-layer" (``MaskNet``), ``mask_lr`` its
    learning rate as a multiple of the policy's. lam_u, lam_d: weights of the masks' L1 norms, sums over tokens.

    >>> from prefine.objectives import dpo
    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> torch.equal(sparsepo(0.1, "reward")(s).mean(s), dpo(0.1)(s).mean(s))
    True
    """
    positive(beta=beta, mask_lr=mask_lr)
    at_least(0, lam_u=lam_u, lam_d=lam_d)
    between(0, 1, dropout=dropout)
    one_of("net", net, dict.fromkeys(("all", "last", "two-layer")))
    network = Learned(partial(MaskNet, net, dropout, bias, mask_lr), (reference,), deep=True)
    kinds: Mapping[str, tuple[Masks, Mapping[str, Reading]]] = {
        "common": (("mask", "mask"), {"mask": network}),
        "independent": (("mask-u", "mask-d"), {"mask-u": network, "mask-d": network}),
        "activations": (("mask", "mask"), {"mask": Activations((reference,))}),
        "ones": ((1.0, 1.0), {}),
        "reward": ((1.0, 0.0), {}),
    }
    both, learnt = one_of("masks", masks, kinds)
    pair = Pairs(Masked(both, tuple(learnt.items()), reference), smooth(logistic, label_smoothing), beta)
    norms = [Norm(m, lam) for m, lam in zip(both, (lam_u, lam_d), strict=True) if lam and isinstance(m, str)]
    return add(pair, *norms) if norms else pair
