"""Chosen and rejected: with the prompt in a column of its own, or inside both texts.

Reads into a slate of two candidates, the chosen one first, with the label column ``preferred`` (true, false).
Numbers about the two (``score_chosen`` and ``score_rejected``, ``chosen-rating`` and ``rejected-rating``, ...)
become a column of the name they share.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from prefine.formats.lessons import pairs_of
from prefine.formats.parts import (
    PROMPT_NAMES,
    JsonRow,
    as_turns,
    assistant,
    common_turns,
    is_conversation,
    is_number,
    label_of,
    layout_of,
    messages_of,
    meta_of,
    named,
    number_of,
    read_prompt,
    reply_of,
    reply_to_json,
    text_of,
    with_meta,
    write_prompt,
    write_reply,
)
from prefine.formats.problems import RowError
from prefine.slate import Candidate, Feedback, Slate, labels, prompt_to_json, scores

PREFERRED = labels([True, False])
SIDES = ("chosen", "rejected")


# --- numbers about the two -------------------------------------------------------------------------------

_SIDE = re.compile(r"(?:(?P<before>.+)_chosen|chosen(?P<mark>[_-])(?P<after>.+))")
_OVERALL = ("score", "rating", "reward", "scores", "overall_score")


def _twins(row: JsonRow) -> Iterator[tuple[str, tuple[str, str]]]:
    """(shared name, (column of chosen, column of rejected)) for every pair of numeric columns."""
    for name in row:
        found = _SIDE.fullmatch(name)
        if not found:
            continue
        other = f"{found['before']}_rejected" if found["before"] else f"rejected{found['mark']}{found['after']}"
        values = (row[name], row.get(other))
        kinds = {type(v) for v in values}
        if kinds == {bool} or all(is_number(v) for v in values):
            yield found["before"] or found["after"], (name, other)


def _numbers(row: JsonRow) -> tuple[dict[str, Feedback], dict[str, Any], list[str]]:
    """Feedback columns, their spelling where it is not ours, and the columns read."""
    feedback: dict[str, Feedback] = {}
    spelled: dict[str, Any] = {}
    used: list[str] = []
    for shared, columns in _twins(row):
        name = "score" if shared in _OVERALL and "score" not in feedback else shared
        if name in feedback or name == "preferred":
            continue
        values = [row[c] for c in columns]
        if isinstance(values[0], bool):
            feedback[name] = labels([label_of(v, c) for v, c in zip(values, columns)])
        else:
            feedback[name] = scores([number_of(v, c) for v, c in zip(values, columns)])
        used += columns
        if columns != (f"{name}_chosen", f"{name}_rejected"):
            spelled[name] = list(columns)
    return feedback, spelled, used


def _numbers_to_json(slate: Slate, sides: tuple[int, int], layout: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, feedback in slate.feedback.items():
        values = [feedback.values[i] for i in sides]
        if name != "preferred" and feedback.kind in ("score", "label") and None not in values:
            columns = layout.get("numbers", {}).get(name, (f"{name}_chosen", f"{name}_rejected"))
            row.update(zip(columns, values))
    return row


def sides_of(slate: Slate) -> tuple[int, int] | None:
    """(chosen, rejected): as it says, else the best against the worst; None where nothing tells them apart."""
    preferred = slate.feedback.get("preferred")
    leaves = slate.leaves()
    if preferred is not None and sorted(bool(preferred.values[i]) for i in leaves) == [False, True]:
        first, second = leaves
        return (first, second) if preferred.values[first] else (second, first)
    best = next(pairs_of([slate]), None)
    return None if best is None else (best.members[0], best.members[1])


# --- the prompt in a column of its own -------------------------------------------------------------------


def detect_pairs(row: JsonRow) -> bool:
    has = named(row, PROMPT_NAMES) is not None and "chosen" in row and "rejected" in row
    return has and not _repeats_prompt(row)


def _repeats_prompt(row: JsonRow) -> bool:
    """Whether ``chosen`` is a whole conversation, prompt included."""
    chosen = row.get("chosen")
    return is_conversation(chosen) and chosen[0].get("role") not in ("assistant", None)  # type: ignore[index]


def read_pairs(row: JsonRow) -> Slate:
    if _repeats_prompt(row):
        message = '"chosen" is a whole conversation that begins with the prompt'
        raise RowError("messages", message, remedy="read the file as pairs-implicit (--format pairs-implicit)")
    name, prompt, layout = read_prompt(row, SIDES)
    two = tuple(reply_of(row[side], side, prompt) for side in SIDES)
    feedback, spelled, used = _numbers(row)
    if spelled:
        layout["numbers"] = spelled
    meta = meta_of(row, (name, *SIDES, *used), layout, "pairs")
    return Slate(prompt, two, {"preferred": PREFERRED, **feedback}, meta)


def write_pairs(slate: Slate) -> list[dict[str, Any]]:
    sides = sides_of(slate)
    if sides is None:
        return []
    layout = layout_of(slate, "pairs")
    row = write_prompt(slate, layout)
    row.update({name: write_reply(slate, i, layout) for name, i in zip(SIDES, sides)})
    return [with_meta({**row, **_numbers_to_json(slate, sides, layout)}, slate)]


# --- the prompt inside both ------------------------------------------------------------------------------

MARKERS = (
    "\n\nAssistant:",
    "<|im_start|>assistant\n",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "<start_of_turn>model\n",
    "<|assistant|>\n",
    "[/INST]",
    "### Response:\n",
    "\nAnswer:",
)
"""What stands before a response in the usual templates."""


def cut(chosen: str, rejected: str) -> tuple[int, bool]:
    """(how many characters belong to the prompt, whether that is a guess).

    The prompt ends with the last turn marker that both texts have in common; without a marker, at the last
    end of line in what they share, else at the last space.

    >>> cut("\\n\\nHuman: Hi\\n\\nAssistant: Yes", "\\n\\nHuman: Hi\\n\\nAssistant: Yeah")
    (23, False)
    >>> cut("Say hi. Hello", "Say hi. Howdy")
    (8, True)
    """
    shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - characters are what is meant
    ends = [at + len(marker) for marker in MARKERS if (at := shared.rfind(marker)) >= 0]
    if ends:
        return max(ends), False
    line = shared.rfind("\n") + 1
    return (line or shared.rfind(" ") + 1), True


def detect_implicit(row: JsonRow) -> bool:
    has = "chosen" in row and "rejected" in row
    return has and (named(row, PROMPT_NAMES) is None or _repeats_prompt(row))


def read_implicit(row: JsonRow) -> Slate:
    layout: dict[str, Any] = {}
    if isinstance(row["chosen"], list) or isinstance(row["rejected"], list):
        turns = [messages_of(row[side], side) for side in SIDES]
        for side, said in zip(SIDES, turns):
            reply_of(row[side], side, said[:-1])  # the last turn must be the assistant's
        prompt: Any = common_turns(turns[0][:-1], turns[1][:-1])
        two = tuple(assistant(said[-1], prompt, said[len(prompt) : -1]) for said in turns)
    else:
        texts = [text_of(row[side], side) for side in SIDES]
        end, guessed = cut(texts[0], texts[1])
        prompt = texts[0][:end]
        two = tuple(Candidate(text[end:]) for text in texts)
        if guessed:
            layout["cut"] = "guessed"
    feedback, spelled, used = _numbers(row)
    if spelled:
        layout["numbers"] = spelled
    meta = meta_of(row, (*SIDES, *used), layout, "pairs-implicit")
    return Slate(prompt, two, {"preferred": PREFERRED, **feedback}, meta)


def write_implicit(slate: Slate) -> list[dict[str, Any]]:
    sides = sides_of(slate)
    if sides is None:
        return []
    row: dict[str, Any] = {}
    for name, i in zip(SIDES, sides):
        if isinstance(slate.prompt, str):
            row[name] = slate.prompt + slate.response(i)
        else:
            row[name] = [*prompt_to_json(as_turns(slate.prompt)), *reply_to_json(slate, i)]
    layout = layout_of(slate, "pairs-implicit")
    return [with_meta({**row, **_numbers_to_json(slate, sides, layout)}, slate)]
