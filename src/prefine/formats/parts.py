"""What the formats share: prompts, replies, numbers, and the columns that no format reads.

Three places in ``meta`` make reading lossless. ``extra`` holds the columns that were not read. ``layout``
holds how the row spelled what was read (only where that differs from our own spelling) with the name of the
format it belongs to. The rest (``id``, ``answer``, ``user``, ``split``, ``source``) is read by its own name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefine.formats.problems import RowError, shown, type_name
from prefine.slate import Candidate, Message, Prompt, Slate, prompt_to_json

PROMPT_NAMES = ("prompt", "instruction", "question", "problem", "query")
META = ("id", "answer", "user", "split", "source")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

LARGEST = 1e38
"""Larger numbers are infinite in single precision."""

JsonRow = Mapping[str, Any]


# --- values ----------------------------------------------------------------------------------------------


def text_of(value: object, name: str) -> str:
    """Text, or a clear problem."""
    if isinstance(value, str):
        return value
    remedy = "leave the row out, or fill it in" if value is None else f'write "{name}" as text'
    raise RowError("type", f'"{name}" is {type_name(value)} ({shown(value)}), text is needed', remedy=remedy)


def list_of(value: object, name: str) -> list[Any]:
    if isinstance(value, list):
        return value
    remedy = f'write "{name}" as a list: [...]'
    raise RowError("type", f'"{name}" is {type_name(value)} ({shown(value)}), a list is needed', remedy=remedy)


def number_of(value: object, name: str) -> float | None:
    """A finite number; None stays None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f'"{name}" is {type_name(value)} ({shown(value)}), a number is needed'
        raise RowError("type", message, remedy="write numbers without quotes, and null where there is none")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) < LARGEST:
        what = "NaN" if math.isnan(number) else "infinite" if math.isinf(number) else "too large to train on"
        raise RowError("finite", f'"{name}" is {what}', remedy="write null where there is no number")
    return number


def label_of(value: object, name: str) -> bool:
    """True or false; 1 and 0 will do."""
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    message = f'"{name}" is {shown(value)} ({type_name(value)}), true or false is needed'
    raise RowError("type", message, remedy='write true for good and false for bad (for ratings: "score")')


def is_number(value: object) -> bool:
    """Any number, NaN included (booleans are labels, not numbers)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def same_length(a: Sequence[Any], b: Sequence[Any], names: tuple[str, str]) -> None:
    if len(a) != len(b):
        message = f'"{names[0]}" has {len(a)} entries and "{names[1]}" has {len(b)}'
        raise RowError("lengths", message, remedy="one entry each, in the same order")


# --- conversations ---------------------------------------------------------------------------------------


def is_conversation(value: object) -> bool:
    """Whether it means to be a list of messages (it may still be a wrong one)."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) for m in value)


def messages_of(value: object, name: str) -> tuple[Message, ...]:
    """Messages with a role and text, or a clear problem."""
    turns = list_of(value, name)
    for i, turn in enumerate(turns):
        where = f'message {i + 1} of "{name}"'
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            found = ", ".join(map(str, turn)) if isinstance(turn, dict) else type_name(turn)
            remedy = 'write {"role": "user", "content": "..."}'
            raise RowError(
                "messages", f'{where} needs "role" and "content" (found: {found or "nothing"})', remedy=remedy
            )
        if turn["role"] not in ROLES:
            message = f"{where} has the role {shown(turn['role'])}"
            raise RowError("messages", message, remedy=f"use one of {', '.join(ROLES)}")
        if not isinstance(turn["content"], str):
            message = f'{where} has {type_name(turn["content"])} as "content", text is needed'
            raise RowError("messages", message, remedy="keep the text parts only: prefine reads text")
    return tuple(dict(turn) for turn in turns)


def prompt_of(value: object, name: str) -> Prompt:
    """A prompt as text or as messages."""
    return messages_of(value, name) if isinstance(value, list) else text_of(value, name)


def as_turns(prompt: Prompt) -> tuple[Message, ...]:
    """A prompt as messages: text becomes one turn of the user."""
    return ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt


def reply_of(value: object, name: str, prompt: Prompt) -> Candidate:
    """A response: text, or messages that end with the assistant's.

    With several messages the last is the response; those before it become the response's own prompt.
    """
    if not isinstance(value, list):
        return Candidate(text_of(value, name))
    turns = messages_of(value, name)
    if not turns or turns[-1]["role"] != "assistant":
        last = turns[-1]["role"] if turns else "nothing"
        message = f'"{name}" ends with {last}, the assistant\'s turn is needed'
        raise RowError("messages", message, remedy="end the conversation with the response")
    return assistant(turns[-1], prompt, turns[:-1])


def assistant(turn: Message, prompt: Prompt, before: Sequence[Message] = ()) -> Candidate:
    """The candidate of one assistant message; what else the message says is kept in its origin."""
    more = {k: v for k, v in turn.items() if k not in ("role", "content")}
    own = (*as_turns(prompt), *before) if before else None
    return Candidate(turn["content"], prompt=own, origin={"message": more} if more else {})


def reply_to_json(slate: Slate, index: int) -> Any:
    """A response as it belongs after its slate's prompt: text after text, messages after messages."""
    if isinstance(slate.prompt, str):
        return slate.response(index)
    own = slate.prompt_of(index)
    before = [dict(m) for m in as_turns(own)[len(slate.prompt) :]]
    more = slate.candidates[index].origin.get("message", {})
    return [*before, {"role": "assistant", "content": slate.response(index), **more}]


def common_turns(a: Sequence[Message], b: Sequence[Message]) -> tuple[Message, ...]:
    """The turns two conversations share from the beginning."""
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    return tuple(a[:shared])


def read_prompt(row: JsonRow, replies: Sequence[str]) -> tuple[str, Prompt, dict[str, Any]]:
    """The prompt with the name of its column and how it was spelled, next to replies of these names.

    A text prompt with replies that are messages becomes a turn of the user.
    """
    name = name_of(row, PROMPT_NAMES)
    prompt = prompt_of(row[name], name)
    layout: dict[str, Any] = {} if name == "prompt" else {"prompt": name}
    conversations = {isinstance(row[reply], list) for reply in replies}
    if len(conversations) > 1:
        message = f"{' and '.join(replies)} are one text and one list of messages"
        raise RowError("type", message, remedy="write all of them as text, or all as messages")
    if isinstance(prompt, str) and True in conversations:
        prompt, layout["text"] = as_turns(prompt), True
    elif isinstance(prompt, tuple) and False in conversations:
        layout["replies"] = "text"
    return name, prompt, layout


def write_prompt(slate: Slate, layout: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt in the column it came from."""
    value: Any = prompt_to_json(slate.prompt)
    if layout.get("text") and len(slate.prompt) == 1 and not isinstance(slate.prompt, str):
        value = slate.prompt[0]["content"]
    return {layout.get("prompt", "prompt"): value}


def write_reply(slate: Slate, index: int, layout: Mapping[str, Any]) -> Any:
    """A response as text or as messages, as it came."""
    return slate.response(index) if layout.get("replies") == "text" else reply_to_json(slate, index)


# --- names of columns ------------------------------------------------------------------------------------


def named(row: JsonRow, names: Iterable[str]) -> str | None:
    """Which of these names the row has."""
    for name in names:
        if name in row:
            return name
    return None


def name_of(row: JsonRow, names: Sequence[str]) -> str:
    """Which of these names the row has; none is a problem (formats that were detected have one)."""
    found = named(row, names)
    if found is None:
        raise missing(row, [names])
    return found


def missing(row: JsonRow, needs: Iterable[Sequence[str]]) -> RowError:
    """The problem of a row that lacks columns, with the names that were probably meant."""
    from difflib import get_close_matches

    lacking = [names for names in needs if named(row, names) is None]
    wanted = " and ".join(f'"{names[0]}"' for names in lacking)
    missed = f"columns {wanted} are missing" if len(lacking) > 1 else f"column {wanted} is missing"
    lower = {str(c).lower().strip(): str(c) for c in row}
    meant = [
        f'"{lower[near]}" should be "{name}"'
        for names in lacking
        for name in names[:1]
        for near in get_close_matches(name, lower, n=1, cutoff=0.75)
    ]
    found = ", ".join(map(str, row)) or "none"
    remedy = f"rename the column: {', '.join(meant)}" if meant else "add the column, or name another format"
    return RowError("missing", f"{missed} (columns found: {found})", remedy=remedy)


# --- what no format reads --------------------------------------------------------------------------------

_FINAL = re.compile(r"####\s*(\S.*?)\s*$")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(\D|$))")


def final_answer(text: str) -> str | None:
    """What stands after the last ``####`` (GSM8K), without commas between thousands.

    >>> final_answer("48 + 24 = 72 clips ... #### 1,072")
    '1072'
    """
    found = _FINAL.search(text)
    return _THOUSANDS.sub("", found.group(1).rpartition("####")[2].strip()) if found else None


def meta_of(row: JsonRow, used: Iterable[str], layout: JsonRow | None = None, format: str = "") -> dict[str, Any]:
    """The columns that were not read, each to its place."""
    meta: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    read = set(used)
    for name, value in row.items():
        if name in read:
            continue
        scalar = isinstance(value, str | int | float)
        final = final_answer(value) if name == "answer" and isinstance(value, str) else None
        if name in META and scalar and final is None:
            meta[name] = value
        else:
            extra[name] = value
            if final is not None:
                meta["answer"] = final
    if extra:
        meta["extra"] = extra
    if layout:
        meta["layout"] = {"format": format, **layout}
    return meta


def layout_of(slate: Slate, format: str) -> Mapping[str, Any]:
    """How rows of this format spelled this slate when it was read from one (else nothing)."""
    layout = slate.meta.get("layout", {})
    return layout if layout.get("format") == format else {}


def with_meta(row: Mapping[str, Any], slate: Slate) -> dict[str, Any]:
    """The row with the columns that no format reads put back. What the format wrote itself stays."""
    rest = {k: v for k, v in slate.meta.items() if k not in ("extra", "layout")}
    return {**rest, **slate.meta.get("extra", {}), **row}
