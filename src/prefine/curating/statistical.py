"""Statistical rejection sampling: from many candidates a few that are as good as drawn from the optimal policy.

arXiv 2309.06657. With proposals from pi and a reward r, accepting y with probability exp((r(y) - r_max)/beta)
gives samples of pi(y) exp(r(y)/beta)/Z, the maximiser of E[r] - beta KL. Pairs for a direct objective should come
from there. ``sampling.rejection_sampled`` is the same with replacement, as points to fine-tune on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefine.curating.reading import column
from prefine.curating.win_rates import preferences
from prefine.errors import InputError
from prefine.registry import at_least, one_of
from prefine.slate import OTHER, Contrast, Slate, group, pair


def accept(rewards: Mapping[int, float], n: int, beta: float, rng: random.Random) -> list[int]:
    """n of the candidates, without replacement, in the order they were accepted.

    Sweeps over the pool in order; in a sweep candidate c is accepted when u < exp((r_c - r_max)/beta), r_max the
    best of the pool at the start of the sweep; the accepted leave the pool after it. Ends with n, or with an empty
    pool. beta -> infinity accepts the first n, beta -> 0 the n best.

    >>> accept({0: 1.0, 1: 3.0, 2: 2.0}, 2, 1e-9, random.Random(0)), accept({0: 1.0, 1: 3.0}, 1, 1e9, random.Random(0))
    ([1, 2], [0])
    """
    pool = dict(rewards)
    accepted: list[int] = []
    while pool and len(accepted) < n:
        r_max = max(pool.values())
        swept = []
        for candidate, r in pool.items():
            if rng.random() < acceptance(r, r_max, beta):
                swept.append(candidate)
                if len(accepted) + len(swept) == n:
                    break
        accepted += swept
        for candidate in swept:
            del pool[candidate]
    return accepted


def acceptance(r: float, r_max: float, beta: float) -> float:
    """exp((r - r_max)/beta); beta = 0 accepts the best alone."""
    return 1.0 if r == r_max else math.exp((r - r_max) / beta) if beta else 0.0


@dataclass(frozen=True)
class Accepted:
    """The accepted candidates of every slate as one contrast without sides, distinct texts only."""

    n: int
    beta: float
    by: str = "reward"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            first = {slate.response(i): i for i in reversed(values)}  # of equal texts the first is a candidate
            kept = accept({i: values[i] for i in sorted(first.values())}, self.n, self.beta, rng)
            if len(kept) > 1:
                yield group(slate, kept, (OTHER,) * len(kept))


Pairing = Callable[[Sequence[int], Callable[[int, int], int | None]], Iterator[tuple[int, int]]]
"""(responses in random order, who wins) -> (chosen, rejected) pairs."""


def first_round(players: Sequence[int], winner: Callable[[int, int], int | None]) -> Iterator[tuple[int, int]]:
    """n/2 disjoint pairs; a draw gives none."""
    for one, other in zip(players[::2], players[1::2], strict=False):
        won = winner(one, other)
        if won is not None:
            yield (one, other) if won == one else (other, one)


def tournament(players: Sequence[int], winner: Callable[[int, int], int | None]) -> Iterator[tuple[int, int]]:
    """Winners go on until one is left: n - 1 pairs. Of a draw, which gives no pair, the first goes on."""
    while len(players) > 1:
        ahead = []
        for one, other in zip(players[::2], players[1::2], strict=False):
            won = winner(one, other)
            ahead.append(one if won is None else won)
            if won is not None:
                yield (one, other) if won == one else (other, one)
        players = ahead + list(players[len(players) - len(players) % 2 :])


PAIRINGS: Mapping[str, Pairing] = {"first-round": first_round, "tournament": tournament}


@dataclass(frozen=True)
class Drawn:
    """The responses of a slate in random order, paired by a rule, labelled by a table of preferences."""

    pairing: Pairing
    table: str = "preference"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            P = preferences(slate, self.table)
            players = list(slate.leaves())
            rng.shuffle(players)

            def winner(one: int, other: int, P: Sequence[Sequence[float]] = P) -> int | None:
                p = P[one][other]
                return None if p == 0.5 else one if p > 0.5 else other

            yield from (pair(slate, w, l) for w, l in self.pairing(players, winner))


def accepted(n: int = 8, beta: float = 0.5, by: str = "reward") -> Accepted:
    """n candidates of a slate by statistical rejection sampling on a column of rewards (beta 0: the best n)."""
    at_least(2, n=n)
    if not beta >= 0:
        raise InputError(f"beta={beta!r} is no temperature", remedy="give beta of at least 0 (inf: no rejection)")
    return Accepted(n, beta, by)


def drawn_pairs(pairing: str = "first-round", table: str = "preference") -> Drawn:
    """Random pairs of a slate's responses, "first-round" (disjoint) or "tournament", labelled by a table."""
    return Drawn(one_of("pairing", pairing, PAIRINGS), table)


def alone(contrasts: Iterable[Contrast]) -> Iterator[Slate]:
    """The members of every contrast as a slate of their own, without feedback: to be judged among themselves."""
    for contrast in contrasts:
        small = contrast.slate.take(contrast.members)
        yield Slate(small.prompt, small.candidates, meta=small.meta)
