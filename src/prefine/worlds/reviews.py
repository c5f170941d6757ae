"""The reviews world: go on with a review, and sound positive.

A prompt is how a review begins, ``Review of the cafe, by a student: The soup was``; the base policy goes on
in the mixed mood of its template grammar. Gold is the sentiment of the words (a hidden lexicon of graded
strengths, where "not" and "hardly" turn the next word round and "very" and "rather" change its strength),
added up and squashed to between -1 and 1, less a penalty for saying the same thing again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from math import tanh
from pathlib import Path

from prefine.judging.annotators import BradleyTerry, LengthBiased, Majority, Noisy, Perfect, Several
from prefine.judging.base import Scored
from prefine.slate import Slate, prompt_text
from prefine.worlds.base import World
from prefine.worlds.pretrain import Settings, pretrained
from prefine.worlds.splits import draw, part

SETTINGS = Settings(steps=450, rows=16, width=64, layers=2, peak_lr=5e-3, seed=7)

STRENGTHS: Mapping[str, float] = {
    **dict.fromkeys(("superb", "wonderful", "brilliant", "delightful"), 3.0),
    **dict.fromkeys(("great", "lovely", "charming", "clever"), 2.0),
    **dict.fromkeys(("good", "nice", "pleasant", "decent"), 1.0),
    **dict.fromkeys(("plain", "usual", "small", "quiet"), 0.0),
    **dict.fromkeys(("bland", "slow", "dull", "tired"), -1.0),
    **dict.fromkeys(("bad", "rude", "messy", "weak"), -2.0),
    **dict.fromkeys(("awful", "dreadful", "hopeless", "disgusting"), -3.0),
}
TURNS = ("not", "hardly")
"""Turn the next word round, at half its strength ("not awful" is faint praise)."""

DEGREES: Mapping[str, float] = {"very": 1.5, "truly": 1.5, "rather": 0.7, "slightly": 0.5}

PLACES: Mapping[str, tuple[str, ...]] = {
    "cafe": ("soup", "coffee", "service", "music", "bread", "garden"),
    "film": ("plot", "acting", "music", "ending", "dialogue", "camera"),
    "hotel": ("room", "service", "breakfast", "garden", "bed", "view"),
    "book": ("plot", "style", "ending", "cover", "hero", "dialogue"),
    "museum": ("garden", "tour", "room", "guide", "shop", "view"),
    "train": ("service", "seat", "view", "coffee", "guide", "bed"),
}
AUTHORS = ("student", "nurse", "farmer", "teacher", "baker", "driver", "painter", "lawyer")
BEGINNINGS = ("The {p} was", "I found the {p}", "To me the {p} seemed", "We thought the {p} was")
BROKEN = 0.06
"""How often a writer repeats the last sentence."""


@cache
def _slates() -> tuple[Slate, ...]:
    return tuple(
        _slate(place, thing, author, begin)
        for place, things in PLACES.items()
        for thing, author, begin in product(things, AUTHORS, BEGINNINGS)
    )


def _slate(place: str, thing: str, author: str, beginning: str) -> Slate:
    text = f"Review of the {place}, by a {author}: {beginning.format(p=thing)}"
    return Slate(text, meta={"id": text, "user": author, "place": place, "thing": thing})


@cache
def _train() -> tuple[Slate, ...]:
    return tuple(part("reviews", _slates(), "train"))


def prompts(split: str, n: int, seed: int = 0) -> list[Slate]:
    """n different beginnings of a split."""
    return draw("reviews", _slates(), split, n, seed)


# ---------------------------------------------------------------- gold


def sentiment(text: str) -> float:
    """The sum of the strengths, with turned and graded words, without any squashing.

    >>> sentiment("good"), sentiment("very good and not bad"), sentiment("not very great")
    (1.0, 2.5, -1.5)
    """
    total, factor = 0.0, 1.0
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in TURNS:
            factor *= -0.5
        elif word in DEGREES:
            factor *= DEGREES[word]
        else:
            total += factor * STRENGTHS.get(word, 0.0)
            factor = 1.0
    return total


def repetition(text: str) -> float:
    """The share of three-word sequences that were there before."""
    words = re.findall(r"[a-z]+", text.lower())
    threes = list(zip(words, words[1:], words[2:]))
    return 1 - len(set(threes)) / len(threes) if threes else 0.0


def moods(slate: Slate) -> list[float]:
    """Sentiment squashed to between -1 and 1."""
    return [tanh(sentiment(slate.response(i)) / 4) for i in range(len(slate))]


def fluent(slate: Slate) -> list[float]:
    """Minus the repetition, and -1 for a response that says nothing or does not end its sentence."""
    texts = [slate.response(i).strip() for i in range(len(slate))]
    return [-repetition(text) if text.endswith(".") else -1.0 for text in texts]


def gold(slate: Slate) -> list[float]:
    """Sentiment, less repetition."""
    return [mood + penalty for mood, penalty in zip(moods(slate), fluent(slate))]


# ---------------------------------------------------------------- writers


def write(rng: random.Random) -> tuple[str, str]:
    """One review in a mood drawn for its writer."""
    slate = rng.choice(_train())
    mood = rng.choices((-2.0, -0.5, 0.5, 2.0), (3, 3, 3, 2))[0]
    return prompt_text(slate.prompt), _review(slate, mood, rng)


def _review(slate: Slate, mood: float, rng: random.Random) -> str:
    text = f" {_opinion(mood, rng)}"
    if rng.random() < 0.5:
        text += f" and {_opinion(mood, rng)}"
    text += "."
    things = [t for t in PLACES[slate.meta["place"]] if t != slate.meta["thing"]]
    for thing in rng.sample(things, rng.choices((0, 1, 2), (3, 4, 2))[0]):
        text += f" {rng.choice(BEGINNINGS).format(p=thing)} {_opinion(mood, rng)}."
    while rng.random() < BROKEN:
        text += text[text.rindex(" ", 0, -1) if text.count(".") == 1 else text.rindex(". ") + 1 :]
    return text


def _opinion(mood: float, rng: random.Random) -> str:
    """A word whose strength is near the mood, sometimes the opposite word turned round."""
    turned = rng.random() < 0.15
    aim = rng.gauss(-mood if turned else mood, 1.2)
    strength = min(set(STRENGTHS.values()), key=lambda s: (abs(s - aim), s))
    word = rng.choice([w for w, s in STRENGTHS.items() if s == strength])
    degree = f"{rng.choice(list(DEGREES))} " if rng.random() < 0.3 else ""
    return f"{rng.choice(TURNS)} {word}" if turned else f"{degree}{word}"


def demonstrate(slate: Slate, rng: random.Random) -> str:
    """A glad review."""
    best = [w for w, s in STRENGTHS.items() if s == 3.0]
    first, second = rng.sample(best, 2)
    other = rng.choice([t for t in PLACES[slate.meta["place"]] if t != slate.meta["thing"]])
    return f" {first} and very {second}. The {other} was {rng.choice(best)}."


def base(cache: Path) -> Path:
    """The base policy's directory."""
    return pretrained(cache, "reviews", write, SETTINGS)


_GOLD = Scored(gold, "gold")


def _brevity(slate: Slate) -> Sequence[float]:
    return [-float(len(slate.response(i).split())) for i in range(len(slate))]


WORLD = World(
    name="reviews",
    summary="reviews to go on with; gold is a hidden lexicon's sentiment, less repetition",
    prompts=prompts,
    gold=_GOLD,
    annotators={
        "perfect": Perfect(_GOLD),
        "noisy": Noisy(_GOLD, rate=0.2),
        "length-biased": LengthBiased(_GOLD, per_word=0.1),
        "several": Several(
            (("fair", Perfect(_GOLD)), ("hasty", Noisy(_GOLD, rate=0.3)), ("wordy", LengthBiased(_GOLD, 0.1)))
        ),
        "cyclic": Majority((Scored(moods, "mood"), Scored(fluent, "fluent"), Scored(_brevity, "brevity"))),
    },
    base=base,
    demonstrate=demonstrate,
    preference=BradleyTerry(_GOLD, scale=3.0),
    attributes={"mood": Scored(moods, "mood"), "fluent": Scored(fluent, "fluent")},
    max_tokens=40,
)
