"""Words of two classes, half of which nobody ever compares. For claims about what a reward makes of unseen responses.

A text is eight words, each of the class of the word before it seven times in ten; which words belong together is all
that a language model can learn from such texts. The gold reward is how many of the words are good ones. Pairs to learn
from use half of the words of each class; the others come up only in the language model's own training.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from prefine.judging.base import Scored
from prefine.slate import Candidate, Slate
from prefine.worlds.pretrain import Settings, pretrained

LENGTH, STAY = 8, 0.7
PROMPT = "say:"
WORDS = tuple(a + b for a, b in product("bdfgklmn", "aeiou"))
GOOD, BAD = WORDS[0::2], WORDS[1::2]
HALF = len(GOOD) // 2
SEEN = (GOOD[:HALF], BAD[:HALF])
UNSEEN = (GOOD[HALF:], BAD[HALF:])
SMALL = Settings(steps=400, rows=32, width=64, layers=2, heads=4, context=16, words=400)


def spelled(rng: random.Random, classes: tuple[tuple[str, ...], tuple[str, ...]] = (GOOD, BAD)) -> str:
    """Eight words of these two classes.

    >>> spelled(random.Random(0), (("a",), ("b",)))
    ' b b b a a a a a'
    """
    which, words = rng.randrange(2), []
    for _ in range(LENGTH):
        words.append(rng.choice(classes[which]))
        which = which if rng.random() < STAY else 1 - which
    return "".join(f" {word}" for word in words)


def write(rng: random.Random) -> tuple[str, str]:
    """One text of the base's training: (prompt, response)."""
    return PROMPT, spelled(rng)


def base(cache: Path) -> Path:
    """Directory of the base policy."""
    return pretrained(cache, "classes", write, SMALL)


def good_words(slate: Slate) -> list[float]:
    """How many words of every text are good.

    >>> good_words(Slate(PROMPT, (Candidate(" ba be bi"),)))
    [2.0]
    """
    return [float(sum(word in GOOD for word in c.text.split())) for c in slate.candidates]


GOLD = Scored(good_words, "gold")


def slates(n: int, generator: str, seed: int) -> Iterator[Slate]:
    """n couples of texts with unlike rewards, of words that are compared ("seen") or of the others ("unseen")."""
    rng, made = random.Random(f"classes {generator} {seed}"), 0
    words = {"seen": SEEN, "unseen": UNSEEN}[generator]
    while made < n:
        two = tuple(Candidate(spelled(rng, words)) for _ in range(2))
        slate = Slate(PROMPT, two, meta={"id": f"{generator}-{made}", "generator": generator})
        if len(set(good_words(slate))) == 2:
            yield slate
            made += 1
