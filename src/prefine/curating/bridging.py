"""Bridged pairs: the rejected response, edited as little as possible towards the chosen one, takes its place.

An editor (a strong model) rewrites; what is left between the two responses is what matters (arXiv 2408.07471).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

from prefine.slate import Candidate, Contrast, Slate, pair, prompt_text

REQUEST = """Below are a request, a good answer to it and a worse one. Correct the worse answer, with the good one \
as your guide: keep its wording and its order wherever they are fine, and change only what is wrong, missing or \
worse, with as few edits as possible. Write the corrected answer and nothing else.

Request:
{prompt}

Good answer:
{chosen}

Worse answer:
{rejected}

Corrected worse answer:
"""
"""What the editor is asked. The prompts behind the paper's data are not published in its release; they differ by
task (answers, steps of a calculation, open instructions), so give your own where that matters."""


def edit_requests(pairs: Iterable[Contrast], request: str = REQUEST) -> Iterator[Slate]:
    """One prompt for the editor a pair, in the order of the pairs. ``request`` has {prompt}, {chosen}, {rejected}."""
    for place, contrast in enumerate(pairs):
        chosen, rejected = sides(contrast)
        said = {"prompt": prompt_text(contrast.prompt(chosen)), "chosen": contrast.response(chosen).strip()}
        text = request.format(**said, rejected=contrast.response(rejected).strip())
        yield Slate(({"role": "user", "content": text},), meta={"id": f"edit {place}"})


def bridged(pairs: Iterable[Contrast], edits: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """(prompt, chosen = the edit, rejected) of every pair; a curator over (pairs, edits).

    Left out: edits that were cut short, that are empty, or that changed nothing.
    """
    for contrast, edit in zip(pairs, edits, strict=True):
        made = edit.candidates[0]
        _, rejected = sides(contrast)
        old = contrast.response(rejected)
        lead = old[: len(old) - len(old.lstrip())]  # a response to a plain prompt begins with a space or a line
        text = lead + made.text.strip()
        if made.stop == "length" or not made.text.strip() or text.strip() == old.strip():
            continue
        worse = contrast.slate.candidates[contrast.members[rejected]]
        kept = replace(worse, parent=None, text=old) if worse.parent is None else Candidate(old, stop=worse.stop)
        slate = Slate(contrast.prompt(rejected), (Candidate(text, origin=made.origin), kept), {}, contrast.slate.meta)
        yield pair(slate, 0, 1)


def sides(contrast: Contrast) -> tuple[int, int]:
    """Places of the chosen and the rejected member of a pair."""
    return contrast.roles.index(1), contrast.roles.index(-1)
