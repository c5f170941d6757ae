"""Malformed data, each with what the one message about it (its remedy included) must say.

(name, file name, content, fragment of the message, line the message names or None)
"""

from __future__ import annotations

import gzip
import json

GOOD = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
USER = {"role": "user", "content": "hi"}
SAYS = {"role": "assistant", "content": "hello"}


def lines(*rows: object) -> bytes:
    """JSON lines; text is taken as it is."""
    return b"".join((r if isinstance(r, str) else json.dumps(r)).encode() + b"\n" for r in rows)


def pair(**changes: object) -> dict[str, object]:
    return {**GOOD, **changes}


def slate(**changes: object) -> dict[str, object]:
    return {"prompt": "2+2=", "candidates": [{"text": "4"}, {"text": "5"}], **changes}


def scored(*values: object) -> dict[str, object]:
    return slate(feedback={"score": {"kind": "score", "values": list(values)}})


DATA_BAD_INPUTS: list[tuple[str, str, bytes, str, int | None]] = [
    # files that are no data
    ("empty file", "d.jsonl", b"", "holds no rows", None),
    ("blank lines only", "d.jsonl", b"\n  \n\r\n", "holds no rows", None),
    ("empty list", "d.json", b"[]", "holds no rows", None),
    ("csv", "d.csv", b"prompt,chosen,rejected\na,b,c\n", "not JSON", 1),
    ("plain text", "d.txt", b"Once upon a time\n", "not JSON", 1),
    ("pickle", "d.jsonl", b"\x80\x04\x95\x10\x00", "is a pickle", None),
    ("zip", "d.jsonl", b"PK\x03\x04rest", "is a zip archive", None),
    ("zstd", "d.jsonl.zst", b"\x28\xb5\x2f\xfdrest", "compressed with zstd", None),
    ("utf-16", "d.jsonl", json.dumps(GOOD).encode("utf-16"), "UTF-16", None),
    ("web page", "d.jsonl", b"<!doctype html><html></html>", "is a web page", None),
    ("lfs pointer", "d.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer", None),
    ("gz in name only", "d.jsonl.gz", lines(GOOD), "is not gzipped", None),
    ("gz cut off", "d.jsonl.gz", gzip.compress(lines(*[GOOD] * 5))[:-12], "damaged", None),
    ("gz with a damaged middle", "d.jsonl.gz", gzip.compress(lines(GOOD))[:14] + b"\xff\xff\xff", "damaged", None),
    ("parquet in name only", "d.parquet", lines(GOOD), "is not a Parquet file", None),
    ("damaged parquet", "d.parquet", b"PAR1 and then nothing of the kind PAR1", "damaged Parquet", None),
    # lines that are no rows
    ("broken line", "d.jsonl", lines(GOOD, '{"prompt": "a" "chosen": "b"}'), "not JSON: Expecting", 2),
    ("line cut off", "d.jsonl", lines(GOOD, GOOD) + b'{"prompt": "a", "chos', "not JSON: Unterminated", 3),
    ("python dict", "d.jsonl", lines(GOOD, "{'prompt': 'a'}"), "not JSON", 2),
    ("comma at the end", "d.jsonl", lines(GOOD, '{"prompt": "a",}'), "not JSON", 2),
    ("number as row", "d.jsonl", lines(GOOD, "17"), "must be an object", 2),
    ("list as row", "d.jsonl", lines(GOOD, '["a", "b"]'), "must be an object", 2),
    ("null as row", "d.jsonl", lines(GOOD, "null"), "must be an object", 2),
    ("latin-1", "d.jsonl", lines(GOOD) + '{"prompt": "é"}\n'.encode("latin-1"), "not UTF-8: byte 0xe9", 2),
    (
        "half a character",
        "d.jsonl",
        lines(GOOD, '{"prompt": "\\ud83d"}'),
        "surrogate",
        2,
    ),
    ("nested too deeply", "d.jsonl", lines(GOOD, "[" * 100_000), "nested too deeply", 2),
    ("number too long", "d.jsonl", lines(GOOD, '{"prompt": ' + "9" * 5000 + "}"), "not JSON that can be read", 2),
    ("array cut off", "d.json", b'[\n{"prompt": "a", "chosen": "b", "rejected": "c"},\n{"prom', "cut off", 3),
    ("array without commas", "d.json", b'[{"prompt": "a"}\n{"prompt": "b"}]', "expected ',' or ']'", 2),
    ("text after the array", "d.json", b'[{"prompt": "a"}]\n{"prompt": "b"}', "something follows", 2),
    # columns
    ("misspelt column", "d.jsonl", lines({"prompt": "a", "choosen": "b", "rejected": "c"}), '"choosen" looks like', 1),
    ("capital letters", "d.jsonl", lines({"Prompt": "a", "Chosen": "b", "Rejected": "c"}), '"Chosen" should be', 1),
    ("chosen under another name", "d.jsonl", lines({"prompt": "a", "chosen_text": "b"}), '"chosen_text" looks like', 1),
    ("misspelt prompt", "d.jsonl", lines({"promt": "a", "chosen": "b", "rejected": "c"}), '"promt" looks like', 1),
    ("misspelt label", "d.jsonl", lines({"prompt": "a", "completion": "b", "lable": 0}), '"lable" looks like', 1),
    ("unknown columns", "d.jsonl", lines({"foo": 1, "bar": 2}), "no data format fits these columns: foo, bar", 1),
    ("column missing later", "d.jsonl", lines(GOOD, GOOD, {"prompt": "a", "chosen": "b"}), '"rejected" is missing', 3),
    ("mixed formats", "d.jsonl", lines(GOOD, GOOD, {"prompt": "a", "completion": "b", "label": True}), '"labels"', 3),
    # values
    ("number as prompt", "d.jsonl", lines(GOOD, pair(prompt=5)), '"prompt" is a number (5), text is needed', 2),
    ("null as response", "d.jsonl", lines(GOOD, pair(rejected=None)), '"rejected" is null', 2),
    ("object as response", "d.jsonl", lines(GOOD, pair(chosen={"text": "a"})), '"chosen" is an object', 2),
    ("text and messages", "d.jsonl", lines(GOOD, pair(chosen=[SAYS])), "one text and one list of messages", 2),
    ("NaN score", "d.jsonl", lines({**GOOD, "score_chosen": float("nan"), "score_rejected": 1}), "is NaN", 1),
    ("infinite score", "d.jsonl", lines(scored(1, 2), scored(1, float("inf"))), "is infinite", 2),
    ("score of 1e99", "d.jsonl", lines(scored(1, 2), scored(1, 1e99)), "too large to train on", 2),
    ("label in words", "d.jsonl", lines({"prompt": "a", "completion": "b", "label": "good"}), "true or false", 1),
    ("label of 2", "d.jsonl", lines({"prompt": "a", "completion": "b", "label": 2}), "true or false", 1),
    (
        "score in words",
        "d.jsonl",
        lines({"prompt": "a", "candidates": [{"text": "b", "score": "high"}]}),
        "a number",
        1,
    ),
    ("ratings without text", "d.jsonl", lines({"prompt": "a", "candidates": [{"score": 1}]}), 'needs "text"', 1),
    ("responses without ratings", "d.jsonl", lines({"prompt": "a", "responses": ["b", "c"]}), "have no ratings", 1),
    ("no responses", "d.jsonl", lines({"prompt": "a", "responses": [], "ranks": []}), "is empty", 1),
    ("ranks too few", "d.jsonl", lines({"prompt": "a", "responses": ["b", "c"], "ranks": [1]}), "2 entries", 1),
    ("labels too few", "d.jsonl", lines({"prompt": "a", "completions": ["b", "c"], "labels": [True]}), "2 entries", 1),
    ("step label in words", "d.jsonl", lines({"prompt": "a", "completions": ["b"], "labels": ["+"]}), "step 1", 1),
    # conversations
    ("message without role", "d.jsonl", lines({"messages": [{"content": "a"}, SAYS]}), 'needs "role" and', 1),
    ("unknown role", "d.jsonl", lines({"messages": [{"role": "robot", "content": "a"}, SAYS]}), "'robot'", 1),
    ("content of parts", "d.jsonl", lines({"messages": [{"role": "user", "content": [{}]}, SAYS]}), "a list as", 1),
    ("ends with the user", "d.jsonl", lines({"messages": [USER, SAYS, USER]}), "ends with user", 1),
    ("no messages", "d.jsonl", lines({"messages": []}), "ends with nothing", 1),
    ("unknown speaker", "d.jsonl", lines({"conversations": [{"from": "martian", "value": "a"}]}), "martian", 1),
    ("chosen ends with the user", "d.jsonl", lines({"chosen": [USER], "rejected": [USER, SAYS]}), "ends with user", 1),
    # slates
    ("feedback too short", "d.jsonl", lines(scored(1, 2), scored(1)), "1 values for 2 candidates", 2),
    ("unknown feedback", "d.jsonl", lines(slate(feedback={"a": {"kind": "mood", "values": [1, 2]}})), "'mood'", 1),
    ("parent of itself", "d.jsonl", lines(scored(1, 2), slate(candidates=[{"text": "a", "parent": 0}])), "parent 0", 2),
    (
        "table not square",
        "d.jsonl",
        lines(slate(feedback={"p": {"kind": "table", "values": [[0.5], [0.5]]}})),
        "1 entries for 2",
        1,
    ),
    (
        "probability of 3",
        "d.jsonl",
        lines(slate(feedback={"p": {"kind": "table", "values": [[0.5, 3], [0.5, 0.5]]}})),
        "no probability",
        1,
    ),
    ("meta is text", "d.jsonl", lines(slate(meta={"id": 1}), slate(meta="id")), '"meta" is text', 2),
]
