"""Key content, and responses with growing parts of it taken away: degrees of quality that nobody has to label.

RAKE (Rose et al. 2010): stop words and punctuation cut a text into candidate phrases; a word scores its degree (the
summed lengths of the phrases it is in) over its frequency, a phrase the sum over its words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from prefine.curating.companions import joined
from prefine.errors import InputError
from prefine.registry import at_least, one_of
from prefine.slate import Candidate, Contrast, Prompt, Slate

ENGLISH = """
a about above after again all also am an and any are as at be because been before being below between both but
by can could did do does doing down during each either else ever few for from further get had has have having he
her here hers him his how i if in into is it its itself just let me might more most must my no nor not now of off
on once only or other ought our ours out over own perhaps rather same shall she should so some such than that the
their theirs them then there these they this those through to too under until up upon us very was we were what
when where whether which while who whom why will with within without would yes yet you your yours
"""
STOP_WORDS = frozenset(ENGLISH.split())

Span = tuple[int, int]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_CUT = re.compile(r"[^\w\s'’-]|[\n\r]")


def phrases(text: str, stop_words: frozenset[str] = STOP_WORDS) -> list[tuple[str, float, list[Span]]]:
    """The candidate phrases with their scores and their places, best first (equals in the order they come).

    >>> found = phrases("compatibility of systems of linear constraints", frozenset({"of"}))
    >>> [(phrase, score) for phrase, score, _ in found]
    [('linear constraints', 4.0), ('compatibility', 1.0), ('systems', 1.0)]
    """
    runs: list[list[re.Match[str]]] = [[]]
    end = 0
    for word in _WORD.finditer(text):
        if _CUT.search(text, end, word.start()) or word[0].lower() in stop_words:
            runs.append([])
        if word[0].lower() not in stop_words:
            runs[-1].append(word)
        end = word.end()
    frequency: dict[str, int] = {}
    degree: dict[str, int] = {}
    places: dict[tuple[str, ...], list[Span]] = {}
    for run in filter(None, runs):
        words = tuple(word[0].lower() for word in run)
        places.setdefault(words, []).append((run[0].start(), run[-1].end()))
        for name in words:
            frequency[name] = frequency.get(name, 0) + 1
            degree[name] = degree.get(name, 0) + len(words)
    scored = [(" ".join(words), sum(degree[w] / frequency[w] for w in words), at) for words, at in places.items()]
    return sorted(scored, key=lambda found: -found[1])


def listed(text: str, words: frozenset[str]) -> list[tuple[str, float, list[Span]]]:
    """The words of a list that a text has, each as a phrase: for texts whose content is known to be in them."""
    places: dict[str, list[Span]] = {}
    for word in re.finditer(r"\S+", text):
        if word[0] in words:
            places.setdefault(word[0], []).append(word.span())
    return [(word, 1.0, at) for word, at in places.items()]


def without(text: str, spans: Iterable[Span]) -> str:
    """The text with parts deleted, and no double spaces where they were.

    >>> without("one two, three", [(4, 7)])
    'one, three'
    """
    kept, end = "", 0
    for start, stop in sorted(spans):
        kept, end = kept + text[end:start], stop
    lead = text[: len(text) - len(text.lstrip())]
    left = re.sub(r"\s+", " ", kept + text[end:]).strip()
    return lead + re.sub(r"\s+([,.;:!?])", r"\1", left)


@dataclass(frozen=True)
class Degraded:
    """Contrasts with degraded variants of their responses as members with role 0: see ``degraded``."""

    degrees: int
    most: float
    draw: int | None
    roles: tuple[int, ...]
    stop_words: frozenset[str]
    words: frozenset[str]

    def __call__(self, contrasts: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        some = False
        for contrast in contrasts:
            made = self._of(contrast, rng)
            some = some or len(made.members) > len(contrast.members)
            yield made
        if not some:
            raise InputError(
                f"no response has the {self.degrees - 1} key phrases that {self.degrees} degrees need",
                remedy="give fewer degrees, or words that are key content here (RAKE looks for phrases between stop "
                "words, which are English unless you give others)",
            )

    def _of(self, contrast: Contrast, rng: random.Random) -> Contrast:
        if contrast.context is not None:
            raise InputError(
                "degrees are made of whole responses, and these contrasts are of steps", remedy="give pairs"
            )
        small = contrast.compact()
        base = len(small.slate.candidates)
        texts: list[Candidate] = []
        degree, of = [-1.0] * len(small.members), [0.0] * len(small.members)
        for member, role in enumerate(small.roles):
            of[member] = float(role)
            if role in self.roles:
                for k, text in self._variants(small.response(member), rng):
                    texts.append(Candidate(text, prompt=_own_prompt(small, member), origin={"degree": k}))
                    degree.append(float(k))
                    of.append(float(role))
        wide = Slate(small.slate.prompt, (*small.slate.candidates, *texts), {}, small.slate.meta)
        more = joined(replace(small, slate=wide), range(base, base + len(texts)))
        return replace(more, values={**more.values, "degree": tuple(degree), "of": tuple(of)})

    def _variants(self, text: str, rng: random.Random) -> list[tuple[int, str]]:
        found = listed(text, self.words) if self.words else phrases(text, self.stop_words)
        if len(found) < self.degrees - 1:
            return []
        wanted = range(self.degrees)
        chosen = wanted if self.draw is None else sorted(rng.sample(wanted, min(self.draw, self.degrees)))
        made = []
        for k in chosen:
            gone = int(k / (self.degrees - 1) * len(found) * self.most + 1e-9)
            made.append((k, without(text, [span for _, _, at in found[:gone] for span in at]) if gone else text))
        return made


def _own_prompt(contrast: Contrast, member: int) -> Prompt | None:
    prompt = contrast.prompt(member)
    return None if prompt == contrast.slate.prompt else prompt


def degraded(
    degrees: int = 4,
    most: float = 1.0,
    draw: int | None = None,
    sides: str = "both",
    words: str = "",
    stop_words: str = "",
) -> Degraded:
    """Every response also with part of its key content deleted (Li et al., arXiv 2409.17791), over contrasts.

    Degree k of 0 .. degrees-1 is without the first floor(k/(degrees-1) n most) of its n key phrases, best first.
    Variants are members with role 0 and the values ``degree`` and ``of`` (which side); a response with fewer than
    degrees - 1 phrases has none. ``draw``: so many random degrees of each response, not all. ``sides``: "both" or
    "chosen". ``words``: the key content itself, with spaces between, instead of RAKE. ``stop_words``: others than
    the English ones.
    """
    at_least(2, degrees=degrees)
    at_least(0, most=most)
    if most > 1:
        raise InputError(f"most={most!r} is more than all", remedy="give the largest share that may go, up to 1")
    roles = one_of("sides", sides, {"both": (1, -1), "chosen": (1,)})
    stops = frozenset(stop_words.lower().split()) or STOP_WORDS
    return Degraded(degrees, most, draw, roles, stops, frozenset(words.split()))
