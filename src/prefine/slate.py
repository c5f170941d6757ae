"""Slates and contrasts: the two records everything in prefine is made of.

A **slate** is one prompt with everything that was said after it: candidates, each with its parent (so a
slate is a prefix tree: a pair is a tree with two leaves, a ranked list one with K, a step-level search one
with depth), and the feedback so far as several named columns. Judges add columns and never remove any.

A **contrast** is what an objective learns from, as a view into a slate: which candidates take part, in which
role, and the numbers that belong to the contrast (weight, margin, win rates, ...).

>>> slate = Slate("2+2=", (Candidate("4"), Candidate("5")))
>>> judged = slate.with_feedback("gold", scores([1.0, 0.0]))
>>> contrast = pair(judged, 0, 1, weight=0.5)
>>> contrast.response(0), contrast.response(1), contrast.values
('4', '5', {'weight': 0.5})
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prefine.errors import InputError

Message = Mapping[str, str]
"""One turn of a conversation: ``{"role": "user", "content": "..."}``."""

Prompt = str | tuple[Message, ...]
"""Plain text, or the turns of a conversation (rendered with the tokenizer's chat template)."""

FeedbackKind = Literal["score", "label", "rank", "table", "text", "steps", "vector", "id"]

CHOSEN, REJECTED, OTHER = 1, -1, 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something said after the prompt, or after another candidate (its parent).

    ``tokens`` are the ids exactly as they were sampled, the end token included when the model stopped by
    itself; they are used as they are by the model that shares the tokenizer, so training never sees another
    tokenisation than sampling did. ``logps`` are the log-probabilities of those tokens *under the
    distribution that drew them*: temperature and top-p included.
    """

    text: str
    parent: int | None = None
    tokens: tuple[int, ...] | None = None
    logps: tuple[float, ...] | None = None
    stop: str | None = None
    """"end": the model stopped by itself; "length": it was cut; None: written by somebody, so finished."""
    counts: bool = True
    """Whether these tokens count towards objectives (tool output and retrieved text do not)."""
    prompt: Prompt | None = None
    """Set when this candidate answers another prompt than the slate's own."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Where it came from: policy key, role, round, temperature, the annotator who wrote it, ..."""

    def to_json(self) -> dict[str, Any]:
        """Only what is set, so that files stay small and readable."""
        row: dict[str, Any] = {"text": self.text}
        if self.parent is not None:
            row["parent"] = self.parent
        if self.tokens is not None:
            row["tokens"] = list(self.tokens)
        if self.logps is not None:
            row["logps"] = list(self.logps)
        if self.stop is not None:
            row["stop"] = self.stop
        if not self.counts:
            row["counts"] = False
        if self.prompt is not None:
            row["prompt"] = prompt_to_json(self.prompt)
        if self.origin:
            row["origin"] = dict(self.origin)
        return row

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Candidate:
        return Candidate(
            text=row["text"],
            parent=row.get("parent"),
            tokens=tuple(row["tokens"]) if row.get("tokens") is not None else None,
            logps=tuple(row["logps"]) if row.get("logps") is not None else None,
            stop=row.get("stop"),
            counts=row.get("counts", True),
            prompt=prompt_from_json(row["prompt"]) if row.get("prompt") is not None else None,
            origin=row.get("origin", {}),
        )


@dataclass(frozen=True, slots=True)
class Feedback:
    """One named column of feedback on a slate's K candidates.

    ``score``, ``label``, ``rank``, ``text`` and ``id`` hold K values (None where there is none); ``steps``
    holds K lists, one value a step, ``vector`` K lists of features; ``table`` holds K x K, ``values[i][j]``
    the probability that i beats j.
    """

    kind: FeedbackKind
    values: tuple[Any, ...]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "values": _listed(self.values)}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Feedback:
        return Feedback(row["kind"], _tupled(row["values"]))

    def take(self, indices: Sequence[int]) -> Feedback:
        """The same column for some of the candidates, in the order asked for."""
        rows = tuple(self.values[i] for i in indices)
        if self.kind == "table":
            rows = tuple(tuple(row[j] for j in indices) for row in rows)
        return Feedback(self.kind, rows)


def scores(values: Sequence[float | None]) -> Feedback:
    """A column with one number a candidate."""
    return Feedback("score", tuple(None if v is None else float(v) for v in values))


def labels(values: Sequence[bool | int | None]) -> Feedback:
    """A column with one label a candidate (True: good)."""
    return Feedback("label", tuple(values))


def texts(values: Sequence[str | None]) -> Feedback:
    """A column with one text a candidate (a critique, an extracted answer)."""
    return Feedback("text", tuple(values))


def table(values: Sequence[Sequence[float]]) -> Feedback:
    """A K x K column: the probability that candidate i beats candidate j."""
    return Feedback("table", tuple(tuple(float(v) for v in row) for row in values))


@dataclass(frozen=True, slots=True)
class Slate:
    """One prompt, its candidates and the feedback on them. Without candidates it is a bare prompt."""

    prompt: Prompt
    candidates: tuple[Candidate, ...] = ()
    feedback: Mapping[str, Feedback] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What belongs to the prompt: ``id``, ``answer`` (the gold answer), ``user``, ``split``, ``source``."""

    @property
    def id(self) -> str:
        """The ``id`` it came with, else one made of the prompt."""
        given = self.meta.get("id")
        if given is not None:
            return str(given)
        return hashlib.sha256(json.dumps(prompt_to_json(self.prompt)).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.candidates)

    def path(self, index: int) -> tuple[int, ...]:
        """The candidates from the prompt down to this one, this one included."""
        path: list[int] = []
        at: int | None = index
        while at is not None:
            path.append(at)
            at = self.candidates[at].parent
        return tuple(reversed(path))

    def response(self, index: int) -> str:
        """Everything said after the prompt up to and including this candidate."""
        return "".join(self.candidates[i].text for i in self.path(index))

    def prompt_of(self, index: int) -> Prompt:
        """The prompt this candidate answers."""
        own = self.candidates[self.path(index)[0]].prompt
        return self.prompt if own is None else own

    def leaves(self) -> tuple[int, ...]:
        """The candidates that nothing continues: the finished responses."""
        parents = {c.parent for c in self.candidates}
        return tuple(i for i in range(len(self.candidates)) if i not in parents)

    def column(self, name: str) -> tuple[Any, ...]:
        """The values of a feedback column, or a clear error naming the columns there are."""
        if name not in self.feedback:
            there = ", ".join(sorted(self.feedback)) or "none"
            raise InputError(
                f"slate {self.id!r} has no feedback column {name!r} (there: {there})",
                remedy="judge the slates first, or name one of the columns there are",
            )
        return self.feedback[name].values

    def with_feedback(self, name: str, column: Feedback) -> Slate:
        """The same slate with one more column. A name already taken is an error: feedback is never lost."""
        if len(column.values) != len(self.candidates):
            raise InputError(
                f"feedback {name!r} has {len(column.values)} values for {len(self.candidates)} candidates "
                f"of slate {self.id!r}",
                remedy="a judge gives one value for every candidate, None where it abstains",
            )
        if name in self.feedback and self.feedback[name] != column:
            raise InputError(
                f"slate {self.id!r} already has other feedback under the name {name!r}",
                remedy="give the judge another name: feedback is added, never replaced",
            )
        return replace(self, feedback={**self.feedback, name: column})

    def with_candidates(self, more: Sequence[Candidate]) -> Slate:
        """The same prompt with more candidates. Columns get None for the newcomers (tables are dropped
        only if they cannot be extended, which is an error instead)."""
        if more and any(column.kind == "table" for column in self.feedback.values()):
            raise InputError(
                "cannot add candidates to a slate that has a table of comparisons",
                remedy="add the candidates before judging",
            )
        padded = {
            name: Feedback(column.kind, column.values + (None,) * len(more)) for name, column in self.feedback.items()
        }
        return replace(self, candidates=self.candidates + tuple(more), feedback=padded)

    def take(self, indices: Sequence[int]) -> Slate:
        """The slate with only these candidates and their ancestors, feedback included."""
        needed = sorted({j for i in indices for j in self.path(i)} - set(indices))
        order = [*indices, *needed]
        where = {old: new for new, old in enumerate(order)}
        kept = tuple(
            replace(c, parent=None if c.parent is None else where[c.parent])
            for c in (self.candidates[i] for i in order)
        )
        return Slate(self.prompt, kept, {n: f.take(order) for n, f in self.feedback.items()}, self.meta)

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"prompt": prompt_to_json(self.prompt)}
        if self.candidates:
            row["candidates"] = [c.to_json() for c in self.candidates]
        if self.feedback:
            row["feedback"] = {name: f.to_json() for name, f in self.feedback.items()}
        if self.meta:
            row["meta"] = dict(self.meta)
        return row

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Slate:
        return Slate(
            prompt=prompt_from_json(row["prompt"]),
            candidates=tuple(Candidate.from_json(c) for c in row.get("candidates", ())),
            feedback={name: Feedback.from_json(f) for name, f in row.get("feedback", {}).items()},
            meta=row.get("meta", {}),
        )


@dataclass(frozen=True, slots=True)
class Contrast:
    """What an objective learns from: some candidates of a slate, their roles and the numbers that go along.

    ``roles`` are +1 (chosen), -1 (rejected) or 0 (takes part without a side). ``values`` holds a float for
    the contrast as a whole, or a tuple with one float a member. With ``context`` set, everything up to and
    including that candidate is context: shared, not scored (step-level preferences).
    """

    slate: Slate
    members: tuple[int, ...]
    roles: tuple[int, ...]
    values: Mapping[str, float | tuple[float, ...]] = field(default_factory=dict)
    context: int | None = None

    def __post_init__(self) -> None:
        if len(self.members) != len(self.roles) or not self.members:
            raise ValueError(f"{len(self.members)} members with {len(self.roles)} roles")

    def response(self, member: int) -> str:
        """The text of a member, by its place in the contrast."""
        return self.slate.response(self.members[member])

    def prompt(self, member: int) -> Prompt:
        return self.slate.prompt_of(self.members[member])

    def compact(self) -> Contrast:
        """The same contrast over a slate that holds only what it needs (this is what is stored)."""
        order = list(dict.fromkeys(self.members))
        small = self.slate.take(order)
        where = {old: new for new, old in enumerate(order)}
        context = None
        if self.context is not None:
            depth = len(self.slate.path(self.context)) - 1
            context = small.path(where[self.members[0]])[depth]
        return Contrast(small, tuple(where[m] for m in self.members), self.roles, self.values, context)

    def to_json(self) -> dict[str, Any]:
        small = self.compact()
        row: dict[str, Any] = {
            "slate": small.slate.to_json(),
            "members": list(small.members),
            "roles": list(small.roles),
        }
        if small.values:
            row["values"] = {k: list(v) if isinstance(v, tuple) else v for k, v in small.values.items()}
        if small.context is not None:
            row["context"] = small.context
        return row

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Contrast:
        return Contrast(
            slate=Slate.from_json(row["slate"]),
            members=tuple(row["members"]),
            roles=tuple(row["roles"]),
            values={k: tuple(v) if isinstance(v, list) else v for k, v in row.get("values", {}).items()},
            context=row.get("context"),
        )


def slate_of(row: Slate | Contrast) -> Slate:
    """A slate itself, or what a contrast is a view into."""
    return row.slate if isinstance(row, Contrast) else row


def pair(slate: Slate, chosen: int, rejected: int, **values: float | tuple[float, ...]) -> Contrast:
    """Chosen against rejected. Per-member values are ``(of chosen, of rejected)``."""
    return Contrast(slate, (chosen, rejected), (CHOSEN, REJECTED), values)


def point(slate: Slate, index: int, good: bool, **values: float) -> Contrast:
    """One response with a label."""
    return Contrast(slate, (index,), (CHOSEN if good else REJECTED,), values)


def ranking(slate: Slate, best_first: Sequence[int], **values: float | tuple[float, ...]) -> Contrast:
    """A ranked list: the first is chosen, the last rejected, those between have no side."""
    middle = (OTHER,) * (len(best_first) - 2)
    return Contrast(slate, tuple(best_first), (CHOSEN, *middle, REJECTED), values)


def group(slate: Slate, members: Sequence[int], roles: Sequence[int], **values: float | tuple[float, ...]) -> Contrast:
    """Any set of candidates with roles: chosen and rejected sets, scored groups."""
    return Contrast(slate, tuple(members), tuple(roles), values)


def beside(a: Slate, b: Slate) -> Slate:
    """One slate with the candidates of both, and the columns of both (None where a side lacks one)."""
    if a.prompt != b.prompt:
        raise ValueError("slates of different prompts")
    shift = len(a)
    moved = [replace(c, parent=None if c.parent is None else c.parent + shift) for c in b.candidates]
    feedback: dict[str, Feedback] = {}
    for name in dict.fromkeys([*a.feedback, *b.feedback]):
        of_a, of_b = a.feedback.get(name), b.feedback.get(name)
        kind = (of_a or of_b).kind  # type: ignore[union-attr]
        left = of_a.values if of_a else (None,) * len(a)
        right = of_b.values if of_b else (None,) * len(b)
        if kind != "table":
            feedback[name] = Feedback(kind, left + right)
    return Slate(a.prompt, a.candidates + tuple(moved), feedback, {**b.meta, **a.meta})


def prompt_to_json(prompt: Prompt) -> Any:
    return prompt if isinstance(prompt, str) else [dict(m) for m in prompt]


def prompt_from_json(value: Any) -> Prompt:
    return value if isinstance(value, str) else tuple(dict(m) for m in value)


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text for people and for simple judges: the turns one below the other."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple | list) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, tuple | list) else value
