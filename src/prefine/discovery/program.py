"""A proposed loss as data: a list of tensor operations on four vectors of log-probabilities.

Shapes: (G,) log-probabilities of whole responses (token sums) of G pairs; the loss is (G,).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prefine.objectives.scores import Loss, Scores

REDUCTIONS: Mapping[str, Callable[..., Any]] = {
    "mean": torch.mean, "sum": torch.sum, "std": torch.std, "var": torch.var, "median": torch.median,
    "max": torch.max, "min": torch.min, "quantile": torch.quantile, "softmax": torch.softmax,
    "log_softmax": torch.log_softmax, "logsumexp": torch.logsumexp, "norm": torch.linalg.vector_norm,
}  # fmt: skip
"""What couples the pairs of a batch."""

OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **REDUCTIONS,
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "pow": operator.pow,
    "neg": operator.neg, "abs": torch.abs, "sign": torch.sign, "square": torch.square, "sqrt": torch.sqrt,
    "exp": torch.exp, "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p, "reciprocal": torch.reciprocal,
    "sigmoid": torch.sigmoid, "logsigmoid": F.logsigmoid, "tanh": torch.tanh, "sin": torch.sin, "cos": torch.cos,
    "relu": F.relu, "leaky_relu": F.leaky_relu, "elu": F.elu, "gelu": F.gelu, "silu": F.silu,
    "softplus": F.softplus, "softsign": F.softsign, "erf": torch.erf, "atan": torch.atan,
    "where": torch.where, "maximum": torch.maximum, "minimum": torch.minimum, "clamp": torch.clamp,
    "gt": operator.gt, "lt": operator.lt, "ge": operator.ge, "le": operator.le, "eq": operator.eq, "ne": operator.ne,
    "and": operator.and_, "or": operator.or_, "not": operator.invert, "detach": Tensor.detach,
    "float": Tensor.float, "zeros_like": torch.zeros_like, "ones_like": torch.ones_like, "full_like": torch.full_like,
    "tensor": torch.as_tensor,
}  # fmt: skip
"""Name -> what it does to tensors: all a proposal can be made of."""

LIKE: Mapping[str, Callable[[Tensor, Any], Tensor]] = {
    "float": lambda like, x: x.to(like), "tensor": lambda like, x: like.new_tensor(x),
}  # fmt: skip
"""Operations whose result has the precision and the place of the log-probabilities, whatever theirs is elsewhere."""

LEAVES = 4
"""Policy chosen, policy rejected, reference chosen, reference rejected: the first values of every program."""


class NotValid(Exception):
    """A proposal that cannot be trained with; the message is for whoever proposed it."""


@dataclass(frozen=True)
class Value:
    """The result of an earlier step, by its number."""

    at: int


@dataclass(frozen=True)
class Step:
    """One operation, its arguments (values, numbers, None) and named numbers."""

    name: str
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Proposed:
    """An objective from a program. Without an operation that couples pairs it is elementwise.

    >>> steps = (Step("sub", (Value(0), Value(1))), Step("logsigmoid", (Value(4),)), Step("neg", (Value(5),)))
    >>> s = Scores.of_pairs([-1.0], [-1.0], [-1.0], [-1.0])
    >>> round(float(Proposed("logistic", steps, 6)(s).mean(s)), 6)
    0.693147
    """

    name: str
    steps: tuple[Step, ...]
    output: int
    references: tuple[str, ...] = ("reference",)

    @property
    def whole_batch(self) -> bool:
        return any(step.name in REDUCTIONS for step in self.steps)

    def __call__(self, scores: Scores) -> Loss:
        chosen_G, rejected_G = scores.sides(scores.sum())
        return Loss.of(self.loss(chosen_G, rejected_G, *scores.sides(scores.sum(scores.references["reference"]))))

    def loss(self, *leaves_G: Tensor) -> Tensor:
        """(G,) from the four log-probability vectors."""
        values: list[Any] = list(leaves_G)
        like = leaves_G[0]

        def known(x: Any) -> Any:
            return values[x.at] if isinstance(x, Value) else x

        for step in self.steps:
            named = {name: known(x) for name, x in step.named}
            make = LIKE.get(step.name)
            arguments = [known(x) for x in step.arguments]
            values.append(OPERATIONS[step.name](*arguments, **named) if make is None else make(like, arguments[0]))
        loss: Tensor = values[self.output]
        return loss.to(like)
