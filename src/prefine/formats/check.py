"""`prefine data check`: what a file is, what is in it, what is wrong with it, and what it can serve."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefine.errors import InputError
from prefine.formats.lessons import (
    demos_of,
    faults,
    labels_of,
    pairs_of,
    rankings_of,
    replies_of,
    steps_of,
    worked_answer,
)
from prefine.formats.pairs import sides_of
from prefine.formats.problems import KINDS, Problem
from prefine.formats.readers import Entry, Reader, open_reader
from prefine.formats.sources import Source, open_source
from prefine.formats.stats import Numbers, Repeats
from prefine.slate import Slate, prompt_text

LIMIT = 10
"""Findings of one kind that are shown one by one."""


@dataclass(frozen=True)
class Finding:
    """All findings of one kind: how many, and the first of them."""

    kind: str
    count: int
    examples: tuple[Problem, ...]

    @property
    def title(self) -> str:
        return KINDS[self.kind].title

    @property
    def severity(self) -> str:
        return KINDS[self.kind].severity

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "title": self.title,
            "severity": self.severity,
            "count": self.count,
            "examples": [p.to_json() for p in self.examples],
        }


@dataclass(frozen=True)
class DataReport:
    """Everything `prefine data check` knows about a file."""

    file: str
    container: str
    format: str | None
    """None: no format fits."""
    summary: str
    rows: int
    slates: int
    """Rows that can be read."""
    responses: int
    conversations: int
    """Rows whose prompt is a list of messages."""
    answers: int
    """Rows with a gold answer."""
    lengths: Mapping[str, Mapping[str, Mapping[str, float]]]
    """prompt, response, chosen, rejected -> chars, words, tokens -> n, mean, sd, min, p10, median, p90, max."""
    scores: Mapping[str, Mapping[str, float]]
    labels: Mapping[str, Mapping[str, int]]
    """Label column -> true, false, none."""
    chosen_longer: float | None
    """Share of pairs whose chosen response is the longer one (in characters)."""
    unread: Mapping[str, int]
    """Columns that are kept and have no meaning to the format -> on how many rows."""
    lessons: Mapping[str, int]
    """What it teaches: prompts, pairs, labels, demos, rankings, steps -> how many."""
    findings: tuple[Finding, ...] = field(default=())

    @property
    def broken(self) -> int:
        """Rows that cannot be read."""
        return sum(f.count for f in self.findings if f.severity == "broken")

    @property
    def ok(self) -> bool:
        """Whether every row can be read (it may still be idle)."""
        return self.format is not None and not self.broken

    def to_json(self) -> dict[str, Any]:
        row = {name: getattr(self, name) for name in self.__dataclass_fields__}
        row["findings"] = [f.to_json() for f in self.findings]
        return {**row, "broken": self.broken, "ok": self.ok, "serves": sorted(serves(self))}


def serves(report: DataReport) -> set[str]:
    """Which inputs of recipes (`catalogue.INPUTS`) this file can give by itself."""
    served = {name for name in ("prompts", "pairs", "labels", "demos") if report.lessons.get(name)}
    served |= {"lists"} if report.lessons.get("rankings") else set()
    return served | ({"verifier"} if report.answers else set())


# --- making one ------------------------------------------------------------------------------------------


class _Tally:
    """The sums behind a report."""

    def __init__(self, limit: int, tokens: Callable[[str], int] | None) -> None:
        self.limit = limit
        self.measures: dict[str, Callable[[str], int]] = {"chars": len, "words": lambda t: len(t.split())}
        if tokens is not None:
            self.measures["tokens"] = tokens
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.examples: dict[str, list[Problem]] = defaultdict(list)
        self.lengths: dict[str, dict[str, Numbers]] = defaultdict(lambda: defaultdict(Numbers))
        self.scores: dict[str, Numbers] = defaultdict(Numbers)
        self.labels: dict[str, Counter[str]] = defaultdict(Counter)
        self.lessons: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.prompts, self.whole = Repeats(), Repeats()

    def problem(self, problem: Problem) -> None:
        self.kinds[problem.kind] += 1
        if len(self.examples[problem.kind]) < self.limit:
            self.examples[problem.kind].append(problem)

    def measure(self, what: str, text: str) -> None:
        for name, of in self.measures.items():
            self.lengths[what][name].add(of(text))

    def entry(self, entry: Entry) -> None:
        slate = entry.slate
        self.counts["slates"] += 1
        self.counts["conversations"] += not isinstance(slate.prompt, str)
        self.counts["answers"] += slate.meta.get("answer") is not None
        self.unread.update(_unread(slate))
        for fault in faults(slate):
            self.problem(Problem(fault.kind, fault.message, fault.remedy, entry.file, entry.line))
        self.lessons["prompts"] += bool(prompt_text(slate.prompt).strip())
        for name, of in TEACHES.items():
            self.lessons[name] += sum(1 for _ in of(slate))
        self._texts(slate, entry.line)
        self._feedback(slate)

    def _texts(self, slate: Slate, line: int) -> None:
        prompt = prompt_text(slate.prompt)
        replies = replies_of(slate)
        self.counts["responses"] += len(replies)
        self.measure("prompt", prompt)
        sides = sides_of(slate) if len(replies) > 1 else None
        if "preferred" in slate.feedback and sides is not None:
            for name, i in zip(("chosen", "rejected"), sides):
                self.measure(name, replies[i])
        else:
            for reply in replies.values():
                self.measure("response", reply)
        if sides is not None:
            longer, shorter = (len(replies[i]) for i in sides)
            self.counts["sides"] += 1
            self.counts["longer"] += longer > shorter
        mark = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8)
        self.prompts.add(mark.digest(), line)
        for reply in replies.values():
            mark.update(b"\0" + reply.encode("utf-8", "surrogatepass"))
        self.whole.add(mark.digest(), line)

    def _feedback(self, slate: Slate) -> None:
        for name, column in slate.feedback.items():
            for value in column.values:
                if column.kind in ("score", "rank") and value is not None:
                    self.scores[name].add(value)
                elif column.kind == "label":
                    self.labels[name]["none" if value is None else "true" if value else "false"] += 1

    def repeats(self, file: str, apart: bool) -> None:
        """Rows that come again; prompts that do (where a row is meant to hold all there is on a prompt)."""
        again = set()
        for line, first in self.whole.found():
            again.add(line)
            message = f"the same prompt and responses as line {first}"
            self.problem(
                Problem("duplicate-row", message, "leave it out, unless it is meant to count twice", file, line)
            )
        for line, first in self.prompts.found() if apart else ():
            if line not in again:
                message = f"the same prompt as line {first}"
                remedy = "keep copies of a prompt on one side of any split into training and test"
                self.problem(Problem("duplicate-prompt", message, remedy, file, line))


TEACHES: Mapping[str, Callable[[Slate], Iterator[Any]]] = {
    "pairs": lambda s: pairs_of([s], _column(s)),
    "labels": lambda s: labels_of([s], _column(s)),
    "demos": lambda s: demos_of([s], _column(s)),
    "rankings": lambda s: rankings_of([s], _column(s)) if len(s) > 2 else iter(()),
    "steps": lambda s: steps_of([s]),
}


def _column(slate: Slate) -> str | None:
    """The usual column; where nothing says which of several counts, the first (the report shows them all)."""
    from prefine.formats.lessons import COLUMNS

    usual = next((c for c in COLUMNS if c in slate.feedback), None)
    return usual or next((n for n, f in slate.feedback.items() if f.kind in ("score", "label", "table")), None)


def _unread(slate: Slate) -> set[str]:
    extra = set(slate.meta.get("extra", {}))
    return extra - {"answer"} if worked_answer(slate) else extra


def check(
    path: str | Path,
    format: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    tokenizer: str | Path | None = None,
    limit: int = LIMIT,
) -> DataReport:
    """Read a file once, from beginning to end, and report. Only a file that cannot be opened is an error."""
    tally = _Tally(limit, None if tokenizer is None else _token_counter(tokenizer))
    source = open_source(path)
    reader: Reader | None = None
    try:
        reader = open_reader(path, format, columns)
    except InputError as error:
        if not _only_broken(source, tally):
            raise error
    rows = 0
    for item in reader if reader is not None else ():
        rows += 1
        if isinstance(item, Entry):
            tally.entry(item)
        else:
            tally.problem(item)
    name = reader.format.name if reader is not None else None
    tally.repeats(source.name, name != "labels")
    return _report(source, reader, tally, rows or tally.kinds.total())


def _only_broken(source: Source, tally: _Tally) -> bool:
    """Whether it is broken rows that keep the format from being told; they are tallied."""
    found = False
    for item in source:
        if isinstance(item, Problem):
            found = True
            tally.problem(item)
        else:
            return False
    return found


def _report(source: Source, reader: Reader | None, tally: _Tally, rows: int) -> DataReport:
    order = list(KINDS)
    findings = tuple(
        Finding(kind, tally.kinds[kind], tuple(tally.examples[kind])) for kind in sorted(tally.kinds, key=order.index)
    )
    sides = tally.counts["sides"]
    return DataReport(
        file=source.name,
        container=source.kind,
        format=reader.format.name if reader is not None else None,
        summary=reader.format.summary if reader is not None else "no row of it can be read",
        rows=rows,
        slates=tally.counts["slates"],
        responses=tally.counts["responses"],
        conversations=tally.counts["conversations"],
        answers=tally.counts["answers"],
        lengths={w: {m: n.summary() for m, n in by.items()} for w, by in tally.lengths.items()},
        scores={name: numbers.summary() for name, numbers in tally.scores.items()},
        labels={name: dict(counts) for name, counts in tally.labels.items()},
        chosen_longer=tally.counts["longer"] / sides if sides else None,
        unread=dict(tally.unread),
        lessons=dict(tally.lessons),
        findings=findings,
    )


def _token_counter(place: str | Path) -> Callable[[str], int]:
    """Tokens of a text under a tokenizer in a directory (nothing is downloaded, no code of it is run)."""
    if not Path(place).is_dir():
        raise InputError("is no directory with a tokenizer", remedy="name a model directory", file=place)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        what = str(error).split("\n")[0][:120]
        raise InputError(
            f"holds no tokenizer that can be loaded ({what})", remedy="name a model directory", file=place
        ) from None
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
