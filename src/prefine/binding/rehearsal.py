"""Calling a recipe up to its first verb, so that bad options are found before anything is computed.

A recipe checks its options and makes its objectives in its first lines; verbs come after. In a rehearsal the
first verb ends it, unless there are real lessons to show: those are curated, and an objective is tried on them
before there is a model (``engine.dry``), so that what the data lacks is said at once. What a rehearsal cannot know
(anything but an InputError) it says nothing about.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from prefine.catalogue import System
from prefine.errors import InputError


class _Begun(Exception):
    """The first verb was called: the options are fine as far as can be seen."""


NO_BACKBONE = "a policy of kind 'tabular' has no backbone to read values from"


class _Stage:
    """A run in name only. ``text``: its policy is a language model."""

    def __init__(self, text: bool = True) -> None:
        self._text = text

    def rounds(self, n: int) -> Iterator[int]:
        yield 0

    def curate(self, source: Any, curator: Callable[..., Any], **settings: Any) -> list[Any]:
        sources = source if isinstance(source, tuple) else (source,)
        if not all(isinstance(rows, list) for rows in sources):
            raise _Begun
        found = list(curator(*sources, random.Random(0)))
        if not found:
            raise _Begun  # all the data may hold more than these few
        return found

    def train(self, policy: Any, contrasts: Any, *, objective: Any, **settings: Any) -> Any:
        from prefine.engine.dry import dry_run

        if isinstance(contrasts, list):
            dry_run(objective, contrasts)
        raise _Begun

    def critic(self, model: Any) -> Any:
        if not self._text:
            raise InputError(NO_BACKBONE, remedy="train a language model, or use a method without a value model")
        raise _Begun

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def verb(*arguments: Any, **settings: Any) -> Any:
            raise _Begun

        return verb


def rehearse(
    system: System,
    options: Mapping[str, Any],
    without: frozenset[str] = frozenset(),
    given: Mapping[str, Any] = MappingProxyType({}),
    text: bool = True,
) -> None:
    """Raise the InputError that the recipe's own checks raise, if any. ``without``: inputs left at None; ``given``:
    real ones, or the first few rows of them, for recipes that look at what they were given; ``text``: whether the
    policy is a language model."""
    stand_ins = [None if name in without else given.get(name, object()) for name in system.inputs]
    try:
        system.recipe(_Stage(text), *stand_ins, **options)
    except InputError:
        raise
    except Exception:  # the end of the rehearsal, or something that only a real run can say
        return


def wanted(system: System, options: Mapping[str, Any], optional: frozenset[str]) -> frozenset[str]:
    """The optional inputs that these options ask for: those the recipe refuses to go without, one by one, or, where
    any of them would do, all."""
    rehearse(system, options)
    needed = frozenset(name for name in optional if refusal(system, options, frozenset({name})) is not None)
    return needed or (optional if optional and refusal(system, options, optional) is not None else frozenset())


def refusal(system: System, options: Mapping[str, Any], without: frozenset[str]) -> str | None:
    """The remedy that the recipe gives where it refuses to go without these inputs, None where it goes."""
    try:
        rehearse(system, options, without=without)
    except InputError as error:
        return error.remedy
    return None
