"""prefine's own format: whole slates, nothing left out. Checked on reading, because people edit files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from prefine.formats.parts import JsonRow, is_number, list_of, number_of, prompt_of, same_length, text_of
from prefine.formats.problems import RowError, shown, type_name
from prefine.slate import FeedbackKind, Slate

FIELDS = frozenset(("text", "parent", "tokens", "logps", "stop", "counts", "prompt", "origin"))
KINDS = get_args(FeedbackKind)


def detect_slates(row: JsonRow) -> bool:
    if isinstance(row.get("slate"), str) and "prompt" in row:
        return True
    if "prompt" not in row or row.keys() - {"prompt", "candidates", "feedback", "meta"}:
        return False
    candidates = row.get("candidates")
    if candidates is None:
        return isinstance(row.get("meta"), dict) or isinstance(row.get("feedback"), dict)
    own = isinstance(candidates, list) and all(isinstance(c, dict) and c.keys() <= FIELDS for c in candidates)
    return own or "feedback" in row


def read_slates(row: JsonRow) -> Slate:
    if isinstance(row.get("slate"), str):  # Parquet: the whole slate as JSON in one column
        try:
            row = json.loads(row["slate"])
        except ValueError as error:
            raise RowError("json", f'"slate" is not JSON ({error})', remedy="convert the file again") from None
        _object(row, "slate")
    if "prompt" not in row:
        raise RowError("missing", 'the slate has no "prompt"', remedy="add it")
    unknown = row.keys() - {"prompt", "candidates", "feedback", "meta"}
    if unknown:
        message = f"a slate has no column {', '.join(sorted(map(str, unknown)))}"
        raise RowError("slate", message, remedy='put what belongs to the prompt under "meta"')
    prompt_of(row["prompt"], "prompt")
    candidates = list_of(row.get("candidates", []), "candidates")
    for i, candidate in enumerate(candidates):
        _candidate(candidate, i)
    for name, column in _object(row.get("feedback", {}), "feedback").items():
        _feedback(name, column, len(candidates))
    _object(row.get("meta", {}), "meta")
    return Slate.from_json(row)


def write_slates(slate: Slate) -> list[dict[str, Any]]:
    return [slate.to_json()]


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RowError("type", f'"{name}" is {type_name(value)}, an object is needed', remedy="write {...}")
    return value


def _candidate(value: object, i: int) -> None:
    where = f"candidate {i + 1}"
    entry = _object(value, where)
    unknown = entry.keys() - FIELDS
    if unknown:
        message = f"{where} has {', '.join(sorted(map(str, unknown)))}, which a candidate does not have"
        remedy = 'put it under "origin", or ratings under "feedback" (or read the file as ratings)'
        raise RowError("slate", message, remedy=remedy)
    if "text" not in entry:
        raise RowError("missing", f'{where} has no "text"', remedy="add it")
    text_of(entry["text"], f"text of {where}")
    parent = entry.get("parent")
    if parent is not None and not (type(parent) is int and 0 <= parent < i):
        message = f"{where} has the parent {shown(parent)}"
        raise RowError("slate", message, remedy="a parent is the place (from 0) of an earlier candidate")
    for name, wanted in (("tokens", int), ("logps", (int, float))):
        values = list_of(entry[name], f"{name} of {where}") if entry.get(name) is not None else []
        if any(not isinstance(v, wanted) or isinstance(v, bool) for v in values):
            message = f'"{name}" of {where} holds something that is no number'
            raise RowError("type", message, remedy="write a list of numbers")
        for v in values:
            number_of(v, f"{name} of {where}")
    if entry.get("tokens") is not None and entry.get("logps") is not None:
        same_length(entry["tokens"], entry["logps"], (f"tokens of {where}", f"logps of {where}"))
    if entry.get("stop") not in (None, "end", "length"):
        message = f"{where} has the stop {shown(entry['stop'])}"
        raise RowError("slate", message, remedy='use "end", "length" or nothing')
    if entry.get("prompt") is not None:
        prompt_of(entry["prompt"], f"prompt of {where}")
    _object(entry.get("origin", {}), f"origin of {where}")
    if not isinstance(entry.get("counts", True), bool):
        raise RowError("type", f'"counts" of {where} is not true or false', remedy="write true or false")


def _feedback(name: str, value: object, count: int) -> None:
    column = _object(value, f"feedback {name}")
    kind = column.get("kind")
    if kind not in KINDS:
        message = f'feedback "{name}" has the kind {shown(kind)}'
        raise RowError("slate", message, remedy=f"use one of {', '.join(KINDS)}")
    values = list_of(column.get("values"), f"values of feedback {name}")
    if len(values) != count:
        message = f'feedback "{name}" has {len(values)} values for {count} candidates'
        raise RowError("lengths", message, remedy="one value for every candidate, null where there is none")
    for i, item in enumerate(values):
        where = f"{name} of candidate {i + 1}"
        if kind in ("score", "rank"):
            number_of(item, where)
        elif kind == "label" and not (item is None or isinstance(item, bool | int)):
            raise RowError("type", f'"{where}" is {shown(item)}', remedy="write true, false or null")
        elif kind == "table":
            row = list_of(item, where)
            if len(row) != count:
                message = f'"{where}" has {len(row)} entries for {count} candidates'
                raise RowError("lengths", message, remedy="a table is square: one row and column a candidate")
            if any(v is not None and not (is_number(v) and 0 <= v <= 1) for v in row):
                message = f'"{where}" holds something that is no probability'
                raise RowError("slate", message, remedy="write numbers from 0 to 1")
