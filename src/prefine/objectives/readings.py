"""Readings: what an objective sees of the models besides the log-probabilities of the tokens that were chosen.

Some methods weigh tokens by the whole next-token distribution, or learn a small map of the hidden states along
with the policy. Such an objective (or a measure, margin or weight in it) has an attribute ``readings``, name ->
``Reading``; what they give arrives as ``scores.readings[name]``, with gradient where the reading has one. The
objective stays a function of its scores, and the trainer knows no method: it builds every reading for the size
of the model at hand, trains those that have parameters along, and throws them away afterwards.

Shapes: N rows of at most T response tokens; M tokens that count; S = T + 1 places, place 0 the last prompt
token and place t the t-th response token, so that the token t (from 0) is predicted at place t; D hidden size; L
layers; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prefine.errors import InputError

CHUNK_NUMBERS = 1 << 24
"""Most numbers (tokens x vocabulary) that are in memory at once: 64 MB in float32."""


@dataclass(frozen=True)
class Size:
    """How large a model's states are; 0 for a policy that has none."""

    hidden: int = 0
    layers: int = 0

    def needed(self) -> Size:
        """The size itself, or an error where there are no states to read."""
        if not self.hidden:
            raise InputError(
                "the objective reads hidden states, and this policy has none",
                remedy="train a language model with it, or set the option that does without",
            )
        return self


class View(Protocol):
    """One model on the rows of a batch, after one forward pass."""

    row_M: Tensor
    slot_M: Tensor
    vocabulary: int
    states_NSD: Tensor
    layers_NSLD: Tensor
    """The output of every layer (only if a reading is ``deep``)."""
    means_NS: Mapping[str, list[Tensor]]
    """Of every kind of activation (attention, feed-forward, residual) the means over features, one a layer (only if
    a reading is ``deep``)."""
    length_N: Tensor
    """Response tokens of a row, those that do not count included."""
    mask_NT: Tensor

    def logp(self) -> Tensor:
        """(N, T) log-probability of every response token that counts, 0 elsewhere."""
        ...

    def logp_MV(self, start: int, stop: int) -> Tensor:
        """Log-probabilities of the next token at some of the M places."""
        ...

    def logits_MV(self, start: int, stop: int) -> Tensor:
        """Its logits, as the model gives them."""
        ...


class Reading(Protocol):
    """Something read off the models: a frozen dataclass that says of which, and makes the function."""

    @property
    def of(self) -> tuple[str, ...]:
        """The models it looks at: "policy", or names of references. None: a parameter that no model decides."""
        ...

    @property
    def deep(self) -> bool:
        """Whether it reads the states of every layer."""
        ...

    @property
    def shape(self) -> tuple[str | int, ...]:
        """Of what it gives, in N (rows), T (response tokens) and numbers."""
        ...

    def made(self, size: Size) -> Callable[..., Tensor]:
        """The function of one view a model. An ``nn.Module`` is trained along, at ``lr`` if it has that attribute,
        or at ``lr_factor`` times the policy's learning rate."""
        ...


def over_vocabulary(f: Callable[..., Tensor], *views: View, logits: bool = False) -> Tensor:
    """(N, T) of f, a function of (m, V) log-probabilities of every view to (m,): 0 where a token does not count.

    ``logits``: of the logits instead. A chunk of tokens at a time. With gradient a chunk is computed again in the
    backward pass, so that all logits are never in memory together.
    """
    first = views[0]
    size = max(1, CHUNK_NUMBERS // max(first.vocabulary, 1))

    def part(start: int) -> Tensor:
        return f(*((view.logits_MV if logits else view.logp_MV)(start, start + size) for view in views))

    starts = range(0, len(first.row_M), size)
    learns = torch.is_grad_enabled()
    parts = [checkpoint(part, s, use_reentrant=False) if learns else part(s) for s in starts]
    zeros_NT = torch.zeros_like(first.mask_NT) if not parts else parts[0].new_zeros(first.mask_NT.shape)
    return zeros_NT.index_put((first.row_M, first.slot_M), torch.cat(parts)) if parts else zeros_NT


@dataclass(frozen=True)
class Distribution:
    """(N, T) of a function of the next-token log-probabilities of some models, (m, V) each -> (m,)."""

    function: Callable[..., Tensor]
    of: tuple[str, ...] = ("policy",)
    gradient: bool = False
    deep: bool = False
    shape: tuple[str | int, ...] = ("N", "T")

    def made(self, size: Size) -> Callable[..., Tensor]:
        def read(*views: View) -> Tensor:
            with torch.set_grad_enabled(self.gradient and torch.is_grad_enabled()):
                return over_vocabulary(self.function, *views)

        return read


def collision(logp_MV: Tensor) -> Tensor:
    """log sum_v p(v)^2: of a token drawn from p, the log of its expected probability.

    >>> round(float(collision(torch.tensor([[0.25, 0.75]]).log())), 6)  # log(1/16 + 9/16)
    -0.470004
    """
    return (2 * logp_MV).logsumexp(-1)


def peak(logp_MV: Tensor) -> Tensor:
    """log max_v p(v): of the token that greedy decoding takes."""
    return logp_MV.amax(-1)


def kl(p_MV: Tensor, q_MV: Tensor) -> Tensor:
    """KL(p || q) from log-probabilities; what p excludes does not count.

    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> round(float(kl(p, q)), 6)  # log 2 / 2 + log(2/3) / 2
    0.143841
    """
    here = p_MV > -torch.inf
    gap = torch.where(here, p_MV, 0.0) - torch.where(here, q_MV, 0.0)
    return (p_MV.exp() * gap).sum(-1)


@dataclass(frozen=True)
class Learned:
    """A function with parameters: ``module(size)`` is trained along with the policy."""

    module: Callable[[Size], nn.Module]
    of: tuple[str, ...] = ()
    deep: bool = False
    shape: tuple[str | int, ...] = ("N", "T")

    def made(self, size: Size) -> Callable[..., Tensor]:
        return self.module(size)


def made_up(objective: Any, like_NT: Tensor) -> dict[str, Tensor]:
    """Readings without a model, small and positive, for scores of this shape: to try an objective on."""
    sizes = {"N": like_NT.shape[0], "T": like_NT.shape[1]}
    return {
        name: torch.full([part if isinstance(part, int) else sizes[part] for part in reading.shape], 0.1).to(like_NT)
        for name, reading in gathered(objective).items()
    }


def gathered(thing: Any) -> dict[str, Reading]:
    """The readings of an objective and of everything it is made of (measures, margins, weights, parts), by name.

    The same name twice must mean the same thing.
    """
    found: dict[str, Reading] = dict(getattr(thing, "readings", None) or {})
    for part in inside(thing):
        for name, reading in gathered(part).items():
            if found.setdefault(name, reading) != reading:
                raise ValueError(f"two parts of an objective read different things under the name {name!r}")
    return found


def restored(objective: Any, tensors: Mapping[str, Tensor], size: Size) -> dict[str, nn.Module]:
    """The readings that were learnt along, as they were at the end: from the tensors beside a trained model."""
    made = {name: reading.made(size) for name, reading in gathered(objective).items()}
    found = {name: part.eval() for name, part in made.items() if isinstance(part, nn.Module)}
    for name, part in found.items():
        begin = f"{name}."
        part.load_state_dict({n.removeprefix(begin): t for n, t in tensors.items() if n.startswith(begin)})
    return found


def inside(thing: Any) -> Iterable[Any]:
    """What an objective or a part of one is made of."""
    if isinstance(thing, tuple | list):
        return thing
    if is_dataclass(thing) and not isinstance(thing, type):
        return [getattr(thing, field.name) for field in fields(thing)]
    return tuple(getattr(thing, "parts", ())) if isinstance(thing, nn.Module) else ()
