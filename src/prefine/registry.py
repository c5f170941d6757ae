"""Parts by name: how the command line finds an objective, a judge or a curator, and checks its options."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from prefine.errors import InputError

T = TypeVar("T")


def look_up(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """The entry of that name, or an error with suggestions ("length_gap" is the same as "length-gap")."""
    wanted = name.strip().lower().replace("_", "-")
    if wanted in table:
        return table[wanted]
    close = get_close_matches(wanted, table, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    raise InputError(f"there is no {kind} {name!r}", remedy=f"{hint}there are: {', '.join(sorted(table))}")


def make(kind: str, factory: Callable[..., Any], name: str, options: Mapping[str, Any]) -> Any:
    """Call a factory with options, after checking them against its signature."""
    known = inspect.signature(factory).parameters
    unknown = [option for option in options if option not in known]
    if unknown:
        there = ", ".join(known) or "none"
        raise InputError(
            f"{kind} {name!r} has no option {', '.join(map(repr, unknown))}",
            remedy=f"its options are: {there}",
        )
    missing = [n for n, p in known.items() if p.default is p.empty and n not in options]
    hints = get_type_hints(factory)
    for option, value in options.items():
        if not fits(value, hints.get(option, Any)):
            wanted = getattr(hints[option], "__name__", str(hints[option]))
            raise InputError(f"{kind} {name!r}: {option}={value!r} is not a {wanted}", remedy=f"give a {wanted}")
    if missing:
        raise InputError(f"{kind} {name!r} needs {', '.join(map(repr, missing))}", remedy=f"give {missing[0]}=...")
    return factory(**options)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value can be what a signature asks for. What it cannot tell, it lets through.

    >>> fits(1, float), fits("a", float), fits(True, int), fits(None, int | None), fits("mean", float | str)
    (True, False, False, True, True)
    """
    if isinstance(hint, types.UnionType):
        return any(fits(value, part) for part in get_args(hint))
    known = PLAIN.get(hint)
    return known is None or (isinstance(value, known) and (hint is bool or not isinstance(value, bool)))


PLAIN: Mapping[Any, Any] = {
    bool: bool, int: int, float: (int, float), str: str, types.NoneType: types.NoneType,
}  # fmt: skip


def one_of(option: str, given: str, allowed: Mapping[str, T]) -> T:
    """What an option's word stands for.

    >>> one_of("side", "left", {"left": -1, "right": 1})
    -1
    """
    if given not in allowed:
        raise InputError(f"{option}={given!r} is not known", remedy=f"use one of: {', '.join(allowed)}")
    return allowed[given]


def positive(**options: float) -> None:
    """Every option a number above zero, or an error that names it."""
    for name, value in options.items():
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise InputError(f"{name}={value!r} is not a positive number", remedy=f"give {name} above 0")


def at_least(least: float, **options: float) -> None:
    """Every option a finite number not below ``least``."""
    for name, value in options.items():
        if not (isinstance(value, int | float) and least <= value < math.inf):
            raise InputError(f"{name}={value!r} is below {least}", remedy=f"give {name} of at least {least}")


def between(low: float, high: float, **options: float) -> None:
    """Every option in [low, high)."""
    for name, value in options.items():
        if not (isinstance(value, int | float) and low <= value < high):
            raise InputError(f"{name}={value!r} is not in [{low}, {high})", remedy=f"give {name} in that range")


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """A part with options as one word: ``name`` or ``name:option=value,option=value``. Values are read as YAML.

    >>> parse("dpo:beta=0.2,label_smoothing=0.1"), parse("extremes")
    (('dpo', {'beta': 0.2, 'label_smoothing': 0.1}), ('extremes', {}))
    """
    name, _, rest = spec.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        option, found, value = part.partition("=")
        if not found:
            raise InputError(f"{part!r} in {spec!r} is not option=value", remedy="write name:option=value,option=value")
        try:
            options[option.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{value!r} in {spec!r} cannot be read", remedy="write a plain number or word") from error
    return name, options
