"""Pairs with instructions built around them: one response under two prompts, and one pair under two prompts.

No response is written and nobody is asked: instructions are made for responses that are there, and a program says
who follows them (``curating.instructions``). MAPL, arXiv 2505.12845.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from prefine.curating.instructions import GENERATORS, Instruction, instructed, under
from prefine.curating.reading import named
from prefine.registry import at_least, one_of
from prefine.slate import CHOSEN, REJECTED, Contrast, Slate, group

PAIR, INTRA, INTER = 0, 1, 2


@dataclass(frozen=True)
class MultiLevel:
    """Every pair, and of each one contrast within a response and one between pairs, where they can be had.

    Values: ``level`` (0 the pair, 1 within, 2 between) and ``weight``, which makes every level's mean count alike.
    """

    kinds: tuple[str, ...]
    most: int = 3
    flips: bool = True

    def __call__(self, pairs: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        found: list[tuple[int, Contrast]] = []
        for contrast in pairs:
            found.append((PAIR, replace(contrast, values={})))
            chosen, rejected = (contrast.members[contrast.roles.index(role)] for role in (CHOSEN, REJECTED))
            one = rng.choice((chosen, rejected))
            found += [(INTRA, c) for c in within(contrast.slate, one, self.kinds, self.most, rng)]
            sides = (rejected, chosen) if self.flips and rng.random() < 0.5 else (chosen, rejected)
            found += [(INTER, c) for c in between(contrast.slate, *sides, self.kinds, self.most, rng)]
        counts = Counter(level for level, _ in found)
        for level, contrast in found:
            yield replace(contrast, values={"level": float(level), "weight": len(found) / counts[level]})


def within(slate: Slate, member: int, kinds: Sequence[str], most: int, rng: random.Random) -> Iterator[Contrast]:
    """One response under two prompts with instructions of the same kinds: it follows all of the better prompt's and
    not all of the worse one's; or at least one of the better one's and none of the worse one's."""
    response = slate.response(member)
    if not response.strip():
        return
    picked = rng.sample(list(kinds), rng.randint(1, min(most, len(kinds))))
    n = len(picked)
    all_of_them = rng.random() < 0.5
    kept = n if all_of_them else rng.randint(1, n)
    worse = rng.randint(0, n - 1) if all_of_them else 0
    made = []
    for count in (kept, worse):
        follows = [True] * count + [False] * (n - count)
        rng.shuffle(follows)
        asked = [GENERATORS[kind](response, keep, rng) for kind, keep in zip(picked, follows, strict=True)]
        made.append(under(slate, member, instructed(slate.prompt_of(member), asked)))
    if made[0].prompt != made[1].prompt:
        yield group(Slate(slate.prompt, tuple(made), {}, slate.meta), (0, 1), (CHOSEN, REJECTED))


def between(
    slate: Slate, follower: int, other: int, kinds: Sequence[str], most: int, rng: random.Random
) -> Iterator[Contrast]:
    """A pair under instructions that only ``follower`` follows, against the same pair under its own prompt: its gap
    must be the larger one, whichever of the two was preferred before."""
    asked = telling_apart(slate.response(follower), slate.response(other), kinds, rng)[: rng.randint(1, most)]
    if not asked:
        return
    prompts = (instructed(slate.prompt_of(follower), asked), instructed(slate.prompt_of(other), asked))
    candidates = (
        under(slate, follower, prompts[0]),
        under(slate, other, prompts[1]),
        under(slate, follower, slate.prompt_of(follower)),
        under(slate, other, slate.prompt_of(other)),
    )
    roles = (CHOSEN, REJECTED, REJECTED, CHOSEN)
    yield group(Slate(slate.prompt, candidates, {}, slate.meta), range(4), roles)


def telling_apart(follows: str, breaks: str, kinds: Sequence[str], rng: random.Random) -> list[Instruction]:
    """Instructions that the one response follows and the other breaks, at most one of each kind, in random order."""
    found = []
    for kind in rng.sample(list(kinds), len(kinds)):
        tries = [GENERATORS[kind](follows, True, rng) for _ in range(4)] if follows.strip() else []
        apart = next((one for one in tries if not one.holds(breaks)), None)
        found += [apart] if apart else []
    return found


def multi_level(kinds: str | tuple[str, ...] = tuple(GENERATORS), most: int = 3, flips: bool = True) -> MultiLevel:
    """Pairs, responses under two prompts, and pairs under two prompts, for ``objectives.mapl``.

    kinds: of instructions (``instructions.GENERATORS``). most: instructions a prompt gets at most. flips: half of the
    pairs under two prompts are about instructions that the rejected response follows.
    """
    at_least(1, most=most)
    chosen = named(kinds)
    for kind in chosen:
        one_of("kinds", kind, GENERATORS)
    return MultiLevel(chosen, most, flips)
