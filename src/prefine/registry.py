"""Parts by name: how the command line finds an objective, a judge or a curator, and checks its options."""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NewType, TypeVar, get_args, get_type_hints

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


def given_for(option: str, choice: str, inputs: Mapping[str, T | None]) -> T:
    """The input that an option's word chooses, which must have been given.

    >>> given_for("learn_from", "pairs", {"pairs": "these", "labels": None})
    'these'
    """
    found = one_of(option, choice, inputs)
    if found is None:
        needed = MADE_OF.get(choice, choice)
        raise InputError(f"{option}={choice} needs {needed}", remedy=f"give that, or another {option}")
    return found


MADE_OF: Mapping[str, str] = {"samples": "prompts and a judge"}
"""Choices that are no input themselves: what they are made from."""


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


# --- parts as text ----------------------------------------------------------------------------------------


Part = NewType("Part", str)
"""The type of an option that names a part: a text, or in YAML a mapping (see ``read``)."""


@dataclass(frozen=True)
class Spec:
    """A part by name, its options, and the part it is put around (for wrappers)."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    of: Spec | None = None

    @property
    def text(self) -> str:
        """As ``read`` reads it.

        >>> read("robust(eps=0.2):dpo:beta=0.5").text
        'robust(eps=0.2):dpo(beta=0.5)'
        """
        options = ",".join(f"{name}={_value_text(value)}" for name, value in self.options.items())
        return self.name + (f"({options})" if options else "") + (f":{self.of.text}" if self.of else "")


def read(part: str | Mapping[str, Any]) -> Spec:
    """A part from its text or from YAML. Options stand in parentheses, or after a colon at the end; a wrapper
    stands before the part it wraps. Values are read as YAML.

    >>> read("robust(eps=0.2):simpo:beta=2.5,gamma=1")
    Spec(name='robust', options={'eps': 0.2}, of=Spec(name='simpo', options={'beta': 2.5, 'gamma': 1}, of=None))
    >>> read({"robust": {"eps": 0.2, "of": {"simpo": {"beta": 2.5, "gamma": 1}}}}) == _
    True
    """
    return _of_mapping(part) if isinstance(part, Mapping) else _of_text(part)


def parse(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A part that wraps no other: its name and options.

    >>> parse("dpo:beta=0.2,label_smoothing=0.1"), parse("extremes"), parse("extremes(by=gold)")
    (('dpo', {'beta': 0.2, 'label_smoothing': 0.1}), ('extremes', {}), ('extremes', {'by': 'gold'}))
    """
    part = read(spec)
    if part.of is not None:
        raise InputError(f"{part.of.text!r} in {spec!r} is not option=value", remedy="write name:option=value,...")
    return part.name, dict(part.options)


_HEAD = re.compile(r"\s*([A-Za-z][\w-]*)\s*")
HOW = "write name, name(option=value,...) or wrapper:name"


def _of_text(text: str) -> Spec:
    head = _HEAD.match(text)
    if head is None:
        raise InputError(f"{text!r} does not begin with the name of a part", remedy=HOW)
    rest, options = text[head.end() :], {}
    if rest.startswith("("):
        end = _closing(rest)
        if end is None:
            raise InputError(f"a bracket in {text!r} is not closed", remedy=HOW)
        options, rest = _options(rest[1:end], text), rest[end + 1 :].strip()
    if not rest:
        return Spec(head[1], options)
    if not rest.startswith(":"):
        raise InputError(f"{rest!r} in {text!r} cannot be read", remedy=HOW)
    rest = rest[1:].strip()
    if not rest:
        return Spec(head[1], options)
    own = re.match(r"[^:(]*=", rest) is not None  # else what follows is another part
    return Spec(head[1], {**options, **_options(rest, text)}) if own else Spec(head[1], options, _of_text(rest))


def _of_mapping(part: Mapping[str, Any]) -> Spec:
    if len(part) != 1:
        raise InputError(
            f"a part is one name with its options, and this has {len(part)}: {', '.join(map(str, part)) or 'nothing'}",
            remedy="write name: {option: value}, with `of:` for the part that a wrapper is put around",
        )
    ((name, given),) = part.items()
    if isinstance(given, str):
        return Spec(str(name), {}, _of_text(given))
    if not isinstance(given, Mapping | None):
        raise InputError(f"{name}: {given!r} is not a mapping of options", remedy="write name: {option: value}")
    options = {str(k).replace("-", "_"): v for k, v in (given or {}).items() if k != "of"}
    inner = (given or {}).get("of")
    return Spec(str(name), options, None if inner is None else read(inner))


def _options(text: str, whole: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(str.strip, _split(text)):
        option, found, value = part.partition("=")
        if not found:
            raise InputError(f"{part!r} in {whole!r} is not option=value", remedy="write name(option=value,...)")
        try:
            options[option.strip().replace("-", "_")] = _number_or(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise InputError(f"{value!r} in {whole!r} cannot be read", remedy="write a plain number or word") from error
    return options


def _number_or(value: Any) -> Any:
    """1e-3 is a number to everybody but YAML 1.1."""
    try:
        return float(value) if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value) else value
    except ValueError:
        return value


def _split(text: str) -> list[str]:
    """At commas that are in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _closing(text: str) -> int | None:
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i
    return None


def _value_text(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return text.removesuffix("...").strip()
