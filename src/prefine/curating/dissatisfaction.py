"""What users disliked: responses with the message that says so, from labels or from whole conversations.

DRIFT (arXiv 2510.02341): the disliked response is rejected for good, and what is preferred to it is sampled anew every
round by a policy that is shown the complaint. The complaint is in the sampling prompt alone; the lesson's prompt is the
one the disliked response answered.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from prefine.curating.feedback import told
from prefine.errors import InputError
from prefine.judging.followups import TURN, after_dialogue
from prefine.slate import Candidate, Contrast, Prompt, Slate, pair, point

INSTRUCTION = "Answer again, better, taking this into account."

Signal = Callable[[str], int]
"""A user's message -> -1 dissatisfied with what came before, +1 satisfied, 0 neither."""


# -- dissatisfaction in logs

DISLIKES = (
    r"\b(that'?s|that is|this is|you'?re|you are) (wrong|incorrect|not (right|true|correct|what|helpful))",
    r"\bnot what I (asked|meant|wanted)", r"\byou (did not|didn'?t|missed|misunderstood|forgot|ignored)",
    r"\b(does not|doesn'?t) (work|answer|help|make sense)", r"\btry again\b", r"^no[,.! ]",
    r"\b(useless|terrible|awful)\b",
)  # fmt: skip
LIKES = (r"\bthank(s| you)\b", r"\b(perfect|great|excellent|exactly|that helps|that works|well done|love it)\b")


def stated(message: str) -> int:
    """Plain words of displeasure, else of pleasure.

    >>> [stated(m) for m in ("No, that's wrong.", "Thanks, that works!", "And in Peru?", "Thanks, but try again")]
    [-1, 1, 0, -1]
    """
    found = ((-1, DISLIKES), (1, LIKES))
    return next((sign for sign, marks in found if any(re.search(m, message, re.IGNORECASE) for m in marks)), 0)


@dataclass(frozen=True)
class FromLogs:
    """Conversations -> every answer of the assistant that the user's next turn complains of, as a bad label, with that
    turn in its row as feedback; with ``repaired`` instead the pairs of a revised answer that pleased over one that did
    not, the seeds of a warm-up."""

    signal: Signal = stated
    repaired: bool = False

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        found = 0
        for contrast in rows:
            for lesson in self._turns(contrast):
                found += 1
                yield lesson
        if not found and not self.repaired:
            raise InputError(
                "no turn in these conversations shows dissatisfaction",
                remedy="give conversations in which a user complains of an answer, or rows with a response labelled "
                'bad and its "feedback"',
            )

    def _turns(self, contrast: Contrast) -> Iterator[Contrast]:
        asked = contrast.prompt(0)
        if isinstance(asked, str):
            return
        turns = (*asked, {"role": "assistant", "content": contrast.response(0)})
        for k in range(1, len(turns) - 1):
            if turns[k]["role"] != "assistant" or turns[k + 1]["role"] != "user":
                continue
            said = turns[k + 1]["content"]
            if self.signal(said) >= 0:
                continue
            about = {"id": f"{contrast.slate.id} turn {k}", "feedback": said}
            bad = Candidate(turns[k]["content"])
            if not self.repaired:
                yield point(Slate(turns[:k], (bad,), meta=about), 0, False)
            elif k + 3 < len(turns) and turns[k + 3]["role"] == "user" and self.signal(turns[k + 3]["content"]) > 0:
                yield pair(Slate(turns[:k], (Candidate(turns[k + 2]["content"]), bad), meta=about), 0, 1)


# -- the records


def disliked(rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
    """Of labelled responses those labelled bad."""
    found = 0
    for contrast in rows:
        if contrast.roles[0] < 0:
            found += 1
            yield contrast
    if not found:
        raise InputError("no response is labelled bad", remedy="give responses that users disliked, with label false")


def need_feedback(rows: Iterable[Contrast], column: str = "feedback") -> None:
    """An InputError if no row says what was wrong."""
    if not any(told(row.slate, column) for row in rows):
        raise InputError(
            f"no disliked response has the user's message, a text {column!r} in its row",
            remedy=f'give rows like {{"prompt": "...", "completion": "...", "label": false, "{column}": "..."}}, '
            "or --guided written (a model plays the user) or --guided none",
        )


@dataclass(frozen=True)
class Complaints:
    """Rows of disliked responses as prompts that are shown the response and the complaint, in order.

    A row without a complaint is asked as it was, like all of them with ``guided=False``."""

    column: str = "feedback"
    instruction: str = INSTRUCTION
    turn: str = TURN
    answer: str = "\nAssistant:"
    guided: bool = True

    def __call__(self, rows: Iterable[Contrast]) -> Iterator[Slate]:
        for row in rows:
            said = told(row.slate, self.column) if self.guided else None
            asked = row.prompt(0)
            yield Slate(asked if said is None else self.shown(row, said), meta={"id": row.slate.id})

    def shown(self, row: Contrast, said: str) -> Prompt:
        """The dialogue with the disliked answer and the complaint, up to where the better answer comes."""
        asked, answer = row.prompt(0), row.response(0)
        said = f"{said} {self.instruction}".rstrip()
        if isinstance(asked, str):
            before, space = after_dialogue(None, row.slate, row.members[0], self.turn)
            return f"{before}{space}{said}{self.answer}"
        return (*asked, {"role": "assistant", "content": answer}, {"role": "user", "content": said})


def users_turn(rows: Iterable[Contrast], turn: str = TURN) -> Iterator[Slate]:
    """The same rows up to where the user's complaint comes, for a model that plays the user (roles swapped in a
    conversation)."""
    from prefine.judging.followups import feedback_prompt

    for row in rows:
        asked = row.prompt(0)
        plain = isinstance(asked, str)
        before = after_dialogue(None, row.slate, row.members[0], turn)[0] if plain else None
        yield Slate(
            before if before is not None else feedback_prompt(asked, row.response(0)), meta={"id": row.slate.id}
        )


def with_complaints(rows: Iterable[Contrast], said: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """The rows with what was written as their feedback: its first line."""
    for row, written in zip(rows, said, strict=True):
        text = (written.response(0).strip().splitlines() or [""])[0]
        yield replace(row, slate=replace(row.slate, meta={**row.slate.meta, "feedback": text}))


def fresh_over_disliked(rows: Iterable[Contrast], samples: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """Every disliked response as the rejected one, under its own prompt, with the fresh sample as the chosen one.

    No judge and no filter; an empty sample gives no pair."""
    for row, drawn in zip(rows, samples, strict=True):
        fresh = replace(drawn.candidates[0], prompt=None, parent=None, logps=None)  # those were under the hint
        if fresh.text.strip():
            bad = replace(row.slate.candidates[row.members[0]], prompt=None, parent=None)
            yield pair(Slate(row.prompt(0), (fresh, bad), meta=row.slate.meta), 0, 1)
