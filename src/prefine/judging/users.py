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
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from prefine.errors import InputError, PrefineError
from prefine.judging.base import Judge, spoken_by
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
        given = _called(self.function, prompt_text(slate.prompt_of(index)), slate.response(index))
        if given is None:
            return None
        if not isinstance(given, int | float) or not math.isfinite(given):
            raise _gave(self.function, given, "a finite number, or None to abstain")
        return float(given)


@dataclass(frozen=True)
class EachSlate:
    """A judge from a function of one slate."""

    function: Callable[[Slate], Sequence[float | None]]
    name: str = "score"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [{self.name: self._scores(slate)} for slate in slates]

    def _scores(self, slate: Slate) -> Feedback:
        given = _called(self.function, slate)
        try:
            column = scores(given)
        except (TypeError, ValueError):
            column = None
        right = column is not None and len(column.values) == len(slate)
        if column is None or not right or not all(v is None or math.isfinite(v) for v in column.values):
            what = f"a list of one finite number, or None to abstain, for each of the {len(slate)} candidates"
            raise _gave(self.function, given, what)
        return column


@dataclass(frozen=True)
class EverySlate:
    """A judge that is whole as its user wrote it."""

    judge: Judge

    @property
    def __name__(self) -> str:
        return _name(self.judge)

    @property
    def reads(self) -> str:
        """The column of the prompt's row that it checks against, where it says so."""
        return str(getattr(self.judge, "reads", "answer"))

    def spoken_by(self, policy: Any) -> EverySlate:
        """For judges that are the policy itself."""
        return EverySlate(spoken_by(self.judge, policy))

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        given = _called(self.judge, slates)
        right = isinstance(given, Sequence) and len(given) == len(slates)
        if not right or not all(isinstance(c, Mapping) and _feedback(c) for c in given):
            raise _gave(self.judge, given, f"a list of one {{column: Feedback}} for each of the {len(slates)} slates")
        return list(given)


def _feedback(columns: Columns) -> bool:
    return all(isinstance(column, Feedback) for column in columns.values())


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a user's function gives; whatever goes wrong in it is said to be its own."""
    try:
        return function(*arguments)
    except (PrefineError, MemoryError):
        raise
    except Exception as error:
        what = TRIED.get(type(arguments[0]), "slates")
        raise InputError(
            f"the judge function {_name(function)!r} failed: {type(error).__name__}: {error}",
            remedy=f"try it on {what} of yours; --debug shows where it failed",
        ) from error


TRIED: Mapping[type, str] = {str: "a prompt and a response", Slate: "a slate"}


def _gave(function: Callable[..., Any], given: Any, wanted: str) -> InputError:
    return InputError(f"the judge function {_name(function)!r} gave {reprlib.repr(given)}", remedy=f"return {wanted}")


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)


FORMS: Mapping[int, Callable[[Any], Judge]] = {1: EachSlate, 2: EachResponse}


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
        return EverySlate(function)
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
