"""The label queue: what was answered is never lost or asked again, whoever answers and whatever is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefine import formats
from prefine.errors import InputError
from prefine.labelling import (
    SKIP,
    AlreadyAnswered,
    LabelQueue,
    Question,
    pair_question,
    queue_of,
    single_question,
)

QUESTIONS = [pair_question(f"p{i}", "yes", "no") for i in range(6)]


@pytest.fixture
def queue(tmp_path: Path) -> LabelQueue:
    made = LabelQueue(tmp_path / "labels")
    made.ask(QUESTIONS)
    return made


def test_a_question_is_asked_once(queue: LabelQueue) -> None:
    assert queue.ask(QUESTIONS) == 0
    assert queue.ask([*QUESTIONS, pair_question("p9", "a", "b")]) == 1
    assert [q.prompt for q in LabelQueue(queue.folder).pending("eva")] == [*(f"p{i}" for i in range(6)), "p9"]


def test_sides_are_shuffled_by_the_seed_and_the_question_not_by_who_asks() -> None:
    shown = [pair_question(f"p{i}", "a", "b").shown for i in range(200)]
    assert 70 < sum(s == ("a", "b") for s in shown) < 130, "about half each way round"
    assert shown == [pair_question(f"p{i}", "b", "a").shown for i in range(200)]
    assert shown != [pair_question(f"p{i}", "a", "b", seed=1).shown for i in range(200)]


def test_answers_stand_until_they_are_given_again_or_taken_back(queue: LabelQueue) -> None:
    first, second = QUESTIONS[:2]
    queue.answer(first.id, "1", by="eva")
    queue.answer(second.id, SKIP, by="eva")
    assert [a.answer for a in queue.answers(first.id)] == ["1"]
    queue.answer(first.id, "2", by="eva")
    assert [a.answer for a in queue.answers(first.id)] == ["2"]
    assert queue.status().left == 4 and queue.status().skipped == 1
    undone = queue.undo("eva")
    assert undone is not None and undone.id == first.id, "the last one she gave"
    assert queue.pending("eva")[0].id == first.id
    again = queue.undo("eva")
    assert again is not None and again.id == second.id
    assert queue.undo("eva") is None and queue.undo("ben") is None
    assert queue.status().given == 0


def test_several_people_answer_what_several_are_asked(tmp_path: Path) -> None:
    queue = LabelQueue(tmp_path)
    question = single_question("rating", "p", "yes", votes=2)
    queue.ask([question, single_question("thumbs", "p", "yes")])
    queue.answer(question.id, "4", by="eva")
    assert [q.form for q in queue.pending("eva")] == ["thumbs"]
    assert [q.form for q in queue.pending("ben")] == ["rating", "thumbs"]
    queue.answer(question.id, "2", by="ben")
    with pytest.raises(AlreadyAnswered, match="eva and ben"):
        queue.answer(question.id, "1", by="ida")
    assert queue.status().by == {"eva": 1, "ben": 1}
    assert queue.missing([question.id]) == 0
    queue.ask([single_question("rating", "p", "yes", votes=3)])
    assert queue.missing([question.id]) == 1, "more people are asked now, and what was said stands"


@pytest.mark.parametrize(
    ("id", "answer", "by", "said"),
    [("nothing", "1", "eva", "no question"), (QUESTIONS[0].id, "3", "eva", "no answer"),
     (QUESTIONS[0].id, "1", " ", "name"), (QUESTIONS[0].id, "1", "a\nb", "name")],
)  # fmt: skip
def test_bad_answers_are_refused_and_leave_nothing(queue: LabelQueue, id: str, answer: str, by: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        queue.answer(id, answer, by=by)
    assert queue.status().given == 0


def test_a_line_that_a_kill_cut_short_never_happened(queue: LabelQueue) -> None:
    queue.answer(QUESTIONS[0].id, "1", by="eva")
    with (queue.folder / "answers.jsonl").open("a") as file:
        file.write('{"id": "' + QUESTIONS[1].id)
    assert LabelQueue(queue.folder).status().given == 1
    queue.answer(QUESTIONS[1].id, "2", by="eva")
    rows = (queue.folder / "answers.jsonl").read_text().splitlines()
    assert [json.loads(row)["answer"] for row in rows] == ["1", "2"]


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("answers.jsonl", "not json", "not JSON"),
        ("answers.jsonl", "[]", "not an object"),
        ("answers.jsonl", '{"id": "x", "answer": "1", "by": "eva"}', "never asked"),
        ("answers.jsonl", json.dumps({"id": QUESTIONS[0].id, "answer": "9", "by": "eva"}), "no answer to this"),
        ("questions.jsonl", '{"id": "x", "form": "poem"}', "no question"),
        ("questions.jsonl", '{"id": "x", "form": "pair", "prompt": "p", "shown": [], "votes": 1}', "no question"),
    ],
)
def test_a_broken_line_is_named(queue: LabelQueue, file: str, line: str, said: str) -> None:
    place = len((queue.folder / file).read_text().splitlines()) + 1 if (queue.folder / file).exists() else 1
    with (queue.folder / file).open("a") as handle:
        handle.write(line + "\n")
    with pytest.raises(InputError, match=said) as error:
        LabelQueue(queue.folder).status()
    assert f"{file}:{place}" in error.value.message and "remove the line" in error.value.remedy


def _answer_all(folder: Path, by: str, start: object) -> None:
    queue = LabelQueue(folder)
    start.wait()  # type: ignore[attr-defined]
    while pending := queue.pending(by):
        try:
            queue.answer(pending[0].id, "1", by=by)
        except AlreadyAnswered:
            continue


def test_two_people_at_once_leave_one_whole_answer_a_question(tmp_path: Path) -> None:
    questions = [pair_question(f"p{i}", "a", "b") for i in range(60)]
    LabelQueue(tmp_path).ask(questions)
    context = multiprocessing.get_context("fork")
    start = context.Event()
    people = [context.Process(target=_answer_all, args=(tmp_path, by, start)) for by in ("eva", "ben", "ida")]
    for person in people:
        person.start()
    start.set()
    for person in people:
        person.join(60)
        assert person.exitcode == 0
    found = LabelQueue(tmp_path)
    rows = [json.loads(row) for row in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 60 and found.status().left == 0 and found.status().given == 60
    assert {row["id"] for row in rows} == {q.id for q in questions}


ENDLESS = """
import sys
from prefine.labelling import LabelQueue
queue = LabelQueue(sys.argv[1])
print("ready", flush=True)
for question in queue.pending("eva"):
    queue.answer(question.id, "1", by="eva")
    print(question.id, flush=True)
"""


def test_what_was_told_before_kill_9_is_there(tmp_path: Path) -> None:
    LabelQueue(tmp_path).ask([pair_question(f"p{i}", "a", "b") for i in range(5000)])
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    told = [process.stdout.readline().strip() for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    queue = LabelQueue(tmp_path)
    assert all(queue.answers(id) for id in told)
    assert queue.status().left > 0
    queue.answer(queue.pending("eva")[0].id, "=", by="eva")


def test_answering_does_not_slow_down_with_what_is_there(tmp_path: Path) -> None:
    """5,000 questions: a person answers one in a blink."""
    queue = LabelQueue(tmp_path)
    queue.ask([pair_question(f"p{i}", "a " * 200, "b") for i in range(5000)])
    started = time.monotonic()
    for question in queue.pending("eva")[:5]:
        queue.answer(question.id, "1", by="eva")
    assert (time.monotonic() - started) / 5 < 1.0


def test_exported_answers_are_data(tmp_path: Path) -> None:
    queue = LabelQueue(tmp_path / "labels")
    pairs = [pair_question(f"p{i}", "yes", "no") for i in range(4)]
    queue.ask(pairs)
    for question, answer in zip(pairs, ("1", "2", "=", SKIP)):
        queue.answer(question.id, answer, by="eva")
    rows = list(queue.export())
    assert [row["chosen"] for row in rows] == [pairs[0].shown[0], pairs[1].shown[1]]
    assert [row["chosen"] for row in rows] == [pairs[0].preferred("1"), pairs[1].preferred("2")]
    assert {row["annotator"] for row in rows} == {"eva"}
    read = _read(tmp_path, rows)
    assert read.ok and read.format == "pairs"


@pytest.mark.parametrize(("form", "expected"), [("thumbs", "labels"), ("rating", "ratings")])
def test_exported_grades_are_data(tmp_path: Path, form: str, expected: str) -> None:
    queue = LabelQueue(tmp_path / "labels")
    asked = [single_question(form, f"p{i}", text) for i in range(2) for text in ("yes", "no")]
    queue.ask(asked)
    for question in asked:
        queue.answer(question.id, "1" if question.shown[0] == "yes" else "2", by="eva")
    read = _read(tmp_path, list(queue.export()))
    assert read.ok and read.format == expected


def _read(tmp_path: Path, rows: list[dict[str, object]]):  # type: ignore[no-untyped-def]
    file = tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return formats.check(str(file))


def test_questions_of_conversations_come_back_as_they_were(tmp_path: Path) -> None:
    queue = LabelQueue(tmp_path)
    question = single_question("thumbs", ({"role": "user", "content": "hé\u2028"},), "a\nb")
    queue.ask([question])
    assert LabelQueue(tmp_path).pending("eva") == [question]
    assert Question.from_json(json.loads(json.dumps(question.to_json()))) == question


def test_starting_over_keeps_what_people_said(queue: LabelQueue) -> None:
    queue.answer(QUESTIONS[2].id, "1", by="eva")
    queue.answer(QUESTIONS[3].id, "1", by="eva")
    queue.undo("eva")
    queue.drop_unanswered()
    assert queue.status().given == 1
    assert [q.id for q in queue.pending("ben")] == [QUESTIONS[3].id], "what was taken back can be read, so it stays"
    LabelQueue(queue.folder.parent / "none").drop_unanswered()
    assert not (queue.folder.parent / "none").exists()


def test_a_directory_without_questions_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="asked people nothing"):
        queue_of(tmp_path)
    with pytest.raises(InputError, match="no run directory"):
        queue_of(tmp_path / "nowhere")
