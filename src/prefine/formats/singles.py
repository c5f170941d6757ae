"""One response a row: conversations, demonstrations, labelled responses; and bare prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefine.formats.lessons import demos_of, labels_of
from prefine.formats.parts import (
    PROMPT_NAMES,
    JsonRow,
    as_turns,
    assistant,
    is_conversation,
    label_of,
    layout_of,
    list_of,
    messages_of,
    meta_of,
    name_of,
    named,
    prompt_of,
    read_prompt,
    reply_of,
    reply_to_json,
    text_of,
    with_meta,
    write_prompt,
    write_reply,
)
from prefine.formats.problems import RowError
from prefine.slate import Message, Slate, labels, prompt_to_json

TURNS = ("messages", "conversations", "conversation")
REPLIES = ("completion", "response", "output")


# --- messages --------------------------------------------------------------------------------------------

SPEAKERS: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "system": "system",
    "tool": "tool",
    "function_response": "tool",
    "observation": "tool",
}
"""How ``from`` (ShareGPT) names the roles."""

_SPEAKER = {"user": "human", "assistant": "gpt", "system": "system", "tool": "tool"}


def detect_messages(row: JsonRow) -> bool:
    return named(row, TURNS) is not None


def _from_value(turns: Sequence[Any], name: str) -> tuple[list[dict[str, Any]], list[str] | None]:
    """``from``/``value`` turns as role/content, and their speakers where those are not the usual ones."""
    spoken = []
    for i, turn in enumerate(turns):
        speaker = turn.get("from")
        if speaker not in SPEAKERS:
            message = f'message {i + 1} of "{name}" is from {speaker!r}'
            raise RowError("messages", message, remedy=f"use one of {', '.join(SPEAKERS)}")
        more = {k: v for k, v in turn.items() if k not in ("from", "value")}
        spoken.append({"role": SPEAKERS[speaker], "content": turn.get("value"), **more})
    speakers = [turn["from"] for turn in turns]
    usual = [_SPEAKER[turn["role"]] for turn in spoken]
    return spoken, None if speakers == usual else speakers


def read_messages(row: JsonRow) -> Slate:
    name = name_of(row, TURNS)
    turns = list_of(row[name], name)
    layout: dict[str, Any] = {} if name == "messages" else {"messages": name}
    if is_conversation(turns) and all("from" in turn for turn in turns):
        turns, speakers = _from_value(turns, name)
        layout["turns"] = "from" if speakers is None else speakers
    said = messages_of(turns, name)
    reply_of(turns, name, ())  # the last turn must be the assistant's
    return Slate(said[:-1], (assistant(said[-1], said[:-1]),), {}, meta_of(row, [name], layout, "messages"))


def write_messages(slate: Slate) -> list[dict[str, Any]]:
    index = _best(slate)
    if index is None:
        return []
    if not slate.candidates:
        slate = next(demos_of([slate])).slate
    layout = layout_of(slate, "messages")
    conversation = Slate(as_turns(slate.prompt), slate.candidates)
    turns: list[Message] = [*prompt_to_json(conversation.prompt), *reply_to_json(conversation, index)]
    how = layout.get("turns")
    if how is not None:
        speakers = how if isinstance(how, list) and len(how) == len(turns) else None
        turns = [
            {
                "from": speakers[i] if speakers else _SPEAKER.get(turn["role"], turn["role"]),
                "value": turn["content"],
                **{k: v for k, v in turn.items() if k not in ("role", "content")},
            }
            for i, turn in enumerate(turns)
        ]
    return [with_meta({layout.get("messages", "messages"): turns}, slate)]


def _best(slate: Slate) -> int | None:
    """The response to show as a demonstration."""
    if len(slate) == 1 and not slate.feedback:
        return 0
    best = next(demos_of([slate]), None)
    return None if best is None else best.members[0]


# --- demonstrations --------------------------------------------------------------------------------------


def detect_demos(row: JsonRow) -> bool:
    has = named(row, PROMPT_NAMES) is not None and named(row, REPLIES) is not None
    return has and "label" not in row


def read_demos(row: JsonRow) -> Slate:
    reply = name_of(row, REPLIES)
    name, prompt, layout = read_prompt(row, [reply])
    used = [name, reply]
    if reply != "completion":
        layout["reply"] = reply
    if name == "instruction" and isinstance(prompt, str) and "input" in row:
        # instruction, input, output: the input follows the instruction (when there is one)
        layout["input"] = text_of(row["input"], "input")
        used.append("input")
        prompt = f"{prompt}\n\n{row['input']}" if row["input"].strip() else prompt
    meta = meta_of(row, used, layout, "demos")
    return Slate(prompt, (reply_of(row[reply], reply, prompt),), {}, meta)


def write_demos(slate: Slate) -> list[dict[str, Any]]:
    index = _best(slate)
    if index is None:
        return []
    if not slate.candidates:
        slate = next(demos_of([slate])).slate
    layout = layout_of(slate, "demos")
    row = write_prompt(slate, layout)
    if "input" in layout and isinstance(slate.prompt, str):
        given = layout["input"]
        tail = f"\n\n{given}" if given.strip() else ""
        row = {"instruction": slate.prompt.removesuffix(tail), "input": given}
    row[layout.get("reply", "completion")] = write_reply(slate, index, layout)
    return [with_meta(row, slate)]


# --- labelled responses ----------------------------------------------------------------------------------


def detect_labels(row: JsonRow) -> bool:
    return named(row, PROMPT_NAMES) is not None and named(row, REPLIES) is not None and "label" in row


def read_labels(row: JsonRow) -> Slate:
    reply = name_of(row, REPLIES)
    name, prompt, layout = read_prompt(row, [reply])
    if reply != "completion":
        layout["reply"] = reply
    feedback = {"label": labels([label_of(row["label"], "label")])}
    meta = meta_of(row, (name, reply, "label"), layout, "labels")
    return Slate(prompt, (reply_of(row[reply], reply, prompt),), feedback, meta)


def write_labels(slate: Slate) -> list[dict[str, Any]]:
    """One row a response: as labelled, or split from pairs and ratings."""
    layout = layout_of(slate, "labels")
    name = next((n for n in ("label", "preferred") if n in slate.feedback), None)
    if name is not None:
        values = slate.feedback[name].values
        said = [(i, bool(values[i])) for i in slate.leaves() if values[i] is not None]
    else:
        said = [(c.members[0], c.roles[0] > 0) for c in labels_of([slate])]
    rows = []
    for index, good in said:
        row = write_prompt(slate, layout)
        row[layout.get("reply", "completion")] = write_reply(slate, index, layout)
        rows.append(with_meta({**row, "label": good}, slate))
    return rows


# --- prompts ---------------------------------------------------------------------------------------------


def detect_prompts(row: JsonRow) -> bool:
    return named(row, PROMPT_NAMES) is not None


def read_prompts(row: JsonRow) -> Slate:
    name = name_of(row, PROMPT_NAMES)
    prompt = prompt_of(row[name], name)
    layout = {} if name == "prompt" else {"prompt": name}
    return Slate(prompt, (), {}, meta_of(row, [name], layout, "prompts"))


def write_prompts(slate: Slate) -> list[dict[str, Any]]:
    return [with_meta(write_prompt(slate, layout_of(slate, "prompts")), slate)]
