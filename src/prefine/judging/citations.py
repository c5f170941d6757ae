"""Legal answers: are the statutes they cite real, do they matter, and is what is claimed true? arXiv 2501.06521.

NHSR, the non-hallucinated statute rate, needs no model: a citation is correct when law, article and quoted content all
match one entry of a database. Relevance (0 to 10) and the truth of the claims (0 to 10, given the right statutes, the
column "laws") are grades of a language model.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from prefine.errors import InputError
from prefine.judging.language import LanguageJudge
from prefine.judging.referenced import Referenced, in_row, referenced
from prefine.slate import Feedback, Slate, scores

Columns = Mapping[str, Feedback]

PATTERN = (
    r"(?:Article|Section|Art\.|§)\s*(?P<article>\d+\w?)\s+of\s+the\s+(?P<law>[^,.:;\n]+?)"
    r"(?=[,.:;\n]|\s+(?:says|states|provides)|$)(?:[,:]?\s*(?:says|states|provides)?(?:\s+that)?[,:]?\s*"
    r"(?P<content>\"[^\"\n]*\"|[^.\n;]*))?"
)
"""Finds "Article 12 of the Tenancy Act, CONTENT." and 'Section 3 of the Sales Act says: "CONTENT"'. Groups: law,
article, content."""


@dataclass(frozen=True)
class Statute:
    """One entry of the database, or one citation."""

    law: str
    article: str
    content: str = ""

    @property
    def normal(self) -> tuple[str, str, str]:
        """What is compared: letters and digits in lower case."""
        return _plain(self.law), _plain(self.article), _plain(self.content)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def cited(text: str, pattern: str = PATTERN) -> list[Statute]:
    """Every citation in a text, in order, the same one twice if it is there twice.

    >>> [c.normal for c in cited("Under Article 3 of the Sales Act, goods go back. See Section 4 of the Water Act.")]
    [('sales act', '3', 'goods go back'), ('water act', '4', '')]
    """
    found = (match.groupdict("") for match in re.finditer(pattern, text))
    return [Statute(*(each.get(name, "").strip(' "') for name in ("law", "article", "content"))) for each in found]


@dataclass(frozen=True)
class Citations:
    """NHSR = correct citations / all citations; ``none`` where nothing is cited (None: abstain there).

    A citation without quoted content is not correct, as in the paper; with ``quoted=False`` contents are not compared.
    """

    database: tuple[Statute, ...] = field(repr=False)
    pattern: str = PATTERN
    quoted: bool = True
    none: float | None = 0.0
    name: str = "nhsr"

    @cached_property
    def known(self) -> frozenset[tuple[str, ...]]:
        return frozenset(self._compared(statute) for statute in self.database)

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [{self.name: scores([self.rate(s.response(i)) for i in range(len(s))])} for s in slates]

    def rate(self, text: str) -> float | None:
        """NHSR of one text."""
        found = cited(text, self.pattern)
        return sum(self._compared(c) in self.known for c in found) / len(found) if found else self.none

    def _compared(self, statute: Statute) -> tuple[str, ...]:
        return statute.normal if self.quoted else statute.normal[:2]


def read_statutes(path: Path | str) -> tuple[Statute, ...]:
    """A database: one JSON object a line with law (or name), article and content."""
    file = Path(path)
    remedy = 'write one object a line: {"law": "Tenancy Act", "article": "12", "content": "..."}'
    if not file.is_file():
        raise InputError(f"there is no statute database {file}", remedy=remedy, file=file)
    found = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                found.append(_statute(json.loads(line)))
            except ValueError as error:
                said = f"this is not a statute: {_why(error)}"
                raise InputError(said, remedy=remedy, file=file, line=number) from error
    if not found:
        raise InputError("this statute database is empty", remedy=remedy, file=file)
    return tuple(found)


def _statute(row: Any) -> Statute:
    """The statute of one row; a ValueError says what the row lacks."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{reprlib.repr(row)} is no object")
    given = {**row, "law": row.get("law", row.get("name"))}
    for key in ("law", "article", "content"):
        if given.get(key) is None:
            raise ValueError(f'it has no "{key}"')
        if isinstance(given[key], bool) or not isinstance(given[key], str | int | float):
            raise ValueError(f'its "{key}" is no text: {reprlib.repr(given[key])}')
    return Statute(str(given["law"]), str(given["article"]), str(given["content"]))


def _why(error: ValueError) -> str:
    """In a user's words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not written in UTF-8"
    return f"it is no JSON ({error})" if isinstance(error, json.JSONDecodeError) else str(error)


RELEVANCE = """Grade from 0 to 10 how relevant the statutes cited in the answer are to the problem. 10: exactly the
statutes that decide it; 5: the right area of law; 0: none cited, or beside the point.

Problem:
{prompt}

Answer:
{response}

Give one sentence of reasons, then end with the line "Score: <0 to 10>".
"""
TRUTH = """Grade from 0 to 10 how true the legal claims of the answer are, given the statutes that apply. 10: every
claim follows from them; 5: about half do; 0: none does, or nothing is claimed.

Problem and statutes:
{prompt}

Answer:
{response}

Give one sentence of reasons, then end with the line "Score: <0 to 10>".
"""
STATUTES = "{prompt}\n\nStatutes that apply:\n{reference}\n"


def statute_relevance(model: Any, samples: int = 1, name: str = "relevance") -> LanguageJudge:
    """Rel: a model's grade of how relevant the cited statutes are to the problem, 0 to 10."""
    return LanguageJudge(model, RELEVANCE, high=10.0, samples=samples, temperature=float(samples > 1), name=name)


def legal_truth(model: Any, laws: str = "laws", samples: int = 1, name: str = "claims") -> Referenced:
    """L_C: a model's grade of how true the claims are, 0 to 10, shown the statutes in the row's column ``laws``.

    Prompts without that column are not graded."""
    judge = LanguageJudge(model, TRUTH, high=10.0, samples=samples, temperature=float(samples > 1), name=name)
    return referenced(judge, laws, STATUTES)


def laws_of(slate: Slate, column: str = "laws") -> tuple[Statute, ...]:
    """The right statutes of a problem, as its row has them.

    >>> laws_of(Slate("x", meta={"laws": [{"law": "Sales Act", "article": "3", "content": "..."}]}))
    (Statute(law='Sales Act', article='3', content='...'),)
    """
    rows = in_row(slate, column) or ()
    return tuple(Statute(str(r.get("law", r.get("name"))), str(r["article"]), str(r["content"])) for r in rows)
