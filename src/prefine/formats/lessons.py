"""From slates to contrasts: what the data people bring can teach.

Feedback of any kind is first turned into how good each response is (``goodness``: higher is better, None where
nobody said). Only finished responses (leaves) take part, and empty ones do not. Slates that give no lesson
are skipped; ``faults`` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from prefine.errors import InputError
from prefine.slate import CHOSEN, REJECTED, Candidate, Contrast, Feedback, Slate, pair, point, prompt_text, ranking

COLUMNS = ("preferred", "label", "score", "rank")
"""Feedback looked at when no column is named, in this order."""


def _of_table(feedback: Feedback, i: int) -> float | None:
    others = [p for j, p in enumerate(feedback.values[i]) if j != i and p is not None]
    return sum(others) / len(others) if others else None


GOODNESS: Mapping[str, Callable[[Feedback, int], float | None]] = {
    "score": lambda f, i: f.values[i],
    "label": lambda f, i: None if f.values[i] is None else float(f.values[i]),
    "rank": lambda f, i: None if f.values[i] is None else -float(f.values[i]),
    "table": _of_table,
}
"""Kind of feedback -> how good candidate i is. Rank 1 is best; a table counts by its mean win probability."""


def column_of(slate: Slate, column: str | None = None) -> str | None:
    """The column that says which responses are good: the one named, or the usual one, or the only one."""
    if column is not None:
        slate.column(column)
        return column
    for usual in COLUMNS:
        if usual in slate.feedback:
            return usual
    able = [name for name, feedback in slate.feedback.items() if feedback.kind in GOODNESS]
    if len(able) > 1:
        raise InputError(
            f"slate {slate.id!r} has several feedback columns: {', '.join(sorted(able))}",
            remedy="name the one to learn from",
        )
    return able[0] if able else None


def replies_of(slate: Slate) -> dict[int, str]:
    """The finished responses by candidate (most slates are flat, where that is quickly said)."""
    if all(c.parent is None for c in slate.candidates):
        return {i: c.text for i, c in enumerate(slate.candidates)}
    return {i: slate.response(i) for i in slate.leaves()}


def goodness(slate: Slate, column: str | None = None) -> dict[int, float]:
    """How good each finished, non-empty response is, where the column says so."""
    name = column_of(slate, column)
    if name is None or slate.feedback[name].kind not in GOODNESS:
        return {}
    feedback = slate.feedback[name]
    of = GOODNESS[feedback.kind]
    values = {i: of(feedback, i) for i, text in replies_of(slate).items() if text.strip()}
    if feedback.kind == "label" and any(
        slate.candidates[i].parent is not None for i in values
    ):  # labelled steps: a response is as good as its worst step
        for i in values:
            steps = [v for v in (of(feedback, j) for j in slate.path(i)) if v is not None]
            values[i] = min(steps, default=None)
    return {i: value for i, value in values.items() if value is not None}


def _usable(slate: Slate) -> bool:
    return bool((slate.prompt if isinstance(slate.prompt, str) else prompt_text(slate.prompt)).strip())


def pairs_of(
    slates: Iterable[Slate], column: str | None = None, min_gap: float = 0.0, *, every: bool = False
) -> Iterator[Contrast]:
    """Chosen against rejected: the best response against the worst, or every better one against every worse.

    A pair needs a gap above ``min_gap`` and texts that differ. From scores and ranks the contrast carries the
    value ``gap`` (how much better the chosen response is).

    >>> from prefine.slate import scores
    >>> slate = Slate("2+2=", tuple(map(Candidate, "4567"))).with_feedback("score", scores([9, 5, None, 1]))
    >>> [(c.response(0), c.response(1), c.values["gap"]) for c in pairs_of([slate])]
    [('4', '7', 8.0)]
    >>> [c.response(0) + c.response(1) for c in pairs_of([slate], every=True, min_gap=4)]
    ['47']
    """
    for slate in slates:
        good = goodness(slate, column) if _usable(slate) else {}
        if len(good) < 2:
            continue
        order = sorted(good, key=lambda i: -good[i])
        first, last = order[0], next(i for i in order if good[i] == good[order[-1]])
        valued = slate.feedback[column_of(slate, column) or ""].kind in ("score", "rank")
        for better, worse in product(order, order) if every else [(first, last)]:
            gap = good[better] - good[worse]
            if gap > min_gap and slate.response(better) != slate.response(worse):
                yield pair(slate, better, worse, **({"gap": gap} if valued else {}))


def labels_of(slates: Iterable[Slate], column: str | None = None, threshold: float | None = None) -> Iterator[Contrast]:
    """Single responses, good or bad. Pairs are split; rated responses count as good above ``threshold``
    (default: above their slate's mean), bad below it, and not at all on it."""
    for slate in slates:
        good = goodness(slate, column) if _usable(slate) else {}
        if not good:
            continue
        kind = slate.feedback[column_of(slate, column) or ""].kind
        usual = 0.5 if kind in ("label", "table") else sum(good.values()) / len(good)
        bar = usual if threshold is None else threshold
        for i, value in good.items():
            if value != bar:
                yield point(slate, i, value > bar)


def demos_of(slates: Iterable[Slate], column: str | None = None) -> Iterator[Contrast]:
    """Good responses: the chosen of a pair, the best of a list, what is labelled good, or what stands alone
    without any feedback. A worked answer kept with a prompt (GSM8K) is one as well."""
    for slate in slates:
        if not _usable(slate):
            continue
        if not slate.candidates:
            worked = worked_answer(slate)
            if worked:
                yield point(replace(slate, candidates=(Candidate(worked),)), 0, True)
            continue
        name = column_of(slate, column)
        if name is None:
            leaves = [i for i, text in replies_of(slate).items() if text.strip()]
            if len(leaves) == 1 and not slate.feedback:
                yield point(slate, leaves[0], True)
            continue
        good = goodness(slate, name)
        if not good or (slate.feedback[name].kind == "label" and max(good.values()) <= 0):
            continue
        if slate.feedback[name].kind == "score" and len(good) == 1 and len(slate) == 1:
            continue  # one response with one score: nothing says whether it is good
        yield point(slate, max(good, key=lambda i: good[i]), True)


def rankings_of(slates: Iterable[Slate], column: str | None = None) -> Iterator[Contrast]:
    """Whole lists, best first. Of responses that tie, the first takes part."""
    for slate in slates:
        good = goodness(slate, column) if _usable(slate) else {}
        seen: dict[float, int] = {}
        for i in good:
            seen.setdefault(good[i], i)
        if len(seen) > 1:
            yield ranking(slate, [seen[value] for value in sorted(seen, reverse=True)])


def lists_of(slates: Iterable[Slate], column: str | None = None) -> Iterator[Slate]:
    """Slates that order their responses, with how good each is in the column "score" (as it is, where it is there).

    Ranks count down from 0 and a pair is 1 against 0. Responses that nobody rated are left out.

    >>> slate = Slate("2+2=", tuple(map(Candidate, "456"))).with_feedback("rank", Feedback("rank", (1, 3, None)))
    >>> [s.feedback["score"].values for s in lists_of([slate])]
    [(-1.0, -3.0)]
    """
    for slate in slates:
        by = column or ("score" if "score" in slate.feedback else None)
        good = goodness(slate, by) if _usable(slate) else {}
        if len(set(good.values())) < 2:
            continue
        kept = slate if len(good) == len(slate) else slate.take(list(good))
        values = [float(v) for v in good.values()] + [None] * (len(kept) - len(good))  # ancestors come last
        yield replace(kept, feedback={**kept.feedback, "score": Feedback("score", tuple(values))})


def steps_of(slates: Iterable[Slate], column: str = "step") -> Iterator[Contrast]:
    """Single steps, good or bad, after the steps before them (which are context and are not scored)."""
    for slate in slates:
        if column not in slate.feedback or not _usable(slate):
            continue
        feedback = slate.feedback[column]
        for i, candidate in enumerate(slate.candidates):
            value = GOODNESS[feedback.kind](feedback, i) if candidate.text.strip() else None
            if value is not None and value != 0.5:
                yield Contrast(slate, (i,), (CHOSEN if value > 0.5 else REJECTED,), {}, candidate.parent)


def worked_answer(slate: Slate) -> str | None:
    """The worked answer that came with a prompt, if there is one."""
    worked = slate.meta.get("extra", {}).get("answer")
    return worked if isinstance(worked, str) and worked.strip() else None


@dataclass(frozen=True)
class Fault:
    """Why a slate teaches less than it looks, as a kind of problem."""

    kind: str
    message: str
    remedy: str


def faults(slate: Slate) -> list[Fault]:
    """What is idle or odd about a slate that reads well."""
    found: list[Fault] = []
    text = prompt_text(slate.prompt)
    if not text.strip():
        found.append(Fault("empty-prompt", "the prompt is empty", "fill it in or leave the row out"))
    replies = replies_of(slate)
    empty = [i for i, reply in replies.items() if not reply.strip()]
    if empty:
        names = ", ".join(_called(slate, i) for i in empty)
        found.append(Fault("empty-response", f"empty: {names}", "fill it in or leave the row out"))
    if len(replies) == 2 and len(set(replies.values())) == 1 and not empty:
        found.append(Fault("identical", "both responses are the same text", "leave the pair out"))
    elif len(replies) > 1 and not empty:
        found += _ties(slate)
    if len(text) > 20 and any(reply.startswith(text) for reply in replies.values()):
        remedy = "leave the prompt out of the responses (or the prompt column out of the row)"
        found.append(Fault("repeats-prompt", "a response begins with the whole prompt", remedy))
    if slate.meta.get("layout", {}).get("cut") == "guessed":
        remedy = 'give the prompt in a column of its own: {"prompt": ..., "chosen": ..., "rejected": ...}'
        found.append(Fault("guessed-prompt", "no turn marker: the prompt was cut at a guess", remedy))
    if any(slate.candidates[i].prompt is not None for i in replies):
        remedy = "nothing to do if this is meant; else make both responses answer the same turns"
        found.append(Fault("other-context", "the responses answer different conversations", remedy))
    return found


def _called(slate: Slate, index: int) -> str:
    preferred = slate.feedback.get("preferred")
    if preferred is None or preferred.values[index] is None:
        return f"response {index + 1}"
    return "chosen" if preferred.values[index] else "rejected"


def _ties(slate: Slate) -> list[Fault]:
    column = next((c for c in COLUMNS if c in slate.feedback), None)
    if column is None:
        return []
    good = goodness(slate, column)
    if len(good) > 1 and len(set(good.values())) == 1:
        message = f'"{column}" is the same for all {len(good)} responses'
        return [Fault("tie", message, "such a row gives no pair; leave it out, or rate more finely")]
    scored: dict[int, Any] = goodness(slate, "score") if "score" in slate.feedback else {}
    best = max(good, key=lambda i: good[i]) if good else -1
    if column != "score" and best in scored and scored[best] < max(scored.values()):
        message = f"the preferred response has the lower score ({scored[best]:g} < {max(scored.values()):g})"
        return [Fault("against", message, "check which of the two is right")]
    return []
