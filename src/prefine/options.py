"""Options by their type: texts from the command line and values from YAML become what a signature asks for.

A recipe's keyword-only parameters are its options; the annotation says what is allowed and the default what
happens otherwise. Training and sampling settings are dataclass fields and go through the same functions.

>>> convert(float, "1e-5", "lr"), convert(tuple[int, ...], "1,2", "sizes"), convert(bool, "no", "shuffle")
(1e-05, (1, 2), False)
"""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from prefine.errors import InputError
from prefine.registry import Part, read

YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
NOTHING = ("none", "null")


@dataclass(frozen=True)
class Option:
    """One thing that can be set: its name, type, default and what it does."""

    name: str
    type: Any
    default: Any
    help: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def convert(self, value: Any) -> Any:
        """The value as this option's type, or an InputError that says what is wanted."""
        return in_range(self.name, convert(self.type, value, self.name))


def of_function(function: Callable[..., Any]) -> dict[str, Option]:
    """Keyword-only parameters of a recipe, with help from its docstring's lines ``name: what it does``."""
    known = {n: p for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    helps = described(inspect.getdoc(function) or "", known)
    return {n: Option(n, _resolved(p, function), p.default, helps.get(n, "")) for n, p in known.items()}


def of_dataclass(kind: type, without: Iterable[str] = ()) -> dict[str, Option]:
    """Fields of a settings dataclass."""
    hints = typing.get_type_hints(kind)
    helps = _field_docs(kind)
    return {
        f.name: Option(f.name, hints[f.name], f.default, helps.get(f.name, ""))
        for f in dataclasses.fields(kind)
        if f.name not in set(without)
    }


def unknown(name: str, known: Iterable[str], what: str) -> InputError:
    """The error for a name that is not there, with near misses and the list."""
    names = sorted(known)
    close = get_close_matches(name, names, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    there = f"there are: {', '.join(names)}" if names else "it has none"
    return InputError(f"{what} {name!r}", remedy=hint + there)


def convert(wanted: Any, value: Any, name: str) -> Any:
    """The value as the type ``wanted``; texts are read, other values must already fit."""
    try:
        return _convert(wanted, value)
    except (ValueError, TypeError):
        raise InputError(f"{name}={value!r} is not {describe(wanted)}", remedy=f"give {describe(wanted)}") from None


def describe(wanted: Any) -> str:
    """A type in words.

    >>> describe(float | None), describe(Literal["a", "b"]), describe(tuple[int, int])
    ('a number, or none', 'one of a, b', '2 values, each a whole number')
    """
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        words = [describe(a) for a in args if a is not type(None)]
        return " or ".join(words) + (", or none" if type(None) in args else "")
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple and args and Ellipsis not in args:
        return f"{len(args)} values, each {describe(args[0])}"
    if wanted in _LISTS or origin in _LISTS:
        return f"values separated by commas{', each ' + describe(args[0]) if args else ''}"
    if wanted in _MAPPINGS or origin in _MAPPINGS:
        return "name=value pairs separated by commas"
    return _WORDS.get(wanted, getattr(wanted, "__name__", str(wanted)))


def _convert(wanted: Any, value: Any) -> Any:
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return _union(args, value)
    if origin is Literal:
        return _literal(args, value)
    if wanted in _LISTS or origin in _LISTS:
        return _sequence(origin or wanted, args, value)
    if wanted in _MAPPINGS or origin in _MAPPINGS:
        return _mapping(args, value)
    if wanted in _PLAIN:
        return _PLAIN[wanted](value)
    raise TypeError(wanted)


def settable(wanted: Any) -> bool:
    """Whether a value of this type can be written on a command line at all."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return any(settable(a) for a in args if a is not type(None))
    return origin is Literal or any(t in (*_PLAIN, *_LISTS, *_MAPPINGS) for t in (wanted, origin))


def _bool(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in YES + NO:
        return value.lower() in YES
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _int(value: Any) -> int:
    if isinstance(value, str):
        return int(value.replace("_", ""))
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(value)
    return value


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(value)
    number = float(value)
    if math.isnan(number):
        raise ValueError(value)
    return number


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _union(args: Sequence[Any], value: Any) -> Any:
    if type(None) in args and (value is None or (isinstance(value, str) and value.lower() in NOTHING)):
        return None
    for kind in sorted((a for a in args if a is not type(None)), key=lambda a: a is str):  # text fits anything
        try:
            return _convert(kind, value)
        except (ValueError, TypeError):
            continue
    raise ValueError(value)


def _literal(args: Sequence[Any], value: Any) -> Any:
    for choice in args:
        if value == choice or (isinstance(value, str) and value == str(choice)):
            return choice
    raise ValueError(value)


def _sequence(kind: Any, args: Sequence[Any], value: Any) -> Any:
    if isinstance(value, str):
        value = [part.strip() for part in value.strip("()[]").split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(value)
    fixed = kind is tuple and args and Ellipsis not in args
    if fixed and len(value) != len(args):
        raise ValueError(value)
    kinds = args if fixed else [args[0] if args else str] * len(value)
    items = [_convert(k, v) for k, v in zip(kinds, value, strict=True)]
    return items if kind is list else tuple(items)


def _mapping(args: Sequence[Any], value: Any) -> Any:
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.strip("{}").split(",") if part.strip()]
        if any(not equals for _, equals, _ in pairs):
            raise ValueError(value)
        value = {name.strip(): text.strip() for name, _, text in pairs}
    if not isinstance(value, Mapping):
        raise ValueError(value)
    inner = args[1] if len(args) == 2 and args[1] is not Any else None
    return {str(k): v if inner is None else _convert(inner, v) for k, v in value.items()}


_PLAIN: Mapping[Any, Callable[[Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: lambda value: Path(_str(value)),
    Part: lambda value: read(value).text,
}
_LISTS = (tuple, list, Sequence, typing.Sequence)
_MAPPINGS = (dict, Mapping, typing.Mapping)
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    Part: "a part by its name, name(option=value), or one around another as first:second",
}

Range = tuple[Callable[[Any], bool], str]
_COUNT: Range = (lambda v: v >= 1, "a whole number above 0")
_NOT_NEGATIVE: Range = (lambda v: v >= 0, "0 or above")
RANGES: Mapping[str, Range] = {
    "n": _COUNT,
    "rounds": _COUNT,
    "epochs": (lambda v: v > 0, "a number above 0"),
    "lr": (lambda v: v > 0, "a number above 0"),
    "max_tokens": _COUNT,
    "temperature": _NOT_NEGATIVE,
    "top_p": (lambda v: 0 < v <= 1, "a number above 0 and at most 1"),
    "beta": _NOT_NEGATIVE,
}
"""Names that mean the same wherever they appear, and what they may be."""


def in_range(name: str, value: Any) -> Any:
    """The value, checked where its name says what it may be."""
    if name in RANGES and isinstance(value, int | float) and not isinstance(value, bool):
        good, wanted = RANGES[name]
        if not good(value):
            raise InputError(f"{name}={value!r} cannot be used", remedy=f"give {wanted}")
    return value


def described(text: str, names: Iterable[str]) -> dict[str, str]:
    """What a docstring says of the names, in places such as ``beta: how close`` or ``a, b: both``.

    >>> described("One line. beta: how close. gamma: target\\nmargin.", ["beta", "gamma"])
    {'beta': 'how close.', 'gamma': 'target margin.'}
    """
    one = "(?:" + "|".join(map(re.escape, names)) + ")"
    some = rf"(?<![\w.]){one}(?:, {one})*: "
    found: dict[str, str] = {}
    for match in re.finditer(rf"({some})(.*?)(?={some}|\n\s*\n|\Z)", text, re.S):
        for name in re.findall(one, match[1]):
            found.setdefault(name, " ".join(match[2].split()))
    return found


def _resolved(parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    """The parameter's type; annotations are texts where a module postpones them."""
    wanted = parameter.annotation
    if isinstance(wanted, str):
        names = {**vars(builtins), **vars(typing), **getattr(function, "__globals__", {})}
        try:
            wanted = eval(wanted, names)  # our own source, never input
        except (NameError, TypeError, AttributeError):
            wanted = parameter.empty
    if wanted is parameter.empty:
        return str if parameter.default in (None, parameter.empty) else type(parameter.default)
    return wanted


def _field_docs(kind: type) -> dict[str, str]:
    """The string below each field, which Python itself throws away."""
    import ast
    import textwrap

    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError, SyntaxError):
        return {}
    found = {}
    for field, below in pairwise(body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found
