"""Advice: what a data set is like, and three methods that suit it, each with the reason and the command.

``look`` measures (``Facts``); ``RULES`` is the whole of the advice, a table of (when, what to look for in the
catalogue, why). A rule names no method: it asks for facets, and the simplest system that has them and can learn
from this data is taken. So what is added to the catalogue is advised as soon as it says what it is for.

The share of wrong labels is estimated from labels given more than once: if two labels of the same pair disagree
with the rate d, one is wrong with the rate e where d = 2 e (1 - e). Where nothing is labelled twice, the share of
pairs whose preferred response has the lower score stands in for it. Else it is not known, and not guessed.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

from prefine import facets, formats
from prefine.binding.rehearsal import wanted
from prefine.catalogue import System, systems
from prefine.curating.curriculum import alike
from prefine.curating.with_values import has
from prefine.errors import InputError
from prefine.formats.lessons import goodness
from prefine.formats.readers import LESSONS
from prefine.options import of_function
from prefine.registry import Part
from prefine.slate import Contrast, Slate, prompt_text

LOOK = 20_000
"""Slates that are looked at."""

ANNOTATORS = ("annotator", "annotator_id", "annotator-id", "worker", "worker_id", "labeler", "labeller", "rater")
"""Columns that say who gave a label."""

RATIONALES = ("rationale", "reason", "explanation", "critique")
"""Columns that say why."""


@dataclass(frozen=True)
class Facts:
    """What is known of a data set. None: it does not say."""

    name: str
    slates: int
    serves: Mapping[str, int]
    """How many lessons of each form: pairs, labels, demos, lists (of three responses or more)."""
    margins: float = 0.0
    """Share of pairs that say how much better the chosen is."""
    noise: float | None = None
    noise_from: str = ""
    repeated: int = 0
    """Pairs that were labelled more than once."""
    answers: int = 0
    """Prompts with a gold answer that responses can be checked against."""
    annotators: int = 0
    annotator_column: str = ""
    longer_chosen: float | None = None
    """Share of pairs whose chosen response is the longer one (a tie counts half)."""
    length_chosen: float | None = None
    """Words, the median."""
    length_rejected: float | None = None
    similarity: float | None = None
    """Of chosen and rejected, the median: 1 the same, 0 nothing in common."""
    rationales: str = ""
    """The column that says why, if there is one."""

    @property
    def pairs(self) -> int:
        return self.serves.get("pairs", 0)

    @property
    def length_is_a_shortcut(self) -> bool:
        """Whether the share of longer winners is far from a half, by more than chance."""
        if self.longer_chosen is None or self.pairs < 20:
            return False
        return self.longer_chosen - 0.5 > max(0.1, 2 * 0.5 / math.sqrt(self.pairs))


@dataclass(frozen=True)
class Rule:
    """When the condition holds, a system with these facets, because."""

    when: Callable[[Facts], bool]
    seek: Mapping[str, str]
    why: str
    """With the facts in braces."""
    options: Callable[[Facts], Mapping[str, Any]] = field(default=lambda facts: {})
    """Options for the command, as far as the system has them."""
    uses: str = ""
    """An input that the system must take and the data serves beside lessons: verifier (prompts with answers)."""


RULES: tuple[Rule, ...] = (
    Rule(lambda f: not f.pairs and bool(f.serves.get("labels")), {"data": "labels"},
         "there are single responses labelled good or bad, and no pairs"),
    Rule(lambda f: not f.pairs and not f.serves.get("labels"), {"data": "demos"},
         "there are good responses alone: they can be imitated, and nothing says what to avoid"),
    Rule(lambda f: f.answers > 0.5 * f.slates, {"learning": "online", "data": "rewards"},
         "{answers:,} prompts have an answer to check against: its own samples can be told right from wrong, for "
         "nothing",
         uses="verifier"),
    Rule(lambda f: f.answers > 0.5 * f.slates, {"learning": "online"},
         "it learns from the same check in another way: two to compare", uses="verifier"),
    Rule(lambda f: bool(f.rationales), {"data": "rationales"},
         "the column {rationales!r} says why a response was preferred, which is more than a label"),
    Rule(lambda f: f.annotators > 1, {"data": "diverse-pairs"},
         "{annotators} annotators gave the labels ({annotator_column}): they are not equally reliable, or do not want "
         "the same",
         lambda f: {"annotator": f.annotator_column}),
    Rule(lambda f: (f.noise or 0.0) >= 0.03, {"data": "noisy-pairs", "question": "implicit-reward"},
         "about {noise:.0%} of the labels are wrong ({noise_from})",
         lambda f: {"eps": round(min(f.noise or 0.0, 0.45), 3)}),
    Rule(lambda f: f.serves.get("lists", 0) > 0.5 * f.slates, {"data": "lists"},
         "most prompts have three responses or more: a pair of each would leave out what lies between"),
    Rule(lambda f: f.length_is_a_shortcut, {"length": "penalised, normalised", "loss": "logistic"},
         "the chosen response is the longer one in {longer_chosen:.0%} of pairs: a policy can win by length alone"),
    Rule(lambda f: f.margins > 0.9, {"data": "graded-pairs", "question": "implicit-reward"},
         "{margins:.0%} of the pairs say how much better the chosen is"),
    Rule(lambda f: (f.similarity or 0.0) > 0.6, {"granularity": "token, step"},
         "chosen and rejected have {similarity:.0%} in common: what decides is a few tokens"),
    Rule(lambda f: (f.similarity or 0.0) > 0.6, {"likelihood": "guarded"},
         "chosen and rejected have {similarity:.0%} in common, so pushing one down takes the other along"),
    Rule(lambda f: 0 < f.pairs < 1000, {"loss": "squared", "data": "pairs"},
         "{pairs} pairs are few: a loss with a finite target does not run away when they are seen many times"),
    Rule(lambda f: f.pairs > 0, {"question": "implicit-reward", "data": "pairs"},
         "it is cheap and stable, and what everything else is measured against"),
    Rule(lambda f: f.pairs > 0, {"reference": "none", "data": "pairs"},
         "it needs no reference model: half the memory, and nothing to compute beforehand"),
    Rule(lambda f: f.pairs > 0, {"likelihood": "guarded", "data": "pairs"},
         "it keeps the chosen responses likely, which a pair loss alone does not promise"),
    Rule(lambda f: bool(f.serves.get("labels")), {"data": "labels"}, "every response can be read as good or bad"),
    Rule(lambda f: bool(f.serves.get("demos")), {"data": "demos"}, "imitating the good responses is the first step"),
)  # fmt: skip
"""In order of urgency: the first three that find a system make the advice."""


@dataclass(frozen=True)
class Advised:
    """One method, why, and how to run it on this data."""

    system: System
    why: str
    options: Mapping[str, Any]
    data: str
    judge: str = ""

    @property
    def command(self) -> str:
        flags = "".join(f" --{name.replace('_', '-')} {value}" for name, value in self.options.items())
        return f"prefine run {self.system.key} --model MODEL --data {shlex.quote(self.data)}{self.judge}{flags}"

    @property
    def method(self) -> str:
        """As ``prefine compare`` takes it."""
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return shlex.quote(f"{self.system.key}({options})" if options else self.system.key)


def advise(facts: Facts, count: int = 3) -> list[Advised]:
    """The first methods that the rules find for these facts."""
    found: list[Advised] = []
    for rule in RULES:
        if len(found) == count:
            break
        if not rule.when(facts):
            continue
        able = [s for s in suited(facts, rule.seek, rule.uses) if s.key not in {a.system.key for a in found}]
        if able:
            about = {**vars(facts), "pairs": facts.pairs}
            options = {name: value for name, value in rule.options(facts).items() if name in able[0].options}
            judge = f" --judge {rule.uses}" if rule.uses else ""
            found.append(Advised(able[0], rule.why.format(**about), options, facts.name, judge))
    return found


def together(advised: Sequence[Advised]) -> str:
    """The command that compares them."""
    judge = next((a.judge for a in advised if a.judge), "")
    names = " ".join(a.method for a in advised)
    return f"prefine compare {names} --model MODEL --data {shlex.quote(advised[0].data)}{judge}"


def suited(facts: Facts, seek: Mapping[str, str], uses: str = "") -> list[System]:
    """Systems that have these facets and need nothing that the data lacks, the simplest first: those that differ
    from DPO in the fewest other ways. ``uses``: an input that they must take, with prompts of the data."""
    served = {form for form, count in facts.serves.items() if count} | {"policy"}
    served |= {"prompts", uses} if uses else set()
    able = [
        s for s in systems() if facets.fits(s.facets, seek) and _learns(s, served) and (not uses or uses in s.inputs)
    ]
    return sorted(able, key=lambda s: (len(s.facets.keys() - seek.keys()), s.number is not None, s.number or 0, s.key))


def _learns(system: System, served: set[str]) -> bool:
    """Whether it makes a policy from what is there with its usual options. Measurements and blocks of any parts are
    left out: they are no method."""
    options = of_function(system.recipe)
    if system.family in ("reward", "evaluation") or (
        system.number is None and any(o.type is Part for o in options.values())
    ):
        return False
    asked = wanted(system, {name: option.default for name, option in options.items()}, frozenset(system.optional))
    needed = set(system.inputs) - set(system.optional) | asked
    return needed <= served and bool(set(system.inputs) & served - {"policy"})


# --- looking ----------------------------------------------------------------------------------------------


def look(path: str | Path, format: str | None = None, columns: Mapping[str, str] | None = None) -> Facts:
    """Read the data once (its first 20,000 slates) and say what it is like."""
    data = formats.read_for_training(path, format, on_problem="skip", columns=columns)
    slates = list(islice(iter(data), LOOK))
    facts = facts_of(slates, str(path))
    if not any(facts.serves.values()) and not facts.answers:
        raise InputError(
            "this data teaches nothing: no pairs, labels, good responses or answers to check",
            remedy=f"`prefine data check {path}` says what is in it",
            file=path,
        )
    return facts


def facts_of(slates: list[Slate], name: str = "DATA") -> Facts:
    """The facts of slates that were read."""
    serves = {form: sum(1 for _ in give(iter(slates))) for form, give in LESSONS.items() if form != "lists"}
    serves["lists"] = sum(len(set(goodness(slate).values())) > 2 for slate in slates)
    pairs = list(formats.pairs_of(slates))
    noise, how, repeated = noise_of(pairs)
    column, annotators = _annotators(slates)
    words = [[len(c.response(member).split()) for member in (0, 1)] for c in pairs]
    lengths = [[len(c.response(member)) for member in (0, 1)] for c in pairs]  # not all languages have spaces
    return Facts(
        name=name,
        slates=len(slates),
        serves=serves,
        margins=fmean(has(c, "margin") or has(c, "rating_gap") for c in pairs) if pairs else 0.0,
        noise=noise,
        noise_from=how,
        repeated=repeated,
        answers=sum(slate.meta.get("answer") is not None for slate in slates),
        annotators=annotators,
        annotator_column=column,
        longer_chosen=fmean((w > l) + 0.5 * (w == l) for w, l in lengths) if lengths else None,
        length_chosen=median(w for w, _ in words) if words else None,
        length_rejected=median(l for _, l in words) if words else None,
        similarity=median(alike(c.response(0), c.response(1)) for c in pairs[:2000]) if pairs else None,
        rationales=_column(slates, RATIONALES),
    )


def noise_of(pairs: Iterable[Contrast]) -> tuple[float | None, str, int]:
    """(share of wrong labels, what that is from, pairs labelled more than once): see the module."""
    said: dict[tuple[str, frozenset[str]], list[str]] = defaultdict(list)
    against, scored = 0, 0
    for pair in pairs:
        said[prompt_text(pair.prompt(0)), frozenset((pair.response(0), pair.response(1)))].append(pair.response(0))
        scores = pair.slate.feedback.get("score")
        if scores is not None and "preferred" in pair.slate.feedback:
            better, worse = (scores.values[m] for m in pair.members[:2])
            scored, against = scored + 1, against + (better is not None and worse is not None and better < worse)
    several = [labels for labels in said.values() if len(labels) > 1]
    couples = [a != b for labels in several for a, b in combinations(labels[:20], 2)]
    if len(couples) >= LEAST:
        rate = flip_rate(fmean(couples))
        return rate, f"{fmean(couples):.0%} of {len(couples)} couples of labels of the same pair disagree", len(several)
    if scored >= LEAST:
        return against / scored, f"that many preferred responses have the lower score, of {scored}", len(several)
    return None, "", len(several)


LEAST = 10
"""Couples of labels, or scored pairs, from which a rate is estimated."""


def flip_rate(disagreement: float) -> float:
    """e of d = 2 e (1 - e): two labels, each wrong with the rate e by itself, disagree with the rate d.

    >>> round(flip_rate(0.32), 6), flip_rate(0.7)
    (0.2, 0.5)
    """
    return (1 - math.sqrt(max(0.0, 1 - 2 * disagreement))) / 2


def _annotators(slates: Iterable[Slate]) -> tuple[str, int]:
    """(column, how many) of the people who labelled."""
    who: dict[str, Counter[str]] = defaultdict(Counter)
    for slate in slates:
        for column in ANNOTATORS:
            value = slate.meta.get(column, slate.meta.get("extra", {}).get(column))
            if value is None and column in slate.feedback and slate.feedback[column].kind == "id":
                value = next((v for v in slate.feedback[column].values if v is not None), None)
            if isinstance(value, str | int):
                who[column][str(value)] += 1
    best = max(who, key=lambda column: len(who[column]), default="")
    return best, len(who[best]) if best else 0


def _column(slates: Iterable[Slate], names: Iterable[str]) -> str:
    """The first of these columns that has a text somewhere."""
    wanted = tuple(names)
    for slate in slates:
        for name in wanted:
            texts = slate.feedback[name].values if name in slate.feedback else (slate.meta.get("extra", {}).get(name),)
            if any(isinstance(text, str) and text.strip() for text in texts):
                return name
    return ""


__all__ = ["RULES", "Advised", "Facts", "Rule", "advise", "facts_of", "look", "noise_of", "suited", "together"]
