"""Several responses a row: ranked, rated, or the labelled steps of one response."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from prefine.formats.lessons import goodness
from prefine.formats.parts import (
    PROMPT_NAMES,
    JsonRow,
    is_number,
    layout_of,
    list_of,
    meta_of,
    name_of,
    named,
    number_of,
    prompt_of,
    reply_of,
    same_length,
    text_of,
    with_meta,
    write_prompt,
    write_reply,
)
from prefine.formats.problems import RowError, shown, type_name
from prefine.slate import Candidate, Feedback, Prompt, Slate, labels, scores


def _start(row: JsonRow) -> tuple[str, Prompt, dict[str, Any]]:
    name = name_of(row, PROMPT_NAMES)
    return name, prompt_of(row[name], name), {} if name == "prompt" else {"prompt": name}


# --- rankings --------------------------------------------------------------------------------------------

LISTS = ("candidates", "completions", "responses")


def detect_rankings(row: JsonRow) -> bool:
    return named(row, PROMPT_NAMES) is not None and (
        "ranked" in row or ("ranks" in row and named(row, LISTS) is not None)
    )


def read_rankings(row: JsonRow) -> Slate:
    """Ranks count from 1 (best); equal ranks are ties. ``ranked`` lists responses best first."""
    name, prompt, layout = _start(row)
    many = "ranked" if "ranked" in row else name_of(row, LISTS)
    replies = _replies(row[many], many, prompt, layout)
    used = [name, many]
    if many != "responses":
        layout["responses"] = many
    ranks: list[float | None] = [float(i + 1) for i in range(len(replies))]
    if many != "ranked":
        given = list_of(row["ranks"], "ranks")
        same_length(replies, given, (many, "ranks"))
        ranks = [number_of(v, f"rank {i + 1}") for i, v in enumerate(given)]
        used.append("ranks")
    feedback = {"rank": Feedback("rank", tuple(ranks))}
    return Slate(prompt, replies, feedback, meta_of(row, used, layout, "rankings"))


def write_rankings(slate: Slate) -> list[dict[str, Any]]:
    layout = layout_of(slate, "rankings")
    kept: list[int] = list(slate.leaves())
    if "rank" in slate.feedback:
        ranks = [slate.feedback["rank"].values[i] for i in kept]
    else:
        good = goodness(slate)
        kept = [i for i in kept if i in good]
        ranks = [1 + sum(good[j] > good[i] for j in kept) for i in kept]
    if len(kept) < 2 and "rank" not in slate.feedback:
        return []
    many = layout.get("responses", "responses")
    replies = [write_reply(slate, i, layout) for i in kept]
    row = {**write_prompt(slate, layout), many: replies}
    if many == "ranked" and ranks == list(range(1, len(kept) + 1)):
        return [with_meta(row, slate)]
    row.pop(many)
    many = "responses" if many == "ranked" else many
    whole = [int(r) if r is not None and r == int(r) else r for r in ranks]
    return [with_meta({**row, many: replies, "ranks": whole}, slate)]


def _replies(value: object, name: str, prompt: Prompt, layout: dict[str, Any]) -> tuple[Candidate, ...]:
    """Responses all written one way; what that way is goes into the layout where the prompt does not say."""
    replies = list_of(value, name)
    if not replies:
        raise RowError("lengths", f'"{name}" is empty', remedy="leave the row out, or give responses")
    _one_way(replies, name, prompt, layout)
    return tuple(reply_of(r, f"response {i + 1}", prompt) for i, r in enumerate(replies))


def _one_way(replies: list[Any], name: str, prompt: Prompt, layout: dict[str, Any]) -> None:
    kinds = {type(r) for r in replies} & {str, list}
    if len(kinds) == 2:
        raise RowError("type", f'"{name}" mixes texts and messages', remedy="write all of them one way")
    if isinstance(prompt, str) and list in kinds:
        message = f'"prompt" is text and "{name}" are messages'
        raise RowError("type", message, remedy="write the prompt as messages too")
    if not isinstance(prompt, str) and str in kinds:
        layout["replies"] = "text"


# --- ratings ---------------------------------------------------------------------------------------------

TEXTS = ("text", "response", "content", "completion", "output")
OVERALL = ("score", "overall_score", "rating", "overall", "reward")
NESTED = ("annotations", "ratings", "scores")
PARALLEL = ("scores", "ratings", "rewards")
NOT_RATINGS = frozenset(
    ("id", "index", "seed", "round", "turn", "parent", "temperature", "top_p", "tokens", "num_tokens", "length")
)
"""Numbers beside a response that say nothing about how good it is."""


def detect_ratings(row: JsonRow) -> bool:
    has = named(row, PROMPT_NAMES) is not None and named(row, LISTS) is not None
    return has and "ranks" not in row and "labels" not in row


def read_ratings(row: JsonRow) -> Slate:
    """Every number beside a response becomes a column; the overall one is called ``score``.

    Without an overall number ``score`` is the mean of the others. Nested ratings (``ratings``,
    ``annotations``, ``scores``) are read as well, and kept as they are in the candidate's origin.
    """
    name, prompt, layout = _start(row)
    many = name_of(row, LISTS)
    entries = list_of(row[many], many)
    used = [name, many]
    if many != "candidates":
        layout["candidates"] = many
    if entries and all(isinstance(e, str | list) for e in entries):
        replies = _replies(entries, many, prompt, layout)
        beside = named(row, PARALLEL)
        if beside is None:
            message = f'"{many}" have no ratings'
            remedy = 'add "scores" (higher is better) or "ranks" (1 is best); for bare prompts drop the column'
            raise RowError("missing", message, remedy=remedy)
        given = list_of(row[beside], beside)
        same_length(replies, given, (many, beside))
        layout["beside"] = beside
        feedback = {"score": scores([number_of(v, f"score {i + 1}") for i, v in enumerate(given)])}
        return Slate(prompt, replies, feedback, meta_of(row, [*used, beside], layout, "ratings"))
    read = [_entry(e, i, many, prompt) for i, e in enumerate(entries)]
    if not read:
        raise RowError("lengths", f'"{many}" is empty', remedy="leave the row out, or give responses")
    _one_way([entry[text] for entry, (_, text, _) in zip(entries, read)], many, prompt, layout)
    spelled = {text for _, text, _ in read}
    layout["text"] = spelled.pop() if len(spelled) == 1 else [text for _, text, _ in read]
    if layout["text"] == "text":
        del layout["text"]
    flat = {key for _, _, numbers in read for key in numbers}
    inside = [nested(candidate.origin, flat) for candidate, _, _ in read]
    if any(inside):
        layout["flat"] = sorted(flat)
    columns = _columns([{**numbers, **more} for (_, _, numbers), more in zip(read, inside)])
    overall = next((o for o in OVERALL if o in columns), None)
    if overall not in (None, "score"):
        layout["score"] = overall
        columns = {("score" if n == overall else n): c for n, c in columns.items()}
    criteria = [c.values for c in columns.values() if c.kind == "score"]
    if overall is None and criteria:
        layout["score"] = "mean"
        columns["score"] = scores([_mean(values) for values in zip(*criteria)])
    candidates = tuple(candidate for candidate, _, _ in read)
    return Slate(prompt, candidates, columns, meta_of(row, used, layout, "ratings"))


def _mean(values: tuple[float | None, ...]) -> float | None:
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


def _entry(entry: object, i: int, many: str, prompt: Prompt) -> tuple[Candidate, str, dict[str, Any]]:
    """One rated response: the candidate, the name its text had, and its ratings."""
    where = f"response {i + 1}"
    if not isinstance(entry, dict) or named(entry, TEXTS) is None:
        found = ", ".join(map(str, entry)) if isinstance(entry, dict) else type_name(entry)
        remedy = 'write {"text": "...", "score": 1.0}'
        raise RowError(
            "type", f'{where} of "{many}" needs "text" and ratings (found: {found or "nothing"})', remedy=remedy
        )
    text = name_of(entry, TEXTS)
    numbers: dict[str, Any] = {}
    origin: dict[str, Any] = {}
    for key, value in entry.items():
        if key == text:
            continue
        if key in OVERALL:
            numbers[key] = number_of(value, f"{key} of {where}")
        elif (is_number(value) and key not in NOT_RATINGS) or isinstance(value, bool):
            numbers[key] = value if isinstance(value, bool) else number_of(value, f"{key} of {where}")
        else:
            origin[key] = value
    candidate = reply_of(entry[text], f"{text} of {where}", prompt)
    return Candidate(candidate.text, prompt=candidate.prompt, origin={**candidate.origin, **origin}), text, numbers


def nested(origin: Mapping[str, Any], flat: Collection[str]) -> dict[str, float]:
    """Ratings by criterion inside a response: numbers, or {"Rating": "4"} with "N/A" for none.

    A criterion that is also a number beside a response goes by its full name ("annotations.honesty").
    """
    found: dict[str, float] = {}
    for group in NESTED:
        inner = origin.get(group)
        for criterion, value in inner.items() if isinstance(inner, dict) else ():
            given = value.get("Rating", value.get("rating")) if isinstance(value, dict) else value
            if isinstance(given, str):
                try:
                    given = float(given)
                except ValueError:
                    given = None
            name = f"{group}.{criterion}" if criterion in flat or criterion in found else str(criterion)
            number = number_of(given, name) if is_number(given) else None
            if number is not None:
                found[name] = number
    return found


def _columns(rows: list[dict[str, Any]]) -> dict[str, Feedback]:
    columns: dict[str, Feedback] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        there = {type(v) is bool for v in values if v is not None}
        if len(there) > 1:
            message = f'"{name}" is a number for some responses and true/false for others'
            raise RowError("type", message, remedy="write one kind of value under one name")
        columns[name] = labels(values) if there == {True} else scores(values)
    return columns


def write_ratings(slate: Slate) -> list[dict[str, Any]]:
    layout = layout_of(slate, "ratings")
    many, beside = layout.get("candidates", "candidates"), layout.get("beside")
    leaves = slate.leaves()
    row = write_prompt(slate, layout)
    if beside:
        values = slate.feedback["score"].values
        return [with_meta({**row, many: [write_reply(slate, i, layout) for i in leaves], beside: list(values)}, slate)]
    if not leaves:
        return []
    text = layout.get("text", "text")
    entries = []
    for i in leaves:
        origin = {k: v for k, v in slate.candidates[i].origin.items() if k != "message"}
        derived = nested(origin, layout["flat"]) if "flat" in layout else {}
        entry = {text if isinstance(text, str) else text[i]: write_reply(slate, i, layout)}
        for name, feedback in slate.feedback.items():
            spelled = layout.get("score", "score") if name == "score" else name
            value = feedback.values[i]
            flat = feedback.kind in ("score", "label") and value is not None
            if flat and spelled not in derived and not (name == "score" and spelled == "mean"):
                entry[spelled] = value
        entries.append({**origin, **entry})
    return [with_meta({**row, many: entries}, slate)]


# --- steps -----------------------------------------------------------------------------------------------


def detect_steps(row: JsonRow) -> bool:
    return named(row, PROMPT_NAMES) is not None and "completions" in row and "labels" in row


def read_steps(row: JsonRow) -> Slate:
    """The steps of one response, each continuing the one before, with a label (or a number) a step.

    Steps that bring no white space of their own are separated by line ends, so that the response reads well.
    """
    name, prompt, layout = _start(row)
    steps = [text_of(s, f"step {i + 1}") for i, s in enumerate(list_of(row["completions"], "completions"))]
    given = list_of(row["labels"], "labels")
    same_length(steps, given, ("completions", "labels"))
    if not steps:
        raise RowError("lengths", '"completions" is empty', remedy="leave the row out, or give steps")
    glued = not any(s[-1:].isspace() for s in steps[:-1]) and not any(s[:1].isspace() for s in steps[1:])
    if glued and len(steps) > 1:
        layout["separator"] = "\n"
        steps = [s + "\n" for s in steps[:-1]] + steps[-1:]
    chain = tuple(Candidate(s, parent=i - 1 if i else None) for i, s in enumerate(steps))
    feedback = {"step": _step_labels(given)}
    return Slate(prompt, chain, feedback, meta_of(row, (name, "completions", "labels"), layout, "steps"))


def _step_labels(given: list[Any]) -> Feedback:
    if all(v is None or isinstance(v, bool) for v in given):
        return labels(given)
    for i, value in enumerate(given):
        if isinstance(value, bool) or not (value is None or is_number(value)):
            message = f"the label of step {i + 1} is {shown(value)} ({type_name(value)})"
            raise RowError("type", message, remedy="write true or false (or a number) for every step")
    return scores([number_of(v, f"label of step {i + 1}") for i, v in enumerate(given)])


def write_steps(slate: Slate) -> list[dict[str, Any]]:
    leaves = slate.leaves()
    if "step" not in slate.feedback or len(leaves) != 1:
        return []
    layout = layout_of(slate, "steps")
    path = slate.path(leaves[0])
    mark = layout.get("separator", "")
    steps = [slate.candidates[i].text for i in path]
    steps = [s.removesuffix(mark) for s in steps[:-1]] + steps[-1:]
    values = [slate.feedback["step"].values[i] for i in path]
    return [with_meta({**write_prompt(slate, layout), "completions": steps, "labels": values}, slate)]
