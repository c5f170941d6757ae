"""Rows of every format become slates and the same rows again, columns that no format reads included."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.formats import FORMATS
from prefine.formats.spec import detect
from prefine.slate import Candidate, Feedback, Slate

fast = settings(max_examples=40, deadline=None)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
filled = texts.filter(lambda t: t.strip() != "")
numbers = st.integers(-9, 9) | st.floats(-1e6, 1e6, allow_nan=False)
scalars = texts | st.integers() | st.booleans() | st.none() | numbers
jsons = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))

OTHER_COLUMNS = ("id", "source", "user", "split", "answer", "notes", "prompt_id", "difficulty", "extra", "layout")
others = st.dictionaries(st.sampled_from(OTHER_COLUMNS), jsons, max_size=4)
prompt_names = st.sampled_from(["prompt", "instruction", "question", "problem", "query"])


def turn(role: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"role": st.just(role), "content": texts}, optional={"name": texts})


@st.composite
def dialogues(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Turns up to and including one of the user."""
    turns = draw(st.lists(turn("system"), max_size=1))
    for _ in range(draw(st.integers(0, 2))):
        turns += [draw(turn("user")), draw(turn("assistant"))]
    return [*turns, draw(turn("user"))]


replies = st.lists(turn("assistant"), min_size=1, max_size=1)
long_replies = st.tuples(turn("assistant"), turn("user"), turn("assistant")).map(list) | replies


def with_prompt(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """A prompt and responses of these names: all text, all messages, or messages with text responses."""
    one = st.fixed_dictionaries({"prompt": texts, **dict.fromkeys(names, texts)})
    two = st.fixed_dictionaries({"prompt": dialogues(), **dict.fromkeys(names, long_replies)})
    three = st.fixed_dictionaries({"prompt": dialogues(), **dict.fromkeys(names, texts)})
    four = st.fixed_dictionaries({"prompt": texts, **dict.fromkeys(names, replies)})
    return st.builds(
        lambda row, name: {(name if k == "prompt" else k): v for k, v in row.items()},
        one | two | three | four,
        prompt_names,
    )


def joined(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """One row out of several parts; earlier parts win."""
    return st.tuples(*parts).map(lambda found: {k: v for part in reversed(found) for k, v in part.items()})


sides = st.fixed_dictionaries({"score_chosen": numbers, "score_rejected": numbers})
rated = st.fixed_dictionaries({"chosen-rating": numbers, "rejected-rating": numbers})
flagged = st.fixed_dictionaries({"safe_chosen": st.booleans(), "safe_rejected": st.booleans()})
pairs = joined(with_prompt("chosen", "rejected"), st.just({}) | sides | rated | flagged, others)


@st.composite
def implicit_pairs(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        start = draw(dialogues())
        return {side: start + draw(long_replies) for side in ("chosen", "rejected")}
    start = draw(texts) + draw(st.sampled_from(["\n\nAssistant:", " ", "\n", ""]))
    return {side: start + draw(texts) for side in ("chosen", "rejected")}


conversations = st.tuples(dialogues(), replies).map(lambda parts: parts[0] + parts[1])
SPEAKER = {"user": "human", "assistant": "gpt", "system": "system"}


def spoken(turns: list[dict[str, Any]], bot: str) -> list[dict[str, Any]]:
    said = {**SPEAKER, "assistant": bot}
    return [
        {"from": said[t["role"]], "value": t["content"], **({"name": t["name"]} if "name" in t else {})} for t in turns
    ]


messages = (
    st.fixed_dictionaries({"messages": conversations})
    | st.fixed_dictionaries({"conversations": conversations})
    | st.builds(lambda t, bot: {"conversations": spoken(t, bot)}, conversations, st.sampled_from(["gpt", "assistant"]))
)

completions = st.sampled_from(["completion", "response", "output"]).flatmap(with_prompt)
labelled = joined(completions, st.fixed_dictionaries({"label": st.booleans() | st.sampled_from([0, 1])}))
alpaca = st.fixed_dictionaries({"instruction": texts, "input": texts, "output": texts})

prompts = st.builds(lambda name, prompt: {name: prompt}, prompt_names, texts | dialogues())
answers = st.builds(lambda work, n: {"answer": f"{work}\n#### {n}"}, texts, st.integers())


@st.composite
def rankings(draw: st.DrawFn) -> dict[str, Any]:
    said = draw(st.lists(texts, min_size=1, max_size=4))
    prompt = draw(texts | dialogues())
    if draw(st.booleans()):
        return {"prompt": prompt, "ranked": said}
    ranks = draw(st.lists(st.none() | st.integers(1, 9), min_size=len(said), max_size=len(said)))
    return {"prompt": prompt, draw(st.sampled_from(["responses", "completions"])): said, "ranks": ranks}


annotation = st.fixed_dictionaries({"Rating": st.sampled_from(["1", "5", "N/A"]), "Rationale": texts})


@st.composite
def ratings(draw: st.DrawFn) -> dict[str, Any]:
    name, many = draw(prompt_names), draw(st.sampled_from(["candidates", "completions", "responses"]))
    count = draw(st.integers(1, 4))
    if draw(st.booleans()) and many != "candidates":
        said = draw(st.lists(texts, min_size=count, max_size=count))
        rated = draw(st.lists(st.none() | numbers, min_size=count, max_size=count))
        return {name: draw(texts), many: said, draw(st.sampled_from(["scores", "ratings"])): rated}
    text = draw(st.sampled_from(["text", "response", "content"]))
    entry = st.fixed_dictionaries(
        {text: texts},
        optional={
            "score": numbers,
            "overall_score": numbers,
            "helpfulness": numbers,
            "safe": st.booleans(),
            "model": texts,
            "temperature": st.floats(0, 2),
            "annotations": st.dictionaries(st.sampled_from(["honesty", "helpfulness"]), annotation),
            "critique": texts,
        },
    )
    entries = draw(st.lists(entry, min_size=count, max_size=count))
    if all(e.keys() == {"text"} for e in entries) and many == "candidates":
        entries[0]["score"] = 1.0  # candidates with texts alone are a slate
    return {name: draw(texts), many: entries}


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    said = draw(st.lists(texts, min_size=1, max_size=4))
    kind = draw(st.sampled_from([st.booleans() | st.none(), st.integers(-1, 1) | st.none(), st.floats(0, 1)]))
    return {
        "prompt": draw(texts),
        "completions": said,
        "labels": draw(st.lists(kind, min_size=len(said), max_size=len(said))),
    }


@st.composite
def whole_slates(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(0, 4))
    candidates = []
    for i in range(count):
        ids = draw(st.lists(st.integers(0, 99), max_size=3))
        more = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "tokens": st.just(ids),
                    "logps": st.just([-0.5 * t for t in ids]),
                    "stop": st.sampled_from(["end", "length"]),
                    "counts": st.just(False),
                    "prompt": dialogues(),
                    "origin": st.dictionaries(texts, jsons, min_size=1, max_size=2),
                },
            )
        )
        parent = draw(st.none() | st.integers(0, i - 1)) if i else None
        candidates.append({"text": draw(texts), **({} if parent is None else {"parent": parent}), **more})
    column = {
        "score": st.none() | numbers,
        "label": st.none() | st.booleans(),
        "rank": st.integers(1, 4),
        "text": texts,
        "table": st.lists(st.floats(0, 1), min_size=count, max_size=count),
        "steps": st.lists(st.floats(0, 1), max_size=3),
    }
    feedback = {
        kind: {"kind": kind, "values": draw(st.lists(column[kind], min_size=count, max_size=count))}
        for kind in draw(st.sets(st.sampled_from(list(column)), max_size=3))
    }
    row = {"prompt": draw(texts | dialogues()), "meta": draw(st.dictionaries(texts, jsons, min_size=1, max_size=3))}
    return {**row, **({"candidates": candidates} if candidates else {}), **({"feedback": feedback} if feedback else {})}


ROWS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "pairs": pairs,
    "pairs-implicit": joined(implicit_pairs(), others),
    "messages": joined(messages, others),
    "demos": joined(completions, others) | joined(alpaca, others),
    "labels": joined(labelled, others),
    "prompts": joined(prompts, others) | joined(prompts, answers, others),
    "rankings": joined(rankings(), others),
    "ratings": joined(ratings(), others),
    "steps": joined(steps(), others),
    "slates": whole_slates(),
}


def test_every_format_is_covered() -> None:
    assert ROWS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_row_to_slate_to_row(name: str) -> None:
    spec = FORMATS[name]

    @fast
    @given(ROWS[name])
    def round_trip(row: dict[str, Any]) -> None:
        assert spec.fits(row)
        slate = spec.read(row)
        # through prefine's own format on disk, which is how `convert` goes from anything to anything
        stored = json.loads(json.dumps(slate.to_json(), allow_nan=False))
        kept = FORMATS["slates"].read(stored)
        assert kept == Slate.from_json(json.loads(json.dumps(slate.to_json())))
        assert spec.write(slate) == [row]
        assert spec.write(kept) == [row]

    round_trip()


@pytest.mark.parametrize("name", ROWS)
def test_detection(name: str) -> None:
    @fast
    @given(ROWS[name])
    def detected(row: dict[str, Any]) -> None:
        found = detect(row)
        assert found is not None and found.name == name

    detected()


@pytest.mark.parametrize("name", FORMATS)
def test_example_is_of_its_format(name: str) -> None:
    spec = FORMATS[name]
    assert detect(spec.example) is spec
    assert spec.write(spec.read(spec.example)) == [spec.example]


@fast
@given(whole_slates())
def test_slates_are_written_whole(row: dict[str, Any]) -> None:
    slate = FORMATS["slates"].read(row)
    assert Slate.from_json(json.loads(json.dumps(slate.to_json()))) == slate


def test_a_slate_made_in_python_is_written_whole() -> None:
    slate = Slate(
        ({"role": "user", "content": "hi"},),
        (Candidate("a", tokens=(1, 2), logps=(-0.5, -1.0), stop="end"), Candidate("b", parent=0, counts=False)),
        {"score": Feedback("score", (1.0, None)), "table": Feedback("table", ((0.5, 0.9), (0.1, 0.5)))},
        {"id": "x"},
    )
    (row,) = FORMATS["slates"].write(slate)
    assert FORMATS["slates"].read(json.loads(json.dumps(row))) == slate
