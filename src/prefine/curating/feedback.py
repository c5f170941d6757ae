"""Feedback in words as something to learn to say: what a scorer that plays the user is fine-tuned on."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prefine.errors import InputError
from prefine.judging.followups import feedback_prompt
from prefine.slate import Candidate, Contrast, Slate, point


def told(slate: Slate, column: str = "feedback") -> str | None:
    """The text in a column of the row, None where there is none.

    >>> told(Slate("x", meta={"extra": {"feedback": "Too long."}})), told(Slate("x"))
    ('Too long.', None)
    """
    said = slate.meta.get(column, slate.meta.get("extra", {}).get(column))
    return said if isinstance(said, str) and said.strip() else None


@dataclass(frozen=True)
class PlayedUser:
    """Responses with a column of feedback: the feedback as the response to the dialogue with its roles swapped."""

    column: str = "feedback"

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        found = 0
        for contrast in rows:
            said = told(contrast.slate, self.column)
            if said is not None:
                found += 1
                asked = feedback_prompt(contrast.prompt(0), contrast.response(0))
                yield point(Slate(asked, (Candidate(said),), meta=contrast.slate.meta), 0, True)
        if not found:
            raise InputError(
                f"no response has feedback in words, a text {self.column!r} in its row",
                remedy=f'give rows such as {{"prompt": "...", "completion": "...", "{self.column}": "You missed ..."}}',
            )


def played_user(column: str = "feedback") -> PlayedUser:
    """What a scorer of follow-ups is fine-tuned on (arXiv 2409.13948): to ask, be answered, and say what it thinks."""
    return PlayedUser(column)
