"""Judges that users write: a function in a file of theirs, or in a module that can be imported.

``python:my_judge.py:score`` takes one of
    def score(prompt: str, response: str) -> float
    def score(slate) -> list of one number (or None) a candidate
    def score(slates) -> list of {column: Feedback}, the whole judge
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from prefine.errors import InputError
from prefine.judging.base import Judge, Scored
from prefine.slate import Feedback, Slate, prompt_text, scores

Columns = Mapping[str, Feedback]


@dataclass(frozen=True)
class EachResponse:
    """A judge from a function of (prompt, response); a conversation is given as text, turn below turn."""

    function: Callable[[str, str], float | None]
    name: str = "score"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [{self.name: scores([self._score(slate, i) for i in range(len(slate))])} for slate in slates]

    def _score(self, slate: Slate, index: int) -> float | None:
        try:
            given = self.function(prompt_text(slate.prompt_of(index)), slate.response(index))
        except (InputError, MemoryError):
            raise
        except Exception as error:
            raise InputError(
                f"the judge function {self.function.__name__!r} failed: {type(error).__name__}: {error}",
                remedy="try it on a prompt and a response of yours; --debug shows where it failed",
            ) from error
        if given is None:
            return None
        if not isinstance(given, int | float) or not math.isfinite(given):
            raise InputError(
                f"the judge function {self.function.__name__!r} gave {given!r}",
                remedy="return a finite number, or None to abstain",
            )
        return float(given)


FORMS: Mapping[int, Callable[[Any], Judge]] = {1: Scored, 2: EachResponse}


def user_judge(where: str) -> Judge:
    """The judge at "FILE.py:FUNCTION" or "module:FUNCTION"."""
    place, _, name = where.rpartition(":")
    if not place or not name:
        raise InputError(f"python:{where} does not name a function", remedy="write python:FILE.py:FUNCTION")
    module = _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        there = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise InputError(f"{place} has no function {name!r}", remedy=f"its functions are: {', '.join(there) or 'none'}")
    wanted = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if [p.name for p in wanted] == ["slates"]:
        whole: Judge = function
        return whole
    if len(wanted) not in FORMS:
        raise InputError(
            f"{name} in {place} takes {len(wanted)} arguments",
            remedy="a judge function takes (prompt, response), or (slate), or (slates)",
        )
    return FORMS[len(wanted)](function)


def _module(place: str) -> ModuleType:
    try:
        return _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{place} cannot be imported: {type(error).__name__}: {error}", remedy="run it with python first"
        ) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no file {path}", remedy="give the path of a Python file", file=path)
    name = f"prefine_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
