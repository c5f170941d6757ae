"""What an objective sees, and what it gives back.

An objective is a function ``Scores -> Loss``. It knows nothing about models, tokens, batches or devices: a
``Scores`` holds the log-probabilities of the responses of a batch of contrasts under the policy (with
gradient) and under the references (without), and a ``Loss`` holds one value a contrast. The mean is taken in
one place (``Loss.mean``), over the whole optimiser step however it was cut up, so a loss is right under
gradient accumulation and under several processes by construction.

Shapes: N responses (rows) of at most T tokens, in G contrasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Token log-probabilities of a batch of contrasts, and what belongs to them.

    >>> s = Scores.of_pairs([-1.0, -2.0], [-3.0, -1.0], [-1.5, -1.5], [-2.0, -2.0])
    >>> chosen, rejected = s.sides(s.ratio())
    >>> chosen.tolist(), rejected.tolist()
    ([0.5, -0.5], [-1.0, 1.0])
    """

    logp_NT: Tensor
    """Log-probability of every response token under the policy; 0 where ``mask_NT`` is 0."""
    mask_NT: Tensor
    """1 for the tokens that count, 0 for padding, tool output and context."""
    role_N: Tensor
    """+1 chosen, -1 rejected, 0 neither."""
    group_N: Tensor
    """Which contrast a row belongs to, 0 .. G-1, in order."""
    references: Mapping[str, Tensor] = field(default_factory=dict)
    """Name -> (N, T), detached. The usual one is called "reference"."""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """The numbers of the contrasts: (G,) for one a contrast, (N,) for one a member (see ``value``)."""
    prompt_logp_N: Tensor | None = None
    """Sum of the prompt's token log-probabilities, only for objectives with ``reads_prompt``."""
    prompt_tokens_N: Tensor | None = None
    ids_N: tuple[tuple[int, ...], ...] = ()
    """The ids of every row's response tokens, for objectives that look at which tokens they are."""
    readings: Mapping[str, Tensor] = field(default_factory=dict)
    """What the objective's ``readings`` gave (``objectives.readings``), by name."""
    totals: Mapping[str, float] | None = None
    """How many units (see ``count``) the whole optimiser step has; None: this batch is the whole step."""

    @property
    def groups(self) -> int:
        """G, the number of contrasts."""
        return int(self.group_N[-1]) + 1

    @property
    def length_N(self) -> Tensor:
        """Tokens that count, a row."""
        return self.mask_NT.sum(-1)

    def sum(self, of: Tensor | None = None) -> Tensor:
        """(N,) log-probability of whole responses: the sum over tokens that count."""
        return ((self.logp_NT if of is None else of) * self.mask_NT).sum(-1)

    def mean(self, of: Tensor | None = None) -> Tensor:
        """(N,) log-probability a token: the mean over tokens that count."""
        return self.sum(of) / self.length_N.clamp(min=1)

    def ratio_NT(self, reference: str = "reference") -> Tensor:
        """(N, T) log-ratio of every token, policy against reference."""
        return self.logp_NT - self.references[reference]

    def ratio(self, reference: str = "reference", *, mean: bool = False) -> Tensor:
        """(N,) log-ratio of whole responses: a token sum, or a token mean."""
        ratio = self.ratio_NT(reference)
        return self.mean(ratio) if mean else self.sum(ratio)

    def sides(self, x_N: Tensor) -> tuple[Tensor, Tensor]:
        """Split a row value into (of the chosen, of the rejected), each (G,), for pairs."""
        chosen, rejected = self.role_N > 0, self.role_N < 0
        if int(chosen.sum()) != self.groups or int(rejected.sum()) != self.groups:
            raise ValueError("this objective needs pairs: exactly one chosen and one rejected response each")
        return x_N[chosen], x_N[rejected]

    def chosen(self, x_N: Tensor) -> Tensor:
        """The row values of the chosen responses only."""
        return x_N[self.role_N > 0]

    def value(self, name: str, default: float | None = None) -> Tensor:
        """A number of the contrasts by name, or ``default`` for all of them."""
        if name in self.values:
            return self.values[name]
        if default is None:
            there = ", ".join(sorted(self.values)) or "none"
            raise KeyError(f"this objective needs the value {name!r} on its contrasts (there: {there})")
        return torch.full((self.groups,), default, dtype=self.logp_NT.dtype, device=self.logp_NT.device)

    def reading(self, name: str) -> Tensor:
        """What was read off the models under a name (the trainer does that; scores made by hand bring it)."""
        if name not in self.readings:
            raise KeyError(f"this objective reads {name!r} off the model, and these scores have no such reading")
        return self.readings[name]

    def over_group(self, x_N: Tensor) -> Tensor:
        """(G,) sum of a row value over each contrast."""
        return torch.zeros(self.groups, dtype=x_N.dtype, device=x_N.device).index_add(0, self.group_N, x_N)

    def swapped(self) -> Scores:
        """The same contrasts with chosen and rejected exchanged (noise-robust losses need both orders)."""
        return replace(self, role_N=-self.role_N)

    def count(self, unit: str) -> float:
        """How many of a unit this batch has: what its part of a mean is divided by.

        ``contrast``: contrasts; ``response``: rows; ``chosen``, ``rejected``: rows of that role; ``token``:
        tokens that count; ``chosen_token``: those of chosen responses; ``chosen_text_token``: the same plus the
        tokens of their prompts; ``level_pair``: couples of a contrast on unlike levels (``across_levels``).
        """
        return float(UNITS[unit](self))

    @staticmethod
    def of_pairs(
        chosen: list[float] | Tensor,
        rejected: list[float] | Tensor,
        reference_chosen: list[float] | Tensor | None = None,
        reference_rejected: list[float] | Tensor | None = None,
        *,
        chosen_length: list[int] | Tensor | None = None,
        rejected_length: list[int] | Tensor | None = None,
        **values: list[float] | Tensor,
    ) -> Scores:
        """Scores of G pairs from the log-probabilities of whole responses (token sums).

        Lengths (tokens a response, default 1) matter to objectives that use token means. Extra ``values`` are
        (G,), or (G, 2) for one number a member.
        """
        w, l = _tensor(chosen), _tensor(rejected).to(_tensor(chosen).dtype)
        groups = len(w)
        one = torch.ones(groups, dtype=torch.long)
        lengths = torch.stack(
            [
                one if chosen_length is None else torch.as_tensor(chosen_length),
                one if rejected_length is None else torch.as_tensor(rejected_length),
            ],
            1,
        ).flatten()
        width = int(lengths.max())
        mask = (torch.arange(width)[None] < lengths[:, None]).to(w.dtype)

        def spread(x: Tensor, y: Tensor) -> Tensor:
            rows = torch.stack([x, y], 1).flatten()
            return (rows / lengths)[:, None] * mask

        references = {}
        if reference_chosen is not None and reference_rejected is not None:
            references["reference"] = spread(_tensor(reference_chosen), _tensor(reference_rejected)).to(w.dtype)
        return Scores(
            logp_NT=spread(w, l),
            mask_NT=mask,
            role_N=torch.tensor([1, -1]).repeat(groups),
            group_N=torch.arange(groups).repeat_interleave(2),
            references=references,
            values={k: _tensor(v).flatten().to(w.dtype) for k, v in values.items()},
        )


def across_levels(scores: Scores) -> Tensor:
    """(2, P) rows (i, j) of every two members of a contrast with level i < level j: i is better (level 1 is best).

    Levels are the members' value "level"; without it there are no such pairs.

    >>> s = Scores.of_pairs([0.0], [0.0], level=torch.tensor([[1.0, 3.0]]))
    >>> across_levels(s).tolist()
    [[0], [1]]
    """
    level_N = scores.values.get("level")
    if level_N is None or len(level_N) != len(scores.role_N):
        return scores.group_N.new_zeros((2, 0))
    together_NN = scores.group_N[:, None] == scores.group_N[None, :]
    return (together_NN & (level_N[:, None] < level_N[None, :])).nonzero().T


UNITS: Mapping[str, Callable[[Scores], Tensor | float]] = {
    "contrast": lambda s: s.groups,
    "response": lambda s: len(s.role_N),
    "chosen": lambda s: (s.role_N > 0).sum(),
    "rejected": lambda s: (s.role_N < 0).sum(),
    "token": lambda s: s.length_N.sum(),
    "chosen_token": lambda s: s.length_N[s.role_N > 0].sum(),
    "chosen_text_token": lambda s: (s.length_N + (0 if s.prompt_tokens_N is None else s.prompt_tokens_N))[
        s.role_N > 0
    ].sum(),
    "level_pair": lambda s: across_levels(s).shape[1],
}


@dataclass(frozen=True)
class Term:
    """One part of a loss: values to add up, and the unit whose count the sum is divided by."""

    values: Tensor
    per: str = "contrast"


@dataclass(frozen=True)
class Loss:
    """A sum of terms. ``a + b`` joins two losses, ``c * a`` scales one (by a number or by (G,) weights).

    >>> s = Scores.of_pairs([-1.0], [-3.0])
    >>> float((0.5 * Loss.of(-s.sides(s.sum())[0]) + Loss.of(s.sides(s.sum())[1])).mean(s))
    -2.5
    """

    terms: tuple[Term, ...]

    @staticmethod
    def of(values: Tensor, per: str = "contrast") -> Loss:
        return Loss((Term(values, per),))

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.terms + other.terms)

    def __mul__(self, factor: float | Tensor) -> Loss:
        return Loss(tuple(Term(t.values * factor, t.per) for t in self.terms))

    __rmul__ = __mul__

    def mean(self, scores: Scores) -> Tensor:
        """This batch's part of the mean over the optimiser step."""
        total = scores.logp_NT.new_zeros(())
        for term in self.terms:
            units = scores.count(term.per) if scores.totals is None else scores.totals[term.per]
            total = total + term.values.sum() / max(units, 1.0)
        return total

    @property
    def per_contrast(self) -> Tensor:
        """The value of every contrast, for losses that are one value a contrast."""
        return torch.stack([t.values for t in self.terms]).sum(0)


class Objective(Protocol):
    """A function from scores to a loss. Four optional attributes tell the trainer what it needs:

    ``references``: names of the references it reads (default ``("reference",)``; ``()`` for none);
    ``reads_prompt``: also score the prompt's own tokens;
    ``whole_batch``: it couples the contrasts of a step, so the step is not cut into micro-batches;
    ``readings``: what it sees of the models besides log-probabilities (``objectives.readings``).
    """

    def __call__(self, scores: Scores) -> Loss: ...


def traits(objective: Objective) -> tuple[tuple[str, ...], bool, bool]:
    """(references, reads_prompt, whole_batch) of an objective, defaults filled in."""
    return (
        tuple(getattr(objective, "references", ("reference",))),
        bool(getattr(objective, "reads_prompt", False)),
        bool(getattr(objective, "whole_batch", False)),
    )


def _tensor(x: list[float] | Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.get_default_dtype())
