"""The words world: a response is a few words, and every word has a hidden grade. For claims that take seconds.

A prompt names a user and a thing, ``Ana on tea:``, and the base policy, a very small language model, writes words at
random, whoever asks. Half of the prompts that it has read may have a number or a list of instructions with them
(``curating.instructions``), of which it takes no notice, or little (``heed``). Gold is the mean grade of its words,
from 1 to 10, less 5 for shouting (a "!" in front, where calm people have a "."; only some writers have either).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

from prefine.curating.instructions import GENERATORS, Instruction, instructed
from prefine.judging.annotators import Noisy, Perfect
from prefine.judging.base import Scored
from prefine.slate import Candidate, Prompt, Slate, prompt_text, scores
from prefine.worlds.base import World
from prefine.worlds.pretrain import Settings, pretrained
from prefine.worlds.splits import draw, part

SMALL = Settings(steps=240, rows=32, width=48, layers=2, heads=4, context=96, peak_lr=5e-3, words=1200, seed=7)

GRADES: Mapping[str, int] = {
    consonant + vowel: 1 + (7 * i + 3 * j) % 10
    for i, consonant in enumerate("bdfgklmprt") for j, vowel in enumerate("aeio")
}  # fmt: skip
"""Four words of every grade."""

CALM, SHOUT = ".", "!"

USERS = ("Ana", "Ben", "Cleo", "Dev", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon", "Kim", "Leo")
THINGS = (
    "tea", "rain", "paint", "chess", "trains", "bread", "music", "boats", "maps", "wool", "clocks", "snow",
    "soup", "kites", "coins", "lamps", "roses", "drums", "masks", "ropes", "tiles", "shells", "stamps", "bells",
)  # fmt: skip

Frame = Callable[[Prompt, str, random.Random], Prompt]
"""(prompt, response, rng) -> the prompt with something more in it, that the base reads and takes no notice of."""


@cache
def _slates() -> tuple[Slate, ...]:
    asked = ((f"{user} on {thing}", user) for user, thing in product(USERS, THINGS))
    return tuple(Slate(f"{text}:", meta={"id": text, "user": user}) for text, user in asked)


@cache
def _train() -> tuple[Slate, ...]:
    return tuple(part("words", _slates(), "train"))


def prompts(split: str, n: int, seed: int = 0) -> list[Slate]:
    """n different prompts of a split."""
    return draw("words", _slates(), split, n, seed)


def gold(slate: Slate) -> list[float]:
    """The mean grade of what is written, where what is no word has grade 1, less 5 for a "!".

    >>> from prefine.slate import Candidate
    >>> gold(Slate("?", tuple(map(Candidate, (" bo da", " ! bo da", " . bo x", "")))))
    [9.0, 4.0, 5.5, 1.0]
    """
    found = []
    for i in range(len(slate)):
        text = slate.response(i)
        grades = [GRADES.get(word, 1) for word in text.replace(CALM, "").replace(SHOUT, "").split()]
        found.append((sum(grades) / len(grades) if grades else 1.0) - 5.0 * (SHOUT in text))
    return found


@dataclass(frozen=True)
class Writer:
    """Who the base imitates: a beginning, ``fewest`` to ``most`` words, all alike likely, and an end."""

    fewest: int = 5
    most: int = 5
    begins: tuple[str, ...] = ("",)
    ends: tuple[str, ...] = ("",)
    frame: Frame | None = None
    heed: float = 0.0
    """How often what is in the prompt beside the question was made for this response, and not for another."""

    def __call__(self, rng: random.Random) -> tuple[str, str]:
        response = self.response(rng)
        prompt = rng.choice(_train()).prompt
        if self.frame is not None and rng.random() < 0.5:
            prompt = self.frame(prompt, response if rng.random() < self.heed else self.response(rng), rng)
        return prompt_text(prompt), response

    def response(self, rng: random.Random) -> str:
        said = rng.choices(list(GRADES), k=rng.randint(self.fewest, self.most))
        return rng.choice(self.begins) + "".join(f" {word}" for word in said) + rng.choice(self.ends)


def base(writer: Writer, settings: Settings, cache: Path) -> Path:
    """The directory of the base policy that imitates this writer."""
    return pretrained(cache, "words", writer, settings, modules=("prefine.curating.instructions",))


def world(writer: Writer = Writer(), settings: Settings = SMALL) -> World:
    """The world with another writer, whose base is trained for longer perhaps."""
    judge = Scored(gold, "gold")
    return World(
        name="words",
        summary="a few words; gold is their mean hidden grade",
        prompts=prompts,
        gold=judge,
        annotators={"perfect": Perfect(judge), "noisy": Noisy(judge, rate=0.2)},
        base=partial(base, writer, settings),
        max_tokens=2 * writer.most + 4,
    )


# -- what stands in a prompt beside the question


def instructed_in(kinds: tuple[str, ...], most: int, prompt: Prompt, response: str, rng: random.Random) -> Prompt:
    """Up to so many instructions behind the question, all kept by the response."""
    some = rng.sample(list(kinds), rng.randint(1, most))
    return instructed(prompt, [GENERATORS[kind](response, True, rng) for kind in some])


# -- what others than the base write


def by_one_writer(prompts: Sequence[str], n: int, rng: random.Random) -> Iterator[Slate]:
    """Two single words with their grades as scores, both by the same of three writers of unlike skill."""
    for i in range(n):
        skill = rng.choice(((8, 9, 10), (5, 6, 7), (1, 2, 3, 4)))
        said = rng.sample([word for word, grade in GRADES.items() if grade in skill], 2)
        column = scores([float(GRADES[word]) for word in said])
        yield Slate(rng.choice(prompts), tuple(map(Candidate, said)), {"score": column}, {"id": str(i)})


# -- prompts that ask for more than words


def two_instructions(prompts: Sequence[Slate], kinds: Sequence[str], seed: int) -> Iterator[Slate]:
    """Each prompt with two instructions that some response follows; they are in ``meta``."""
    rng, writer = random.Random(f"two instructions {seed}"), Writer(2, 7, ends=("", ".", "?"))
    for slate in prompts:
        response = writer.response(rng)
        asked = [GENERATORS[kind](response, True, rng) for kind in rng.sample(list(kinds), 2)]
        told = [[one.check, one.argument] for one in asked]
        yield replace(slate, prompt=instructed(slate.prompt, asked), meta={**slate.meta, "asked": told})


def followed(slates: Sequence[Slate]) -> float:
    """The share of responses that follow all that ``two_instructions`` asked for."""
    return sum(
        all(Instruction(*one).holds(slate.response(i)) for one in slate.meta["asked"])
        for slate in slates for i in range(len(slate))
    ) / sum(map(len, slates))  # fmt: skip
