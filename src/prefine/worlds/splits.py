"""Splits that never overlap: every prompt of a world is listed once, shuffled once, and cut once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from prefine.errors import InputError
from prefine.slate import Slate

T = TypeVar("T")

TRAIN_SHARE = 0.8


def draw(world: str, everything: Sequence[T], split: str, n: int, seed: int) -> list[T]:
    """n different items of a split, in an order decided by the seed."""
    items = part(world, everything, split)
    if not 0 <= n <= len(items):
        raise InputError(
            f"world {world!r} has {len(items)} {split} prompts, {n} were asked for",
            remedy=f"ask for 0 to {len(items)}",
        )
    return random.Random(f"{world} {split} {seed}").sample(items, n)


def part(world: str, everything: Sequence[T], split: str) -> list[T]:
    """All items of a split. The cut depends on nothing but the world's name and its list."""
    check_split(world, split)
    items = list(everything)
    random.Random(f"{world} splits").shuffle(items)
    cut = int(len(items) * TRAIN_SHARE)
    return items[:cut] if split == "train" else items[cut:]


def check_split(world: str, split: str) -> None:
    if split not in ("train", "test"):
        raise InputError(f"world {world!r} has no split {split!r}", remedy="use train or test")


def fact(world: str, slate: Slate, name: str) -> Any:
    """What the world wrote into the slate's ``meta``, or a clear error for prompts that are not its own."""
    if name not in slate.meta:
        raise InputError(
            f"the judges of world {world!r} know only its own prompts; {slate.id!r} has no meta {name!r}",
            remedy=f"take the prompts from the world (`prefine world prompts {world}`), or use another judge",
        )
    return slate.meta[name]
