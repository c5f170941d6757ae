"""From what users wrote to prompts: the question that a text answers, and the text as what only a judge is shown.

The pipeline of PUGC (arXiv 2506.04463): ``asking`` makes the requests that a writer answers with questions;
``proposed`` puts each question beside its text, for a judge of whether the text is enough; ``as_prompts`` keeps the
questions, each with its text in the row as ``reference``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prefine.judging.referenced import as_text, in_row
from prefine.slate import Candidate, Prompt, Slate, prompt_text

ASK = """Below is a text that somebody wrote.

{document}

Write one question that a reader might have and that this text answers. It must make sense without the text. Write only
the question.
"""
CHECK = """Text:
{prompt}

Question:
{response}

Does the text contain enough relevant information to answer the question? Answer True or False.
"""


def text_of(slate: Slate, column: str) -> str:
    """What a user wrote: the row's column, else the prompt itself (of a conversation, its last turn)."""
    given = in_row(slate, column)
    if given:
        return as_text(given)
    return slate.prompt if isinstance(slate.prompt, str) else slate.prompt[-1]["content"]


def asking(rows: Iterable[Slate], column: str, ask: str = ASK) -> Iterator[Slate]:
    """For every text a request for its question; a turn of a conversation where the row is one. The row keeps the text
    and nothing else that might give an answer away."""
    for slate in rows:
        document = text_of(slate, column)
        yield Slate(_as(slate, ask.replace("{document}", document)), meta={"id": slate.id, "document": document})


def proposed(written: Iterable[Slate]) -> Iterator[Slate]:
    """Every text as a prompt with its question as the response: what the check looks at. Of a question the first line
    that is not empty counts; without one there is no question."""
    for slate in written:
        lines = [line.strip() for line in slate.response(0).splitlines() if line.strip()] if len(slate) else []
        if lines:
            form: Prompt = _as(slate, prompt_text(slate.meta["document"]))
            yield Slate(form, (Candidate(f" {lines[0]}"),), meta=slate.meta)


def as_prompts(questions: Iterable[Slate], form: str = "{question}", least: float | None = None) -> Iterator[Slate]:
    """The questions as prompts, their texts in the row as ``reference``. ``least``: of the column "enough"."""
    for slate in questions:
        enough = 1.0 if least is None else slate.column("enough")[0]
        if enough is not None and (least is None or enough >= least):
            asked = form.replace("{question}", slate.response(0).strip())
            yield Slate(_as(slate, asked), meta={"id": slate.meta["id"], "reference": slate.meta["document"]})


def _as(like: Slate, text: str) -> Prompt:
    """Text for text, one turn of the user for a conversation."""
    return text if isinstance(like.prompt, str) else ({"role": "user", "content": text},)
