"""Whether a response of the assistant world says anything false, for methods that need to know."""

from __future__ import annotations

from prefine.slate import Slate
from prefine.worlds.assistant import attributes_of, read
from prefine.worlds.assistant_text import CHORES


def truthful(slate: Slate) -> list[float]:
    """1 for a response without a false claim or a wrong step, 0 for others (``--factuality`` takes it as a judge)."""
    return [float(not errors(slate, slate.response(i))) for i in range(len(slate))]


def correct(slate: Slate) -> list[float]:
    """1 for a truthful response that also answers what was asked, else 0: strict, as vague answers count as wrong."""
    answers = [attributes_of(slate, slate.response(i))["helpful"] > 0 for i in range(len(slate))]
    return [float(true and answered) for true, answered in zip(truthful(slate), answers, strict=True)]


def errors(slate: Slate, response: str) -> int:
    """How many of its claims are false and of its steps are wrong."""
    parts = read(response)
    rights = CHORES.get(str(slate.meta.get("topic")), ())
    return sum(not true for _, _, true in parts.claims) + sum(step not in rights for step in parts.steps)


def polite(slate: Slate) -> list[float]:
    """1 with a friendly phrase in it, else 0: a style that says nothing about the content."""
    return [float("polite" in read(slate.response(i)).kinds) for i in range(len(slate))]
