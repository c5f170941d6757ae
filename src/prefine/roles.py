"""Who does what in a run: the roles that policies play in a verb, as its journal notes them.

start                 where training began              current              who is being improved, and speaks
training reference    what an objective compares with    scoring reference    what an implicit reward compares with
judge                 who scored or compared             past, future         earlier and later selves that speak
teacher               another model that speaks          learner              who was trained
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

SHORT = 12
"""Digits of a key that name a policy."""

REFERENCES = {"reference": "scoring reference", "before": "scoring reference"}
"""Fields of a judge that hold what it compares with; any other model in it is the judge."""


def speaks(role: str, policy: Any) -> dict[str, str]:
    """Of a verb that samples."""
    return {role: policy.key[:SHORT]}


def trains(policy: Any, references: Mapping[str, Any]) -> dict[str, str]:
    """Of a training: its start and its references, those of other names than "reference" with their names."""
    named = {
        "training reference" if name in ("reference", "default") else f"training reference ({name})": given.key[:SHORT]
        for name, given in references.items()
        if isinstance(getattr(given, "key", None), str)
    }
    return {"learner": policy.key[:SHORT], **named}


def judges(judge: Any) -> dict[str, str]:
    """Of a judge: the models inside it, by the field that holds them.

    >>> from prefine.artifacts import PolicyHandle
    >>> from prefine.judging.models import implicit_reward
    >>> judges(implicit_reward(PolicyHandle("a" * 32, None), PolicyHandle("b" * 32, None)))
    {'judge': 'aaaaaaaaaaaa', 'scoring reference': 'bbbbbbbbbbbb'}
    """
    found: dict[str, str] = {}
    for field, key in _models("judge", judge):
        role = REFERENCES.get(field, "judge")
        while role in found and found[role] != key[:SHORT]:
            role += "'"
        found[role] = key[:SHORT]
    return found


def _models(field: str, part: Any) -> Iterator[tuple[str, str]]:
    if isinstance(getattr(part, "key", None), str) and hasattr(part, "load"):
        yield field, part.key
    elif isinstance(part, tuple | list):
        for inner in part:
            yield from _models(field, inner)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        for inner in dataclasses.fields(part):
            yield from _models(inner.name, getattr(part, inner.name))
