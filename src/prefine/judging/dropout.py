"""A reward model with dropout on: T thinned copies of one network, which agree where it is sure (MC dropout).

Pass t drops a random share of the inputs of every linear layer. Of a scalar model P_t(i, j) = sigma(r_t(i) - r_t(j));
of a pairwise one (a logit of "the first is better", read at a text with both) P_t is averaged over the two orders. Then

    NAME[i][j]        mean over t of P_t(i, j)
    NAME_votes[i][j]  share of the passes in which i beats j
    NAME_bald[i][j]   H(mean_t P_t) - mean_t H(P_t) >= 0 in nats: what a label would tell about the network (BALD); 0
                      where all passes agree, log 2 where half are certain of i and half of j

and, of a scalar model, the mean and the spread (standard deviation) of every response's reward.

One mask a layer and pass, the same for all rows and places, so the numbers do not depend on how rows are padded,
batched or put in prefix trees; it is drawn from the judge's seed, the pass and the slate.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefine.errors import InputError
from prefine.fingerprint import seed_of
from prefine.judging.models import NO_LIMITS, live
from prefine.policies.base import Limits
from prefine.registry import at_least, between
from prefine.slate import Candidate, Feedback, Slate, prompt_to_json, scores, table

Columns = Mapping[str, Feedback]

BOTH = "\nFirst response:\n{first}\nSecond response:\n{second}\n"
"""What a pairwise model reads after the prompt."""


@dataclass(frozen=True)
class DropoutJudge:
    """Comparisons by a reward model with dropout on, and how far its passes agree: see the module.

    ``template``: None for a scalar model, else what a pairwise one reads after the prompt (``curating.both_ways``
    makes its lessons). ``rate``: share of a layer's inputs that is dropped; 0 makes all passes alike.
    """

    model: Any
    passes: int = 10
    rate: float = 0.1
    template: str | None = None
    seed: int = 0
    name: str = "preference"
    limits: Limits = NO_LIMITS

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        model = live(self.model)
        if not hasattr(model, "reward"):
            raise InputError(
                f"a policy of kind {getattr(model, 'kind', '?')!r} gives no rewards to be unsure of",
                remedy="fit a reward model first (`prefine run reward-model ...`), or name one",
            )
        return [self._columns(model, slate) for slate in slates]

    def _columns(self, model: Any, slate: Slate) -> Columns:
        shown = slate if self.template is None else compared(slate, self.template)
        rewards_TN = np.array([self._pass(model, slate, shown, t) for t in range(self.passes)], dtype=np.float64)
        if self.template is None:
            P_TKK = sigmoid(rewards_TN[:, :, None] - rewards_TN[:, None, :])
        else:
            P_TKK = np.full((self.passes, len(slate), len(slate)), 0.5)
            for n, (i, j) in enumerate(permutations(range(len(slate)), 2)):
                P_TKK[:, i, j] += sigmoid(rewards_TN[:, n]) / 2 - 0.25
                P_TKK[:, j, i] -= sigmoid(rewards_TN[:, n]) / 2 - 0.25
        agreement = {
            self.name: table(mean(P_TKK).tolist()),
            f"{self.name}_votes": table(votes(P_TKK).tolist()),
            f"{self.name}_bald": table(bald(P_TKK).tolist()),
        }
        if self.template is not None:
            return agreement
        spread_K = (rewards_TN - mean(rewards_TN)).std(0) if len(slate) else rewards_TN[0]
        return {"score": scores(mean(rewards_TN).tolist()), "score_spread": scores(spread_K.tolist()), **agreement}

    def _pass(self, model: Any, slate: Slate, shown: Slate, t: int) -> list[float]:
        texts = [slate.response(i) for i in range(len(slate))]
        seed = seed_of("dropout", self.seed, t, json.dumps([prompt_to_json(slate.prompt), texts]))
        with thinned(model, self.rate, seed), torch.no_grad():
            return [float(r) for r in model.reward([shown], self.limits)[0]]


def compared(slate: Slate, template: str = BOTH) -> Slate:
    """The slate with every two responses, in either order, as one text: (0, 1), (0, 2), ..., (1, 0), ..."""
    couples = [both(slate, i, j, template) for i, j in permutations(range(len(slate)), 2)]
    return Slate(slate.prompt, tuple(couples), {}, slate.meta)


def both(slate: Slate, first: int, second: int, template: str = BOTH) -> Candidate:
    """Two responses as one text.

    >>> both(Slate("p", (Candidate("a {second}"), Candidate("b"))), 0, 1, "1 {first} 2 {second}").text
    '1 a {second} 2 b'
    """
    before, _, rest = template.partition("{first}")
    between_, _, after = rest.partition("{second}")
    own = slate.candidates[first].prompt
    return Candidate(before + slate.response(first) + between_ + slate.response(second) + after, prompt=own)


# -- what the passes say


def mean(x_T: np.ndarray) -> np.ndarray:
    """The mean over passes; exactly the value itself where all passes give the same."""
    return np.asarray(x_T[0] + (x_T - x_T[0]).mean(0))


def votes(P_T: np.ndarray) -> np.ndarray:
    """The share of passes with P_t above a half (at a half: half a vote).

    >>> votes(np.array([0.9, 0.5, 0.2, 0.1])).tolist()
    0.375
    """
    return np.asarray(((P_T > 0.5) + 0.5 * (P_T == 0.5)).mean(0))


def bald(P_T: np.ndarray) -> np.ndarray:
    """H(mean P) - mean H(P) of yes-or-no distributions, in nats, as the mean KL of every pass to their mean.

    >>> bald(np.array([0.3, 0.3, 0.3])).tolist(), round(float(bald(np.array([1.0, 0.0]))), 6)  # 0 and log 2
    (0.0, 0.693147)
    """
    mean_ = mean(P_T)
    information = (_term(P_T, mean_) + _term(1 - P_T, 1 - mean_)).mean(0)
    return np.where(np.all(P_T[:1] == P_T, axis=0), 0.0, np.maximum(information, 0.0))


def _term(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """p log(p/q), 0 at p = 0."""
    there = p > 0
    return np.where(there, p * (np.log(np.where(there, p, 1.0)) - np.log(np.where(there, q, 1.0))), 0.0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


# -- dropout in a network built without it


@contextmanager
def thinned(policy: Any, rate: float, seed: int) -> Iterator[None]:
    """The policy with a share of the inputs of its linear layers dropped, the rest scaled up by 1/(1 - rate).

    With an adapter its inputs alone are thinned, as LoRA dropout does. Whether the model was built with dropout does
    not matter, and its own dropout stays off.
    """
    module = getattr(policy, "module", None)
    places = [] if not isinstance(module, nn.Module) else linear_layers(module)
    if not places:
        raise InputError(
            f"a policy of kind {getattr(policy, 'kind', '?')!r} has no linear layers whose inputs dropout could drop",
            remedy="fit a reward model on a language model (`prefine run reward-model ...`), or use a judge without "
            "dropout",
        )
    generator = torch.Generator().manual_seed(seed % 2**63)
    hooks = []
    try:
        for place, width in places if rate else ():
            kept_D = torch.rand(width, generator=generator) >= rate
            hooks.append(place.register_forward_pre_hook(_Mask(kept_D / (1 - rate))))
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class _Mask:
    """The first input times a mask over its features."""

    mask_D: Tensor

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *rest = inputs
        return (first * self.mask_D.to(first), *rest)


def linear_layers(module: nn.Module) -> list[tuple[nn.Module, int]]:
    """(layer, width of its input), in the order of the network: the adapter's first factors, or all of them."""
    found = [(name, part, _width(part)) for name, part in module.named_modules()]
    layers = [(name, part, width) for name, part, width in found if width]
    adapter = [(part, width) for name, part, width in layers if ".lora_A." in name]
    return adapter or [(part, width) for _, part, width in layers]


def _width(part: nn.Module) -> int:
    """Of a linear layer's input; 0 for everything else. (GPT-2 keeps its weights transposed, in a class of its own.)"""
    if isinstance(part, nn.Linear):
        return part.in_features
    return int(part.weight.shape[0]) if type(part).__name__ == "Conv1D" else 0  # type: ignore[index,union-attr]


def dropout(
    model: Any,
    passes: int = 10,
    rate: float = 0.1,
    template: str | None = None,
    seed: int = 0,
    name: str = "preference",
) -> DropoutJudge:
    """A reward model, scalar or (with a template) pairwise, asked ``passes`` times with dropout on."""
    at_least(1, passes=passes)
    between(0, 1, rate=rate)
    if template is not None and not 0 <= template.find("{first}") < template.find("{second}"):
        raise InputError(f"the text {template!r} does not show both responses", remedy="write {first} before {second}")
    return DropoutJudge(model, passes, rate, template, seed, name)
