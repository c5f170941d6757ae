"""People as judges: what they were asked and said is in the run's label queue (``prefine.labelling``).

``run.judge(slates, People())`` puts its questions there and stops with one message, until ``prefine label RUN`` (or
whoever writes into the queue) has answered them; then the same command goes on. What comes out is keyed by the answers
themselves, so an answer that is changed later is judged, and learnt from, anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from prefine.errors import InputError, LabelsWanted
from prefine.judging.base import Judge
from prefine.labelling import FOLDER, FORMS, SKIP, LabelQueue, Question, pair_question, single_question
from prefine.registry import at_least, one_of
from prefine.slate import Feedback, Slate, labels, scores, table

Columns = Mapping[str, Feedback]

ASKS: Mapping[str, str] = {"pairs": "pair", "rating": "rating", "thumbs": "thumbs"}
"""What stands after ``people:`` -> the form of the questions."""


@dataclass(frozen=True)
class People:
    """Every two different responses of a slate side by side ("pairs"), or each by itself ("rating" from 1 to 5,
    "thumbs"), to ``votes`` people each.

    Columns of pairs: "preference", P[i][j] the share of votes for i (a tie is half a vote; 1/2 where all skipped), and
    "preference_read", how many did not skip; of single responses "score" or "label", the mean, None where all skipped.
    "annotator": who said so. Two responses with the same text tie unasked.
    """

    asks: str = "pairs"
    votes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("people", self.asks, ASKS)
        at_least(1, votes=self.votes)

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        raise InputError(
            "people are asked by a run, which stops until they have answered",
            remedy="use this judge through run.judge, or `prefine run ... --judge people`",
        )

    def questions(self, slate: Slate) -> Iterator[Question]:
        """All questions about a slate."""
        for couple in self.couples(slate):
            yield self.question(slate, couple)

    def couples(self, slate: Slate) -> Iterator[tuple[int, ...]]:
        """The responses each question is about."""
        ends = slate.leaves()
        if ASKS[self.asks] == "pair":
            yield from ((i, j) for i, j in combinations(ends, 2) if slate.response(i) != slate.response(j))
        else:
            yield from ((i,) for i in ends)

    def question(self, slate: Slate, about: Sequence[int]) -> Question:
        prompt, texts = slate.prompt_of(about[0]), [slate.response(i) for i in about]
        if len(texts) == 2:
            return pair_question(prompt, texts[0], texts[1], votes=self.votes, seed=self.seed)
        return single_question(ASKS[self.asks], prompt, texts[0], votes=self.votes)


@dataclass(frozen=True)
class Heard:
    """People, when all has been answered: question id -> [(shown first, answer, by), ...]."""

    people: People
    answers: Mapping[str, Sequence[tuple[str, str, str]]]

    @property
    def __name__(self) -> str:
        return "people"

    @property
    def key(self) -> str:
        """What was said decides what comes out, wherever the queue lies."""
        text = json.dumps([dataclasses.astuple(self.people), sorted(self.answers.items())], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        read = _pairs if ASKS[self.people.asks] == "pair" else _singles
        return [read(self, slate) for slate in slates]

    def votes(self, slate: Slate, about: Sequence[int]) -> list[tuple[float | None, str]]:
        """(what it is worth to the first of them, None for a skip; who said so) of each answer."""
        question = self.people.question(slate, about)
        if question.id not in self.answers:
            raise InputError("people were not asked about these responses", remedy="judge the slates they saw")
        response = slate.response(about[0])
        return [(_worth(question, shown, answer, response), by) for shown, answer, by in self.answers[question.id]]


def _worth(question: Question, shown: str, answer: str, response: str) -> float | None:
    """As it was shown to whoever answered, which the queue remembers, whatever today's seed would show."""
    value = None if answer == SKIP else FORMS[question.form][answer]
    return value if value is None or question.form != "pair" or response == shown else 1 - value


def _pairs(heard: Heard, slate: Slate) -> Columns:
    K = len(slate)
    P, read = ([[value] * K for _ in range(K)] for value in (0.5, 0.0))
    names: list[set[str]] = [set() for _ in range(K)]
    for i, j in heard.people.couples(slate):
        votes = heard.votes(slate, (i, j))
        known = [value for value, _ in votes if value is not None]
        read[i][j] = read[j][i] = float(len(known))
        if known:
            P[i][j] = sum(known) / len(known)
            P[j][i] = 1 - P[i][j]
        for _, by in votes:
            names[i].add(by)
            names[j].add(by)
    return {"preference": table(P), "preference_read": table(read), "annotator": _who(names)}


def _singles(heard: Heard, slate: Slate) -> Columns:
    ends = set(slate.leaves())
    said = [heard.votes(slate, (i,)) if i in ends else [] for i in range(len(slate))]
    known = [[value for value, _ in votes if value is not None] for votes in said]
    means = [sum(values) / len(values) if values else None for values in known]
    who = _who([{by for _, by in votes} for votes in said])
    if heard.people.asks == "thumbs" and heard.people.votes == 1:
        return {"label": labels([None if mean is None else bool(mean) for mean in means]), "annotator": who}
    return {"score": scores(means), "annotator": who}


def _who(names: Sequence[set[str]]) -> Feedback:
    return Feedback("id", tuple("+".join(sorted(some)) or None for some in names))


def answered(judge: Judge, slates: Iterable[Slate], run: Any) -> Judge:
    """The judge with what people said in the place of the people in it; LabelsWanted where they have not said it yet.

    A judge without people in it comes back as it is. The queue is in the run's directory (of several processes, in the
    one they share).
    """
    asked = list(dict.fromkeys(_people_in(judge)))
    if not asked:
        return judge
    where = Path(getattr(run, "shared", run.dir))
    queue, rows = LabelQueue(where / FOLDER), list(slates)
    wanted = {people: [q for slate in rows for q in people.questions(slate)] for people in asked}
    queue.ask(q for questions in wanted.values() for q in questions)
    missing = queue.missing(q.id for questions in wanted.values() for q in questions)
    if missing:
        raise LabelsWanted(
            f"{missing:,} label{'s' * (missing != 1)} wanted",
            remedy=f"prefine label {where}, then run the same command again",
        )
    there = queue.questions()
    heard = {
        people: Heard(
            people,
            {q.id: [(there[q.id].shown[0], a.answer, a.by) for a in queue.answers(q.id)] for q in questions},
        )
        for people, questions in wanted.items()
    }
    found: Judge = _with(judge, heard)
    return found


def _people_in(part: Any) -> Iterator[People]:
    """The people in a judge that is made of judges (dataclasses, and tuples in them)."""
    if isinstance(part, People):
        yield part
    elif isinstance(part, tuple):
        for inner in part:
            yield from _people_in(inner)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        for field in dataclasses.fields(part):
            yield from _people_in(getattr(part, field.name))


def _with(part: Any, heard: Mapping[People, Heard]) -> Any:
    if isinstance(part, People):
        return heard[part]
    if isinstance(part, tuple) and any(True for _ in _people_in(part)):
        return tuple(_with(inner, heard) for inner in part)
    if dataclasses.is_dataclass(part) and not isinstance(part, type) and any(True for _ in _people_in(part)):
        changed = {f.name: _with(getattr(part, f.name), heard) for f in dataclasses.fields(part)}
        return dataclasses.replace(part, **changed)
    return part


def asks_people(judge: Any) -> bool:
    """Whether somebody has to answer before this judge says anything."""
    return any(True for _ in _people_in(judge))


def people(asks: str = "pairs", votes: int = 1, seed: int = 0) -> People:
    """People who answer in the terminal (``prefine label``) or in the web app."""
    return People(asks, votes, seed)
