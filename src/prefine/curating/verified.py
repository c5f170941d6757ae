"""Pairs from checks: right against wrong, and most voted against least voted when nobody knows."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prefine.curating.base import Curator
from prefine.curating.reading import column, of_role, tokens
from prefine.registry import at_least, between
from prefine.slate import Contrast, Slate, pair

RIGHT, WRONG, MALFORMED = 1, 0, -1


@dataclass(frozen=True)
class VerifiedPairs:
    """Rules 3 and 4 of iterative DPO with verifiable rewards (arXiv 2503.12854).

    Chosen: the longest right answer of fewer than ``max_tokens`` tokens (the longest right one if none is);
    without a right one the longest wrong one; else none. Rejected: a random malformed answer; without one a
    random wrong one; if the chosen is itself wrong, a random one of the other wrong ones; else none.
    """

    by: str = "verified"
    max_tokens: int = 2048

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            picked = self.pick(slate, rng)
            if picked is not None:
                yield pair(slate, *picked)

    def pick(self, slate: Slate, rng: random.Random) -> tuple[int, int] | None:
        verdicts = column(slate, self.by)
        right, wrong, malformed = (
            [i for i, v in verdicts.items() if v == level] for level in (RIGHT, WRONG, MALFORMED)
        )
        short = [i for i in right if tokens(slate, i) < self.max_tokens]
        candidates = short or right or wrong
        if not candidates:
            return None
        chosen = max(candidates, key=lambda i: (tokens(slate, i), -i))
        others = malformed or [i for i in wrong if i != chosen]
        return (chosen, rng.choice(others)) if others else None


@dataclass(frozen=True)
class CorrectPairs:
    """A random right answer against a random one that is not, with weight 1 (the supervised half of ScPO)."""

    by: str = "verified"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            verdicts = column(slate, self.by)
            right = [i for i, v in verdicts.items() if v >= RIGHT]
            others = [i for i, v in verdicts.items() if v < RIGHT]
            if right and others:
                yield pair(slate, rng.choice(right), rng.choice(others), weight=1.0)


@dataclass(frozen=True)
class VotePairs:
    """Most voted against least voted (self-consistency preference optimisation, arXiv 2411.04109).

    V(y) is the column ``by``: the votes for y's final answer among the k responses of the role ``voters``
    (None: all). A prompt is kept when V(y+) >= tau k; its weight is (V(y+) - V(y-))/k; equal votes give no
    pair (their weight would be 0). Which of several with the same votes is taken is random. The chosen is
    always a voter; the others only add to those that can be rejected.
    """

    tau: float = 0.5
    by: str = "votes"
    voters: str | None = None

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            votes = column(slate, self.by)
            voting = of_role(slate, votes, self.voters)
            k = len(voting)
            most, least = max(voting.values(), default=0.0), min(votes.values(), default=0.0)
            # A hair of tolerance: 0.7 * 10 is not 7 in floating point.
            if not voting or most == least or most < self.tau * k - 1e-9:
                continue
            chosen = rng.choice([i for i, v in voting.items() if v == most])
            rejected = rng.choice([i for i, v in votes.items() if v == least])
            yield pair(slate, chosen, rejected, weight=(most - least) / k)


@dataclass(frozen=True)
class CheckedElse:
    """Slates that were checked against a gold answer give right-against-wrong pairs; the others go to ``votes``.

    The semi-supervised form of ScPO: w = 1 where the answer is known, the vote margin where it is not.
    """

    votes: Curator
    by: str = "verified"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            yield from (CorrectPairs(self.by) if column(slate, self.by) else self.votes)([slate], rng)


@dataclass(frozen=True)
class Concentrated:
    """Only the slates whose most voted answer has a share of at least tau: which new problems to keep."""

    tau: float = 0.5
    by: str = "votes"

    def __call__(self, slates: Iterable[Slate]) -> Iterator[Slate]:
        for slate in slates:
            votes = column(slate, self.by)
            if votes and max(votes.values()) >= self.tau * len(votes) - 1e-9:
                yield slate


def verified_pairs(by: str = "verified", max_tokens: int = 2048) -> VerifiedPairs:
    """Longest right answer against a malformed or wrong one, with fallbacks."""
    at_least(1, max_tokens=max_tokens)
    return VerifiedPairs(by, max_tokens)


def correct_pairs(by: str = "verified") -> CorrectPairs:
    """A random right answer against a random one that is not."""
    return CorrectPairs(by)


def checked_else(votes: Curator, by: str = "verified") -> CheckedElse:
    """Right against wrong where the answer is known, another curator's pairs where it is not."""
    return CheckedElse(votes, by)


def vote_pairs(tau: float = 0.5, by: str = "votes", voters: str | None = None) -> VotePairs:
    """Most voted against least voted, weighted by the difference."""
    between(0, 1.0000001, tau=tau)
    return VotePairs(tau, by, voters)


def concentrated(tau: float = 0.5, by: str = "votes") -> Concentrated:
    """Slates on which a share tau of the responses agrees."""
    between(0, 1.0000001, tau=tau)
    return Concentrated(tau, by)
