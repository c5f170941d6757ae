"""What each format means: where the prompt ends, who said what, what the numbers are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.errors import InputError
from prefine.formats import FORMATS
from prefine.formats.pairs import cut
from prefine.formats.parts import final_answer
from prefine.formats.spec import detect

USER = {"role": "user", "content": "hi"}


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_implicit_prompt_ends_with_the_last_common_turn_of_the_assistant() -> None:
    talk = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    slate = FORMATS["pairs-implicit"].read({"chosen": talk + " I think so", "rejected": talk + " I think not"})
    assert slate.prompt == talk
    assert (slate.response(0), slate.response(1)) == (" I think so", " I think not")


def test_implicit_prompt_of_dialogues_that_part_early() -> None:
    start = "\n\nHuman: a\n\nAssistant:"
    slate = FORMATS["pairs-implicit"].read(
        {"chosen": start + " b\n\nHuman: c\n\nAssistant: d", "rejected": start + " e\n\nHuman: f\n\nAssistant: g"}
    )
    assert slate.prompt == start and slate.response(1) == " e\n\nHuman: f\n\nAssistant: g"


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_cut_never_loses_or_invents_text(start: str, a: str, b: str) -> None:
    end, _ = cut(start + a, start + b)
    assert (start + a)[:end] == (start + b)[:end]


def test_implicit_prompt_of_conversations_is_their_common_beginning() -> None:
    row = {
        "chosen": [USER, says("a")],
        "rejected": [USER, says("b")],
        "prompt": "hi",
        "score_chosen": 8,
        "score_rejected": 2,
    }
    assert detect(row) is FORMATS["pairs-implicit"]  # as in the binarised feedback sets: the prompt is there twice
    slate = FORMATS["pairs-implicit"].read(row)
    assert slate.prompt == (USER,) and slate.response(0) == "a"
    assert slate.column("score") == (8.0, 2.0) and slate.column("preferred") == (True, False)


def test_conversations_that_part_before_the_last_turn_keep_their_own_context() -> None:
    slate = FORMATS["pairs"].read({"prompt": [USER], "chosen": [says("a"), USER, says("b")], "rejected": [says("c")]})
    assert slate.response(0) == "b" and slate.prompt_of(0) == (USER, says("a"), USER)
    assert slate.response(1) == "c" and slate.prompt_of(1) == (USER,)


def test_text_prompt_with_message_replies_becomes_a_turn() -> None:
    slate = FORMATS["pairs"].read({"prompt": "hi", "chosen": [says("a")], "rejected": [says("b")]})
    assert slate.prompt == (USER,)


def test_explicit_pairs_named_for_whole_conversations_is_refused() -> None:
    row = {"prompt": "hi", "chosen": [USER, says("a")], "rejected": [USER, says("b")]}
    with pytest.raises(InputError, match="pairs-implicit"):
        FORMATS["pairs"].read(row)


def test_columns_that_no_format_reads_are_kept() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "id": 7, "source": "web", "tags": ["x"], "note": None}
    slate = FORMATS["pairs"].read(row)
    assert slate.id == "7" and slate.meta["source"] == "web"
    assert slate.meta["extra"] == {"tags": ["x"], "note": None}


def test_ultrafeedback() -> None:
    row = {
        "source": "evol",
        "instruction": "q",
        "models": ["m", "n"],
        "completions": [
            {
                "model": "m",
                "response": "a",
                "overall_score": 7.5,
                "fine-grained_score": 4.25,
                "annotations": {"honesty": {"Rating": "5", "Rationale": "r"}, "truthfulness": {"Rating": "N/A"}},
            },
            {"model": "n", "response": "b", "overall_score": 3, "annotations": {"honesty": {"Rating": "2"}}},
        ],
    }
    slate = FORMATS["ratings"].read(row)
    assert slate.prompt == "q" and slate.response(1) == "b"
    assert slate.column("score") == (7.5, 3.0)
    assert slate.column("honesty") == (5.0, 2.0)
    assert slate.column("fine-grained_score") == (4.25, None)
    assert "truthfulness" not in slate.feedback
    assert slate.candidates[0].origin["model"] == "m"
    assert FORMATS["ratings"].write(slate) == [row]


def test_without_an_overall_score_it_is_the_mean() -> None:
    row = {"prompt": "q", "candidates": [{"text": "a", "honest": 4, "kind": 2}, {"text": "b", "honest": 1}]}
    slate = FORMATS["ratings"].read(row)
    assert slate.column("score") == (3.0, 1.0)
    assert FORMATS["ratings"].write(slate) == [row]


def test_numbers_that_are_no_ratings_are_origin() -> None:
    slate = FORMATS["ratings"].read(
        {"prompt": "q", "candidates": [{"text": "a", "score": 1, "temperature": 0.7, "id": 3}]}
    )
    assert set(slate.feedback) == {"score"}
    assert slate.candidates[0].origin == {"temperature": 0.7, "id": 3}


def test_candidates_of_the_own_format_are_not_taken_for_ratings() -> None:
    assert detect({"prompt": "q", "candidates": [{"text": "a", "origin": {"round": 1}}]}) is FORMATS["slates"]
    assert detect({"prompt": "q", "candidates": [{"text": "a", "score": 1}]}) is FORMATS["ratings"]


def test_sharegpt_speakers() -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
        ]
    }
    slate = FORMATS["messages"].read(row)
    assert slate.prompt == ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})
    assert slate.response(0) == "a"


def test_instruction_with_input() -> None:
    slate = FORMATS["demos"].read({"instruction": "Translate.", "input": "chat", "output": "cat"})
    assert slate.prompt == "Translate.\n\nchat"
    assert FORMATS["demos"].read({"instruction": "Sing.", "input": "", "output": "la"}).prompt == "Sing."


def test_labels_may_be_one_and_zero() -> None:
    read = FORMATS["labels"].read
    assert read({"prompt": "p", "completion": "c", "label": 1}).column("label") == (True,)
    assert read({"prompt": "p", "completion": "c", "label": 0.0}).column("label") == (False,)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("... #### 72", "72"),
        ("a #### b\n#### 1,234,567", "1234567"),
        ("#### 3,14 and", "3,14 and"),
        ("no mark", None),
        ("####  ", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer
