"""Rationales: the reason why one response is preferred, as one more thing to say, to a prompt that shows both.

Where they come from: a text in the data, the scores of several aspects, or a model that is asked. However they came,
``with_rationales`` puts each beside its pair as a member with role 0 (see ``objectives.rationales``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from prefine.curating.companions import joined
from prefine.errors import InputError
from prefine.registry import one_of
from prefine.slate import CHOSEN, REJECTED, Candidate, Contrast, Prompt, Slate, prompt_text

ASK = """Prompt:
{prompt}

Response above:
{above}

Response below:
{below}

Which of the two responses follows the prompt better, and why?
"""
"""What a rationale answers."""

REQUEST = """Prompt:
{prompt}

Response above:
{above}

Response below:
{below}

The response above was preferred. %s
"""
REQUESTS: Mapping[str, str] = {
    "general": REQUEST % "Give the main reason in one or two sentences.",
    "specific": REQUEST % "Give the reason in one or two sentences, and name what in the two responses decides it.",
}
"""What a model is asked that is to write one."""

Source = Callable[[Contrast], str | None]


# -- where they come from


@dataclass(frozen=True)
class Told:
    """A text in the row, or a column of texts: what it says of the chosen response."""

    column: str = "rationale"

    def __call__(self, contrast: Contrast) -> str | None:
        meta = contrast.slate.meta
        said = meta.get(self.column, meta.get("extra", {}).get(self.column))
        texts = contrast.slate.feedback.get(self.column)
        if said is None and texts is not None and texts.kind == "text":
            said = texts.values[contrast.members[contrast.roles.index(CHOSEN)]]
        return said if isinstance(said, str) and said.strip() else None


OVERALL = ("score", "gold", "reward", "rating")
"""Columns that say that a response is better, and not why."""


@dataclass(frozen=True)
class FromAspects:
    """In which columns of scores the chosen response is ahead, and in which behind.

    >>> from prefine.slate import pair, scores
    >>> slate = Slate("?", (Candidate("a"), Candidate("b")), {"true": scores([1, 0]), "brief": scores([0, 1])})
    >>> FromAspects()(pair(slate, 0, 1))
    'More true, less brief.'
    """

    def __call__(self, contrast: Contrast) -> str | None:
        chosen, rejected = (contrast.members[contrast.roles.index(role)] for role in (CHOSEN, REJECTED))
        gaps: dict[str, float] = {}
        for name, column in contrast.slate.feedback.items():
            ours, theirs = column.values[chosen], column.values[rejected]
            if column.kind == "score" and name not in OVERALL and None not in (ours, theirs):
                gaps[name] = ours - theirs
        ahead = sorted((name for name, gap in gaps.items() if gap > 0), key=lambda name: -gaps[name])
        behind = sorted((name for name, gap in gaps.items() if gap < 0), key=lambda name: gaps[name])
        parts = [f"{word} {' and '.join(names)}" for word, names in (("more", ahead), ("less", behind)) if names]
        text = ", ".join(parts)
        return f"{text[0].upper()}{text[1:]}." if ahead else None


def requests(contrasts: Iterable[Contrast], kind: str = "general") -> Iterator[Slate]:
    """For every pair a prompt that asks for the reason: what to sample for ``answered``."""
    text = one_of("kind", kind, REQUESTS)
    return (Slate(_shown(contrast, text, above=CHOSEN), meta=contrast.slate.meta) for contrast in contrasts)


def answered(contrasts: Iterable[Contrast], answers: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """The pairs with the answers to their ``requests`` as the rationales in their rows."""
    for contrast, answer in zip(contrasts, answers, strict=True):
        slate = replace(contrast.slate, meta={**contrast.slate.meta, "rationale": answer.response(0).strip()})
        yield replace(contrast, slate=slate)


# -- beside their pairs


@dataclass(frozen=True)
class WithRationales:
    """Pairs with their rationales as members: see ``with_rationales``."""

    source: Source
    ask: str
    shuffled: bool

    def __call__(self, contrasts: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        found = 0
        for contrast in contrasts:
            text = self.source(contrast)
            found += text is not None
            values = {**contrast.values, "rationale": (0.0,) * len(contrast.members)}
            plain = replace(contrast, values=values)
            yield plain if text is None else self._joined(plain, text, rng)
        if not found:
            raise InputError(
                "no pair has a rationale",
                remedy='give every pair a text that says why the chosen response is better, "rationale": "...", or '
                "numbers for both responses by aspect (chosen_NAME and rejected_NAME), or have a model write them",
            )

    def _joined(self, contrast: Contrast, text: str, rng: random.Random) -> Contrast:
        above = rng.choice((CHOSEN, REJECTED)) if self.shuffled else CHOSEN
        place = f"The response {'above' if above == CHOSEN else 'below'} is better. " if self.shuffled else ""
        small = contrast.compact()
        why = Candidate(place + text, prompt=_shown(small, self.ask, above), origin={"role": "rationale"})
        wide = Slate(small.slate.prompt, (*small.slate.candidates, why), {}, small.slate.meta)
        more = joined(replace(small, slate=wide), [len(small.slate.candidates)])
        marks = (0.0,) * len(small.members) + (1.0,)
        return replace(more, values={**more.values, "rationale": marks})


def with_rationales(source: Source | None = None, ask: str = ASK, shuffled: bool = False) -> WithRationales:
    """Every pair with its rationale as a member with role 0, under a prompt made of its own and both responses, and
    the members' value ``rationale``, 1 for it (Just et al., arXiv 2407.14477). Pairs without one stay pairs.

    ask: the prompt, with {prompt}, {above} and {below}. The chosen response is above; ``shuffled``: above or below at
    random, and the rationale begins by saying which.
    """
    missing = [place for place in ("{above}", "{below}") if place not in ask]
    if missing:
        raise InputError(f"the text {ask!r} does not show {missing[0]}", remedy="write {prompt}, {above} and {below}")
    return WithRationales(source or Told(), ask, shuffled)


def need_rationales(contrasts: Iterable[Contrast], source: Source, look_at: int = 64) -> None:
    """An InputError if none of the first contrasts has a rationale."""
    list(WithRationales(source, ASK, False)(islice(contrasts, look_at), random.Random(0)))


def _shown(contrast: Contrast, text: str, above: int) -> Prompt:
    """Both responses in a text; a turn of the user where the prompt is a conversation."""
    prompt = contrast.prompt(contrast.roles.index(CHOSEN))
    said = {role: contrast.response(contrast.roles.index(role)) for role in (CHOSEN, REJECTED)}
    parts = {"{prompt}": prompt_text(prompt), "{above}": said[above], "{below}": said[-above]}
    whole = "".join(parts.get(piece, piece) for piece in _pieces(text))
    return whole if isinstance(prompt, str) else ({"role": "user", "content": whole},)


def _pieces(text: str) -> list[str]:
    """The text cut at its places, so that what is put into one is not read as another."""
    import re

    return re.split(r"(\{prompt\}|\{above\}|\{below\})", text)
