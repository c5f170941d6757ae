"""The last layer computes only the columns that somebody reads.

Log-probabilities are read off where a response token is predicted, rewards at the ends of rows. The layers below
need every column, and so do the last layer's keys and values; but its output projection and its
feed-forward part, most of its arithmetic, are wanted only where something is read. With L columns of which W
are read, the last layer gets the W columns as its input (its residual stream), its first part (the norm before
attention, and so keys and values) gets all L, and attention hands back the W.

A layer is narrowed from outside, by hooks, whatever family it is of; a model is *tried* once, and narrowed only if
the numbers agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

WORTH = 0.9
"""Narrowed where at most this part of the columns is read."""


@dataclass
class Reading:
    """One pass through a narrowed layer."""

    column_W: Tensor
    whole: Tensor | None = None
    part: Tensor | None = None
    inside: bool = False
    """The whole input is on its way to attention."""
    attended: bool = False
    """Attention is done with it."""
    done: bool = False
    """Only what is read went on from there."""

    def enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The layer's own input becomes that of the columns that are read."""
        self.whole = _input(args, kwargs)
        if self.whole is None or self.whole.dim() != 3 or self.whole.shape[0] != 1:
            return None
        self.part = self.whole.index_select(1, self.column_W)
        return _replaced(args, kwargs, self.part)

    def first(self, child: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The first part of the layer that is given its input is given all of it."""
        if self.inside or self.part is None or _input(args, kwargs) is not self.part:
            return None
        self.inside = True
        return _replaced(args, kwargs, self.whole)

    def after(self, part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What comes next after attention, its output projection, is given what is read."""
        found = _input(args, kwargs)
        if not self.attended or self.done or self.whole is None or found is None:
            return None
        if found.shape[:-1] != self.whole.shape[:-1]:
            return None
        self.done = True
        return _replaced(args, kwargs, found.index_select(1, self.column_W))


def _input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    found = args[0] if args else kwargs.get("hidden_states")
    return found if isinstance(found, Tensor) else None


def _replaced(args: tuple[Any, ...], kwargs: Mapping[str, Any], by: Tensor | None) -> tuple[Any, Any]:
    return ((by, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": by})


_READING: ContextVar[Reading | None] = ContextVar("reading", default=None)


@contextmanager
def only(layer: nn.Module, column_W: Tensor) -> Iterator[Reading]:
    """Inside, one pass through ``layer`` gives the columns ``column_W`` alone."""
    reading = Reading(column_W)
    handles = [layer.register_forward_pre_hook(reading.enter, with_kwargs=True)]
    for child in layer.children():
        handles += [child.register_forward_pre_hook(reading.first, with_kwargs=True)]
        handles += [part.register_forward_pre_hook(reading.after, with_kwargs=True) for part in child.children()]
    token = _READING.set(reading)
    try:
        yield reading
    finally:
        _READING.reset(token)
        for handle in handles:
            handle.remove()


def attended() -> None:
    """Attention tells that it is done, in whatever layer."""
    reading = _READING.get()
    if reading is not None and reading.inside:
        reading.attended = True


def last_layer(backbone: nn.Module, layers: int | None) -> nn.Module | None:
    """The last of the model's layers, if it is plain which that is and nothing else hangs on how it is called."""
    stacks = [m for m in backbone.children() if isinstance(m, nn.ModuleList) and len(m) == layers]
    if len(stacks) != 1:
        return None
    layer = stacks[0][-1]
    is_recomputed = bool(getattr(layer, "gradient_checkpointing", False)) and layer.training
    is_whole = all(type(p) is nn.Parameter for p in layer.parameters())  # sharded ones come and go by hooks
    return layer if is_whole and not is_recomputed else None
