"""Judges that are shown a reference which the policy never sees: a gold answer, statutes, a source.

``referenced(judge)`` works with any judge that reads the prompt (a written grade, a yes, a reward model, a person): it
is given the prompt with the reference behind it. The slates keep their own prompt. ``repeated(judge, 8)`` asks eight
times and averages: the variance of an unbiased judge's independent errors falls by as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from prefine.errors import InputError
from prefine.judging.base import Judge, spoken_by
from prefine.registry import at_least
from prefine.slate import Feedback, Prompt, Slate, scores

Columns = Mapping[str, Feedback]

TEXT = "{prompt}\n\nReference, which the answer should agree with:\n{reference}\n"


def in_row(slate: Slate, column: str) -> Any:
    """What a prompt's row holds under a name, whether a format knows the name or not; None where nothing.

    >>> in_row(Slate("x", meta={"extra": {"laws": ["A"]}}), "laws"), in_row(Slate("x"), "laws")
    (['A'], None)
    """
    return slate.meta.get(column, slate.meta.get("extra", {}).get(column))


def as_text(value: Any) -> str:
    """A text as it is; a list as lines, a record as its values in a line.

    >>> as_text([{"law": "Tenancy Act", "article": 3}, "and more"])
    'Tenancy Act, 3\\nand more'
    """
    if isinstance(value, Mapping):
        return ", ".join(map(str, value.values()))
    return "\n".join(map(as_text, value)) if isinstance(value, list | tuple) else str(value)


@dataclass(frozen=True)
class Referenced:
    """The judge, shown ``text`` in place of the prompt. It abstains on prompts without a reference."""

    judge: Judge
    column: str = "reference"
    text: str = TEXT

    @property
    def __name__(self) -> str:
        """What messages call it: as they call the judge."""
        return str(getattr(self.judge, "__name__", None) or type(self.judge).__name__)

    def spoken_by(self, policy: Any) -> Referenced:
        """For judges that are the policy itself."""
        return replace(self, judge=spoken_by(self.judge, policy))

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        known = [slate for slate in slates if self._reference(slate) is not None]
        said = iter(self.judge([self.shown(slate) for slate in known]) if known else [])
        found = [None if self._reference(slate) is None else next(said) for slate in slates]
        names = next((list(columns) for columns in found if columns is not None), ["score"])
        return [
            dict.fromkeys(names, scores([None] * len(slate))) if columns is None else columns
            for slate, columns in zip(slates, found, strict=True)
        ]

    def shown(self, slate: Slate) -> Slate:
        """What the judge looks at."""
        reference = as_text(self._reference(slate))
        own = [c if c.prompt is None else replace(c, prompt=self._with(c.prompt, reference)) for c in slate.candidates]
        return replace(slate, prompt=self._with(slate.prompt, reference), candidates=tuple(own))

    def _reference(self, slate: Slate) -> Any:
        return in_row(slate, self.column) or None

    def _with(self, prompt: Prompt, reference: str) -> Prompt:
        """The text for a plain prompt; for a conversation, in place of its last turn."""
        if isinstance(prompt, str):
            return _filled(self.text, prompt, reference)
        last = prompt[-1]
        return (*prompt[:-1], {**last, "content": _filled(self.text, last["content"], reference)})


def _filled(text: str, prompt: str, reference: str) -> str:
    """Cut at the places first: what is put into one is not read as another."""
    parts = [part.split("{reference}") for part in text.split("{prompt}")]
    return prompt.join(reference.join(part) for part in parts)


@dataclass(frozen=True)
class Repeated:
    """The mean of several judges of one kind, column by column; an abstention is left out of its mean."""

    judges: tuple[Judge, ...]

    def spoken_by(self, policy: Any) -> Repeated:
        """For judges that are the policy itself."""
        return Repeated(tuple(spoken_by(judge, policy) for judge in self.judges))

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        runs = [judge(slates) for judge in self.judges]
        return [
            {
                name: _mean([run[s][name] for run in runs])
                for name, column in runs[0][s].items()
                if column.kind == "score"
            }
            for s in range(len(slates))
        ]


def _mean(columns: Sequence[Feedback]) -> Feedback:
    rows = [[v for v in values if v is not None] for values in zip(*(c.values for c in columns), strict=True)]
    return scores([sum(row) / len(row) if row else None for row in rows])


def repeated(judge: Judge, times: int) -> Judge:
    """The judge asked several times: a model that writes grades draws as many, a judge with a seed takes as many seeds,
    and one that has neither would say the same again, and is asked once."""
    at_least(1, times=times)
    if times == 1 or not is_dataclass(judge):
        return judge
    names = {f.name for f in fields(judge)}
    thing: Any = judge
    if {"samples", "temperature"} <= names:
        changed: Judge = replace(thing, samples=times, temperature=thing.temperature or 1.0)
        return changed
    if "seed" in names:
        return Repeated(tuple(replace(thing, seed=thing.seed + i) for i in range(times)))
    if "judge" in names:
        return replace(thing, judge=repeated(thing.judge, times))  # type: ignore[no-any-return]
    return judge


def referenced(judge: Judge, column: str = "reference", text: str = TEXT) -> Referenced:
    """The judge, shown a column of the prompt's row behind the prompt."""
    missing = [place for place in ("{prompt}", "{reference}") if place not in text]
    if missing:
        raise InputError(f"the text {text!r} does not show {missing[0]}", remedy="write {prompt} and {reference}")
    return Referenced(judge, column, text)
