"""Questions to people and their answers, on disk: a queue that survives kills and takes several people at once.

    FOLDER/questions.jsonl    one line a question, added when a run asks
    FOLDER/answers.jsonl      one line an answer or an undo, flushed to the disk before the next question is shown
    FOLDER/LOCK               held for the moment of adding lines

Nothing is ever rewritten: an answer given again stands in the place of the one before. A line that a kill cut short
never happened. A question is known by what it asks (form, prompt, responses), so the same question is asked once,
whoever asks and however often. ``prefine label`` and the web app are two faces of this class.

>>> import tempfile
>>> queue = LabelQueue(Path(tempfile.mkdtemp()))
>>> queue.ask([pair_question("2+2=", "4", "5")])
1
>>> question = queue.pending("eva")[0]
>>> queue.answer(question.id, "1", by="eva")
>>> queue.status().left, question.preferred("1") == question.shown[0]
(0, True)
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefine.errors import InputError
from prefine.slate import Prompt, prompt_from_json, prompt_to_json

FOLDER = "labels"
"""Where a run keeps its queue."""

SKIP = "skip"
FORMS: Mapping[str, Mapping[str, float]] = {
    "pair": {"1": 1.0, "=": 0.5, "2": 0.0},
    "rating": {"1": 1.0, "2": 2.0, "3": 3.0, "4": 4.0, "5": 5.0},
    "thumbs": {"1": 1.0, "2": 0.0},
}
"""Form -> answer -> what it is worth: of a pair, to the response shown first; of a response, its score or label."""

MEANING: Mapping[str, Mapping[str, str]] = {
    "pair": {"1": "the first", "2": "the second", "=": "as good as each other"},
    "rating": {"1": "bad", "2": "poor", "3": "fair", "4": "good", "5": "perfect"},
    "thumbs": {"1": "good", "2": "bad"},
}


@dataclass(frozen=True)
class Question:
    """What a person is asked. ``shown``: the responses in the order in which they are shown."""

    id: str
    form: str
    prompt: Prompt
    shown: tuple[str, ...]
    votes: int = 1
    """How many people are to answer it."""

    @property
    def options(self) -> tuple[str, ...]:
        """The answers it takes, skipping included."""
        return (*MEANING[self.form], SKIP)

    def preferred(self, answer: str) -> str | None:
        """The response an answer prefers; None for a tie, a skip, or a question about one response."""
        worth = FORMS[self.form].get(answer)
        if self.form != "pair" or worth in (None, 0.5):
            return None
        return self.shown[0] if worth == 1.0 else self.shown[1]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id, "form": self.form, "prompt": prompt_to_json(self.prompt), "shown": list(self.shown),
            "votes": self.votes,
        }  # fmt: skip

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Question:
        if row["form"] not in FORMS or not row["shown"] or not all(isinstance(text, str) for text in row["shown"]):
            raise ValueError("unknown form or no responses")
        return Question(
            str(row["id"]), row["form"], prompt_from_json(row["prompt"]), tuple(row["shown"]), int(row["votes"])
        )


@dataclass(frozen=True)
class Answer:
    """One person's answer to one question."""

    id: str
    answer: str
    by: str


@dataclass(frozen=True)
class Status:
    """Where a queue stands, in answers (a question that two are to answer counts twice)."""

    asked: int
    given: int
    skipped: int
    """Of those given."""
    left: int
    by: Mapping[str, int] = field(default_factory=dict)
    """How many each person gave."""


def pair_question(prompt: Prompt, first: str, second: str, *, votes: int = 1, seed: int = 0) -> Question:
    """Which of two responses is better? Which one is shown first depends on the seed and the texts, not on the order
    in which they are given.

    >>> pair_question("p", "a", "b") == pair_question("p", "b", "a")
    True
    """
    sides = sorted((first, second))
    name = question_id("pair", prompt, sides)
    coin = hashlib.sha256(f"{seed}\n{name}".encode()).digest()[0] & 1
    return Question(name, "pair", prompt, tuple(sides[::-1] if coin else sides), votes)


def single_question(form: str, prompt: Prompt, response: str, *, votes: int = 1) -> Question:
    """How good is a response ("rating"), or is it good at all ("thumbs")?"""
    return Question(question_id(form, prompt, [response]), form, prompt, (response,), votes)


def question_id(form: str, prompt: Prompt, responses: Sequence[str]) -> str:
    """What a question is known by: all that it asks, not the order of its sides."""
    text = json.dumps([form, prompt_to_json(prompt), sorted(responses)], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class LabelQueue:
    """The queue in a folder. Any number of them, in any number of processes, may be open on one folder."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._questions = _Log(self.folder / "questions.jsonl")
        self._answers = _Log(self.folder / "answers.jsonl")
        self._known: tuple[tuple[int, int], dict[str, Question], dict[str, dict[str, str]], dict[str, list[str]]] = (
            (-1, -1), {}, {}, {},
        )  # fmt: skip

    # --- asking ---

    def ask(self, questions: Iterable[Question]) -> int:
        """Put questions in the queue; of those that are there already, only those that more people are to answer. How
        many are new."""
        with self._locked():
            there = self._read()[0]
            new = {q.id: q for q in questions if q.id not in there or there[q.id].votes < q.votes}
            self._questions.append([q.to_json() for q in new.values()])
        return len(new)

    def drop_unanswered(self) -> None:
        """Forget the questions that nobody has ever answered: another run would ask others."""
        if not self.folder.exists():
            return
        with self._locked():
            there, named = self._read()[0], {row.get("id") for _, row in self._answers.rows()}
            kept = [q for q in there.values() if q.id in named]
            if len(kept) < len(there):
                self._questions.replace([q.to_json() for q in kept])

    # --- answering ---

    def questions(self) -> Mapping[str, Question]:
        """Everything that was asked, in order."""
        return self._read()[0]

    def pending(self, by: str) -> list[Question]:
        """What is left for this person: not answered by them, nor by as many others as are wanted."""
        there, given, _ = self._read()
        return [q for q in there.values() if len(said := given.get(q.id, {})) < q.votes and by not in said]

    def answer(self, id: str, answer: str, *, by: str) -> None:
        """One answer, on the disk when this returns. Answering again replaces one's own earlier answer."""
        name = checked_name(by)
        with self._locked():
            there, given, _ = self._read()
            if id not in there:
                raise InputError(f"there is no question {id!r} in this queue", remedy="answer one that is pending")
            question, said = there[id], given.get(id, {})
            if answer not in question.options:
                raise InputError(
                    f"{answer!r} is no answer to a question of form {question.form!r}",
                    remedy=f"give one of: {', '.join(question.options)}",
                )
            if name not in said and len(said) >= question.votes:
                raise AlreadyAnswered(f"{' and '.join(said)} answered this question meanwhile")
            self._answers.append([{"id": id, "answer": answer, "by": name, "time": round(time.time(), 3)}])

    def undo(self, by: str) -> Question | None:
        """Take back this person's last answer that stands. The question it was, or None where there is none."""
        name = checked_name(by)
        with self._locked():
            there, _, stack = self._read()
            if not stack.get(name):
                return None
            last = stack[name][-1]
            self._answers.append([{"id": last, "undo": True, "by": name, "time": round(time.time(), 3)}])
            return there[last]

    # --- reading ---

    def answers(self, id: str) -> tuple[Answer, ...]:
        """The answers to a question that stand: of as many people as are wanted, those who were first."""
        there, given, _ = self._read()
        question = there.get(id)
        votes = 0 if question is None else question.votes
        return tuple(Answer(id, answer, by) for by, answer in list(given.get(id, {}).items())[:votes])

    def missing(self, ids: Iterable[str]) -> int:
        """How many answers are wanted still."""
        there, given, _ = self._read()
        return sum(max(0, there[id].votes - len(given.get(id, {}))) for id in dict.fromkeys(ids))

    def status(self) -> Status:
        there, given, _ = self._read()
        standing = [a for id in there for a in self.answers(id)]
        return Status(
            asked=sum(q.votes for q in there.values()),
            given=len(standing),
            skipped=sum(a.answer == SKIP for a in standing),
            left=sum(max(0, q.votes - len(given.get(q.id, {}))) for q in there.values()),
            by=dict(Counter(a.by for a in standing)),
        )

    def export(self) -> Iterator[dict[str, Any]]:
        """Rows that prefine reads as data: pairs, labels (thumbs) and ratings, with who said so. Ties and skips teach
        nothing that a pair could hold and are left out."""
        ratings: dict[str, dict[str, Any]] = {}
        for question in self.questions().values():
            prompt = prompt_to_json(question.prompt)
            for said in self.answers(question.id):
                worth = FORMS[question.form].get(said.answer)
                if worth is None or (question.form == "pair" and worth == 0.5):
                    continue
                if question.form == "pair":
                    better, worse = question.shown if worth else question.shown[::-1]
                    yield {"prompt": prompt, "chosen": better, "rejected": worse, "annotator": said.by}
                elif question.form == "thumbs":
                    row = {"prompt": prompt, "completion": question.shown[0], "label": bool(worth)}
                    yield {**row, "annotator": said.by}
                else:
                    key = json.dumps([prompt, said.by])
                    row = ratings.setdefault(key, {"prompt": prompt, "candidates": [], "annotator": said.by})
                    row["candidates"].append({"text": question.shown[0], "score": worth})
        yield from ratings.values()

    # --- inside ---

    def _read(self) -> tuple[dict[str, Question], dict[str, dict[str, str]], dict[str, list[str]]]:
        """(questions, id -> person -> answer in the order of first answers, person -> ids in order of answering)."""
        version = (self._questions.version(), self._answers.version())
        if self._known[0] == version:
            return self._known[1:]
        there: dict[str, Question] = {}
        for place, row in self._questions.rows():
            try:
                question = Question.from_json(row)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise self._questions.broken(place, f"no question: {error}") from error
            earlier = there.setdefault(question.id, question)
            there[question.id] = replace(earlier, votes=max(earlier.votes, question.votes))  # shown as it was at first
        given: dict[str, dict[str, str]] = {}
        stack: dict[str, list[str]] = {}
        for place, row in self._answers.rows():
            id, by = row.get("id"), row.get("by")
            if id not in there or not isinstance(by, str):
                raise self._answers.broken(place, "an answer to a question that was never asked")
            own = stack.setdefault(by, [])
            if id in own:
                own.remove(id)
            if row.get("undo"):
                given.get(id, {}).pop(by, None)
                continue
            if row.get("answer") not in there[id].options:
                raise self._answers.broken(place, f"{row.get('answer')!r}, which is no answer to this question")
            given.setdefault(id, {})[by] = row["answer"]
            own.append(id)
        self._known = (version, there, given, stack)
        return there, given, stack

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "LOCK").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)


class AlreadyAnswered(InputError):
    """Others were faster: nothing is lost, and the next question waits."""

    def __init__(self, message: str) -> None:
        super().__init__(message, remedy="go on with the next one")


class _Log:
    """A JSONL file that only grows. What a kill left without a line end is taken off before more is added."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def version(self) -> int:
        """A number that changes when lines are added: how many bytes of whole lines there may be."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return 0
        return hash((found.st_size, found.st_mtime_ns, found.st_ino))

    def rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """(line number, row) of all whole lines."""
        if not self.path.exists():
            return
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        for place, text in enumerate(whole.split(b"\n"), 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise self.broken(place, "not JSON") from error
            if not isinstance(row, dict):
                raise self.broken(place, "not an object")
            yield place, row

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """All of them or, after a kill, the first of them; on the disk when this returns."""
        if not rows:
            return
        with self.path.open("ab+") as handle:
            end = handle.seek(0, os.SEEK_END)
            if end:
                handle.seek(end - 1)
                if handle.read(1) != b"\n":
                    handle.seek(0)
                    handle.truncate(handle.read().rfind(b"\n") + 1)
            handle.write(b"".join(_line(row) for row in rows))
            handle.flush()
            os.fsync(handle.fileno())

    def replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from prefine.store import write_text

        write_text(self.path, b"".join(_line(row) for row in rows).decode())

    def broken(self, place: int, why: str) -> InputError:
        return InputError(
            f"this line of the label queue cannot be read: {why}",
            remedy="remove the line (what it held is asked again), or put it right",
            file=self.path, line=place,
        )  # fmt: skip


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def queue_of(run_dir: Path | str) -> LabelQueue:
    """The queue of a run (or of a comparison's method), or an InputError where there is none."""
    path = Path(run_dir)
    if not path.is_dir():
        raise InputError("there is no run directory here", remedy="`prefine runs` lists the runs there are", file=path)
    folder = path if (path / "questions.jsonl").exists() else path / FOLDER
    if not (folder / "questions.jsonl").exists():
        raise InputError(
            "this run has asked people nothing",
            remedy="people are asked by a run with --judge people; give the directory that its message names",
            file=path,
        )
    return LabelQueue(folder)


def checked_name(by: str) -> str:
    """A name for the annotator's column: one line of printable text."""
    name = by.strip()
    if not name or len(name) > 80 or not name.isprintable():
        raise InputError(f"{by!r} cannot be an annotator's name", remedy="give a short name: --as eva")
    return name
