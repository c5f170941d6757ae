"""The spelling world: the radio word of every letter. For models that are asked for more than an answer.

A prompt names five letters, ``Spell K T E A R:``; a response says their words, `` kilo tango echo alpha romeo``. Every
word has misspellings; gold is the share of the letters that have their word, well spelt, in its place. The base policy
has read a crowd that is right half of the time, and three other kinds of lines, in which the prompt

- goes on with an answer and ``good?`` (``JUDGE``): `` Yes`` where most words are right, `` No`` where few are;
- goes on with an answer and ``better:`` (``REFINE``): the same answer with some words anew, no better than the first;
- begins with ``good`` or ``bad``: an answer whose words are right three times in four, or once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

from prefine.judging.annotators import BradleyTerry, LengthBiased, Majority, Noisy, Perfect, Several
from prefine.judging.base import Scored
from prefine.judging.classifier import classifier
from prefine.judging.language import SelfJudge, YesProbability
from prefine.slate import Slate
from prefine.worlds.base import World
from prefine.worlds.pretrain import Settings, pretrained
from prefine.worlds.splits import draw, fact, part

WORDS = {
    "A": ("alpha", "elpha", "alfo"), "B": ("bravo", "brevo", "bravu"), "D": ("delta", "dalta", "delto"),
    "E": ("echo", "acho", "echu"), "G": ("golf", "gulf", "galf"), "H": ("hotel", "hutel", "hotal"),
    "K": ("kilo", "kelo", "kila"), "L": ("lima", "lema", "limo"), "O": ("oscar", "ascar", "oscer"),
    "P": ("papa", "pepa", "papo"), "R": ("romeo", "rameo", "romea"), "T": ("tango", "tengo", "tangu"),
}  # fmt: skip
"""Letter -> its word, and what people write instead."""

ASKED, FIRST = 5, 3
JUDGE = "{prompt}{response} good?"
REFINE = "{prompt}{previous} better:"
KEPT = 0.6
PRINCIPLES = {"good": 0.75, "bad": 0.25}

SETTINGS = Settings(steps=600, rows=32, width=64, layers=2, seed=11, context=96, peak_lr=6e-3, prompt_every=1000)


@cache
def _slates() -> tuple[Slate, ...]:
    return tuple(
        Slate(f"Spell {' '.join(letters)}:", meta={"id": "".join(letters), "letters": "".join(letters)})
        for chosen in combinations(WORDS, ASKED)
        for letters in (chosen, chosen[::-1], chosen[2:] + chosen[:2])
    )


@cache
def _train() -> tuple[Slate, ...]:
    return tuple(part("spelling", _slates(), "train"))


def prompts(split: str, n: int, seed: int = 0) -> list[Slate]:
    """n different prompts of a split."""
    return draw("spelling", _slates(), split, n, seed)


def said(letters: Sequence[str], right: float, rng: random.Random) -> str:
    """An answer in which every word is right with this probability."""
    return "".join(f" {WORDS[a][0] if rng.random() < right else rng.choice(WORDS[a][1:])}" for a in letters)


def share(letters: Sequence[str], response: str) -> float:
    """The share of right words; every word too many is a wrong one.

    >>> share("KT", " kilo tengo"), share("KT", " tango kilo"), share("KT", " kilo tango echo echo")
    (0.5, 0.0, 0.5)
    """
    heard = response.split()
    right = sum(word == WORDS[letter][0] for word, letter in zip(heard, letters, strict=False))
    return right / max(len(letters), len(heard))


def write(rng: random.Random) -> tuple[str, str]:
    """One line of what the base policy has read."""
    slate = rng.choice(_train())
    letters, prompt = slate.meta["letters"], str(slate.prompt)
    kind = rng.choices(("answer", "judge", "refine", "principle"), (25, 25, 25, 25))[0]
    if kind == "answer":
        return prompt, said(letters, 0.5, rng)
    if kind == "principle":
        word = rng.choice(list(PRINCIPLES))
        return f"{word} {prompt}", said(letters, PRINCIPLES[word], rng)
    shown = said(letters, rng.choice((0.2, 0.5, 0.8)), rng)
    if kind == "refine":
        anew = zip(shown.split(), said(letters, 0.5, rng).split(), strict=True)
        words = [old if rng.random() < KEPT else new for old, new in anew]
        return REFINE.format(prompt=prompt, previous=shown), "".join(f" {word}" for word in words)
    return JUDGE.format(prompt=prompt, response=shown), " Yes" if share(letters, shown) > 0.5 else " No"


def demonstrate(slate: Slate, rng: random.Random) -> str:
    """Every word right."""
    return said(slate.meta["letters"], 1.0, rng)


def _gold(slate: Slate) -> list[float]:
    letters = fact("spelling", slate, "letters")
    return [share(letters, slate.response(i)) for i in range(len(slate))]


def _first(slate: Slate) -> list[float]:
    """Of the first three letters alone."""
    letters = fact("spelling", slate, "letters")[:FIRST]
    return [share(letters, " ".join(slate.response(i).split()[:FIRST])) for i in range(len(slate))]


def _last(slate: Slate) -> list[float]:
    """Of the letters after them."""
    letters = fact("spelling", slate, "letters")[FIRST:]
    return [share(letters, " ".join(slate.response(i).split()[FIRST:])) for i in range(len(slate))]


def _brevity(slate: Slate) -> list[float]:
    return [-float(len(slate.response(i))) for i in range(len(slate))]


def base(cache: Path) -> Path:
    """The base policy's directory."""
    return pretrained(cache, "spelling", write, SETTINGS)


GOLD = Scored(_gold, "gold")
_JUDGE = classifier(None, JUDGE, " Yes", " No", chat=False)

WORLD = World(
    name="spelling",
    summary="radio words for five letters; a base that can also judge, refine, and be good or bad when asked",
    prompts=prompts,
    gold=GOLD,
    annotators={
        "perfect": Perfect(GOLD),
        "noisy": Noisy(GOLD, rate=0.2),
        "length-biased": LengthBiased(GOLD, per_word=0.1),
        "several": Several(
            (("fair", Perfect(GOLD)), ("hasty", Noisy(GOLD, rate=0.3)), ("wordy", LengthBiased(GOLD, per_word=0.1)))
        ),
        "cyclic": Majority((Scored(_first, "first"), Scored(_last, "last"), Scored(_brevity, "brevity"))),
    },
    base=base,
    demonstrate=demonstrate,
    preference=BradleyTerry(GOLD, scale=5.0),
    attributes={"first": Scored(_first, "first"), "last": Scored(_last, "last")},
    judges={
        "self:yes": SelfJudge(YesProbability(None, JUDGE, " Yes", " No", chat=False)),
        "classifier": _JUDGE,
        "classifier:self": _JUDGE,
    },
    max_tokens=8,
)
