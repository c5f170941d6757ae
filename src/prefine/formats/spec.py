"""The table of formats: what each is called, what it needs, how to tell, read and write it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from prefine.errors import InputError
from prefine.formats import lists, pairs, singles, slates
from prefine.formats.parts import PROMPT_NAMES, JsonRow, missing, named
from prefine.slate import Slate


@dataclass(frozen=True)
class Format:
    """One format: rows in, slates out, and back.

    ``write(read(row))`` gives the row again, columns that no format reads included. Writing a slate that came
    from elsewhere gives as many rows as it takes (none, where the slate has nothing to say in this format).
    """

    name: str
    summary: str
    needs: tuple[tuple[str, ...], ...]
    """Columns it needs, each by the names it may have."""
    detect: Callable[[JsonRow], bool]
    read: Callable[[JsonRow], Slate]
    write: Callable[[Slate], list[dict[str, Any]]]
    example: Mapping[str, Any]

    def fits(self, row: JsonRow) -> bool:
        """Whether the row has the columns (their values may still be wrong)."""
        return all(named(row, names) is not None for names in self.needs)


_TURN = {"role": "user", "content": "2+2="}
_PROMPT = (PROMPT_NAMES,)
_SIDES = (("chosen",), ("rejected",))

FORMATS: Mapping[str, Format] = {
    f.name: f
    for f in (
        Format(
            "slates",
            "prefine's own: everything about a prompt and its responses",
            (("prompt", "slate"),),
            slates.detect_slates,
            slates.read_slates,
            slates.write_slates,
            {
                "prompt": "2+2=",
                "candidates": [{"text": "4"}, {"text": "5"}],
                "feedback": {"score": {"kind": "score", "values": [1.0, 0.0]}},
            },
        ),
        Format(
            "steps",
            "the steps of one response, each with a label",
            (*_PROMPT, ("completions",), ("labels",)),
            lists.detect_steps,
            lists.read_steps,
            lists.write_steps,
            {"prompt": "2+2+1=", "completions": ["2+2=4", "4+1=6"], "labels": [True, False]},
        ),
        Format(
            "rankings",
            "several responses with ranks (1 is best), or listed best first",
            (*_PROMPT, ("ranked", "ranks"), ("ranked", *lists.LISTS)),
            lists.detect_rankings,
            lists.read_rankings,
            lists.write_rankings,
            {"prompt": "2+2=", "responses": ["4", "four", "5"], "ranks": [1, 2, 3]},
        ),
        Format(
            "ratings",
            "several responses with scores, overall or by criterion",
            (*_PROMPT, lists.LISTS),
            lists.detect_ratings,
            lists.read_ratings,
            lists.write_ratings,
            {"prompt": "2+2=", "candidates": [{"text": "4", "score": 5.0}, {"text": "5", "score": 1.0}]},
        ),
        Format(
            "pairs",
            "a prompt with a chosen and a rejected response",
            (*_PROMPT, *_SIDES),
            pairs.detect_pairs,
            pairs.read_pairs,
            pairs.write_pairs,
            {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
        ),
        Format(
            "pairs-implicit",
            "chosen and rejected texts that both contain the prompt",
            _SIDES,
            pairs.detect_implicit,
            pairs.read_implicit,
            pairs.write_implicit,
            {
                "chosen": [_TURN, {"role": "assistant", "content": "4"}],
                "rejected": [_TURN, {"role": "assistant", "content": "5"}],
            },
        ),
        Format(
            "labels",
            "single responses labelled good or bad",
            (*_PROMPT, singles.REPLIES, ("label",)),
            singles.detect_labels,
            singles.read_labels,
            singles.write_labels,
            {"prompt": "2+2=", "completion": "4", "label": True},
        ),
        Format(
            "messages",
            "conversations that end with a good response",
            (singles.TURNS,),
            singles.detect_messages,
            singles.read_messages,
            singles.write_messages,
            {"messages": [_TURN, {"role": "assistant", "content": "4"}]},
        ),
        Format(
            "demos",
            "prompts with a good response",
            (*_PROMPT, singles.REPLIES),
            singles.detect_demos,
            singles.read_demos,
            singles.write_demos,
            {"prompt": "2+2=", "completion": "4"},
        ),
        Format(
            "prompts",
            "prompts alone, or with the gold answer",
            _PROMPT,
            singles.detect_prompts,
            singles.read_prompts,
            singles.write_prompts,
            {"prompt": "2+2=", "answer": "4"},
        ),
    )
}
"""Every format by name, the more particular ones first: the first that detects a row is the row's."""


def detect(row: JsonRow) -> Format | None:
    """The format of one row."""
    return next((f for f in FORMATS.values() if f.detect(row)), None)


def format_named(name: str) -> Format:
    if name in FORMATS:
        return FORMATS[name]
    near = get_close_matches(name, FORMATS, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"there is no data format {name!r}", remedy=f"{hint}formats: {', '.join(FORMATS)}")


def detect_all(rows: Sequence[JsonRow]) -> Format | None:
    """The format of most of these rows; of equals, the one that came first."""
    votes = Counter(f.name for f in map(detect, rows) if f is not None)
    return FORMATS[votes.most_common(1)[0][0]] if votes else None


def no_format(row: JsonRow) -> tuple[str, str]:
    """(message, remedy) for a row that no format fits, with the closest format and the misspelt names."""
    tries: dict[str, int] = {}
    for f in FORMATS.values():
        near = sum(_near(row, names) for names in f.needs)
        tries[f.name] = 2 * near - len(f.needs)
    best = FORMATS[max(tries, key=lambda n: tries[n])]
    found = ", ".join(map(str, row)) or "none"
    if tries[best.name] <= -1:
        names = "; ".join(f"{f.name}: {_needed(f.needs)}" for f in FORMATS.values() if f.name != "slates")
        return (
            f"no data format fits these columns: {found}",
            f"rename columns (--columns prompt=YOURS) to fit one of them: {names}",
        )
    error = missing(row, best.needs)
    return f"no data format fits; closest is {best.name}: {error.message}", error.remedy


SUSPECTS: Mapping[str, tuple[str, ...]] = {
    "prompts": ("chosen", "rejected", "completion", "response", "messages", "ranked", "candidates"),
    "demos": ("label",),
    "pairs-implicit": ("prompt",),
}
"""Format -> columns that would make it another; a column that looks like one of them is probably misspelt."""


def suspect(row: JsonRow, found: Format) -> tuple[str, str] | None:
    """(the row's column, the column it looks like), where a slip would silently give a poorer format."""
    for column in row:
        plain = str(column).lower().strip()
        for name in SUSPECTS.get(found.name, ()):
            sides = name in ("chosen", "rejected", "response", "completion", "ranked") and plain.startswith(name)
            slip = SequenceMatcher(None, plain, name).ratio() >= (0.8 if name == "label" else 0.85)
            if (sides or slip) and (column != name or found.name == "prompts"):
                return str(column), name
    return None


def _near(row: JsonRow, names: Iterable[str]) -> bool:
    lower = [str(c).lower().strip() for c in row]
    return any(get_close_matches(name, lower, n=1, cutoff=0.75) for name in names)


def _needed(needs: Iterable[Sequence[str]]) -> str:
    return ", ".join(dict.fromkeys(names[0] for names in needs))
