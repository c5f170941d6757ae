"""Calling a recipe up to its first verb, so that bad options are found before anything is computed.

A recipe checks its options and makes its objectives in its first lines; verbs come after. In a rehearsal the
first verb ends it. What a rehearsal cannot know (anything but an InputError) it says nothing about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prefine.catalogue import System
from prefine.errors import InputError


class _Begun(Exception):
    """The first verb was called: the options are fine as far as can be seen."""


class _Stage:
    """A run in name only."""

    def rounds(self, n: int) -> Iterator[int]:
        yield 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def verb(*arguments: Any, **settings: Any) -> Any:
            raise _Begun

        return verb


def rehearse(system: System, options: Mapping[str, Any], without: frozenset[str] = frozenset()) -> None:
    """Raise the InputError that the recipe's own checks raise, if any. ``without``: inputs left at None."""
    stand_ins = [None if name in without else object() for name in system.inputs]
    try:
        system.recipe(_Stage(), *stand_ins, **options)
    except InputError:
        raise
    except Exception:  # the end of the rehearsal, or something that only a real run can say
        return


def wanted(system: System, options: Mapping[str, Any], optional: frozenset[str]) -> frozenset[str]:
    """The optional inputs that these options ask for: those the recipe refuses to go without."""
    rehearse(system, options)
    if not optional:
        return optional
    try:
        rehearse(system, options, without=optional)
    except InputError:
        return optional
    return frozenset()
