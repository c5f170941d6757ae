"""The games world: small tables of preferences, solved exactly, for tabular policies.

Every prompt is a game with K actions and a table P, P[i][j] being the probability that action i is preferred
to action j (P[i][j] + P[j][i] = 1). Transitive games are Bradley-Terry tables of hidden scores and have a best
action. Cyclic ones have none: each action loses to another, and what a method should find is the von Neumann
winner, the mixture that nothing beats with more than even chances.

Gold is the probability of beating the von Neumann winner: 1/2 at most, and for a transitive game higher the
higher the hidden score. In a cyclic game every action worth playing has gold 1/2, so no reward tells what to
do there: only the judge ``preference`` does. How far a policy is from solving a game is its ``exploitability``.

A game is solved, not learnt from others, so both splits hold the same games (repeated, with other ids, when
more prompts are asked for than there are games).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import exp
from pathlib import Path

import numpy as np

from prefine.errors import InputError
from prefine.judging.annotators import LengthBiased, Noisy, Perfect, Several
from prefine.judging.base import Compared, Judge, Scored
from prefine.policies.tabular import Tabular
from prefine.slate import Feedback, Slate, scores, table
from prefine.worlds.base import World
from prefine.worlds.pretrain import made_once
from prefine.worlds.splits import check_split, fact

Table = tuple[tuple[float, ...], ...]
"""K x K win probabilities."""


@dataclass(frozen=True)
class Game:
    """One table with named actions."""

    name: str
    kind: str
    P: Table

    @property
    def actions(self) -> tuple[str, ...]:
        """Words of different lengths, so that an annotator can like the longer ones."""
        return tuple(" ".join(["move", *["very"] * (i % 3), "abcdefgh"[i]]) for i in range(len(self.P)))

    @property
    def prompt(self) -> str:
        return f"Game {self.name}"


# ---------------------------------------------------------------- solving


def best_response(P: Table | np.ndarray, pi: Sequence[float] | np.ndarray) -> int:
    """The action that beats the mixture ``pi`` most often (the first of equals)."""
    return int(np.argmax(np.asarray(P) @ np.asarray(pi)))


def exploitability(P: Table | np.ndarray, pi: Sequence[float] | np.ndarray) -> float:
    """By how much the best response wins more than even: max_a (P pi)_a - 1/2. Zero only at a solution.

    >>> round(exploitability(CYCLE, [1, 0, 0]), 9), round(exploitability(CYCLE, [2 / 9, 3 / 9, 4 / 9]), 9)
    (0.3, 0.0)
    """
    return float(np.max(np.asarray(P) @ np.asarray(pi)) - 0.5)


def von_neumann_winner(P: Table | np.ndarray) -> np.ndarray:
    """The mixture that no action beats: pi >= 0, sum 1, P pi <= 1/2.

    With A = P - 1/2 antisymmetric, a solution with support S has A_SS pi_S = 0, so the supports are tried
    from the smallest on; exact up to rounding, and meant for the few actions of these games.

    >>> [round(9 * float(p), 9) for p in von_neumann_winner(CYCLE)]
    [2.0, 3.0, 4.0]
    """
    A = np.asarray(P, dtype=float) - 0.5
    K = len(A)
    if A.shape != (K, K) or not np.allclose(A, -A.T):
        raise InputError("this is no table of preferences", remedy="P[i][j] + P[j][i] must be 1 for all i and j")
    for size in range(1, K + 1):
        for support in map(list, combinations(range(K), size)):
            system = np.vstack([A[np.ix_(support, support)], np.ones(size)])
            weights, *_ = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)
            pi = np.zeros(K)
            pi[support] = weights
            if weights.min() > -1e-12 and abs(pi.sum() - 1) < 1e-9 and (A @ pi).max() < 1e-9:
                return pi.clip(0) / pi.clip(0).sum()
    raise InputError("no solution was found for this table", remedy="perturb it a little: it is degenerate")


# ---------------------------------------------------------------- the games

CYCLE: Table = ((0.5, 0.9, 0.2), (0.1, 0.5, 0.7), (0.8, 0.3, 0.5))
"""Every action loses to another one; the von Neumann winner is (2/9, 3/9, 4/9)."""

PAPER: Table = ((0.5, 0.1, 0.9), (0.9, 0.5, 0.1), (0.1, 0.9, 0.5))
"""Rock, paper, scissors, nearly deterministic: the von Neumann winner is uniform."""


def bradley_terry_table(hidden: Sequence[float]) -> Table:
    """P[i][j] = sigmoid(hidden_i - hidden_j)."""
    return tuple(tuple(1 / (1 + exp(b - a)) for b in hidden) for a in hidden)


@cache
def games() -> Mapping[str, Game]:
    """All games by name: six transitive, six cyclic."""
    rng = random.Random("games")
    made = [
        Game(f"transitive-{i + 1}", "transitive", bradley_terry_table([rng.gauss(0, 1.5) for _ in range(3 + i % 4)]))
        for i in range(6)
    ]
    made += [Game("cyclic-1", "cyclic", CYCLE), Game("cyclic-2", "cyclic", PAPER)]
    made += [Game(f"cyclic-{i + 3}", "cyclic", _cyclic_table(rng, 3 + i)) for i in range(4)]
    return {game.name: game for game in made}


def _cyclic_table(rng: random.Random, K: int) -> Table:
    """A random table in which every action loses to some other one (drawn again until it does)."""
    while True:
        A = np.array([[round(rng.uniform(-0.4, 0.4), 2) for _ in range(K)] for _ in range(K)])
        P = 0.5 + np.triu(A, 1) - np.triu(A, 1).T
        if (P.min(axis=1) < 0.45).all() and (von_neumann_winner(P) > 1e-6).sum() > 1:
            return tuple(tuple(round(float(p), 2) for p in row) for row in P)


# ---------------------------------------------------------------- the world


@dataclass(frozen=True)
class Prompts:
    """The prompts of some kinds of game."""

    kinds: tuple[str, ...]

    def __call__(self, split: str, n: int, seed: int = 0) -> list[Slate]:
        check_split("games", split)
        here = [game for game in games().values() if game.kind in self.kinds]
        random.Random(f"games {seed}").shuffle(here)
        return [_slate(here[i % len(here)], split, i // len(here)) for i in range(n)]


def _slate(game: Game, split: str, again: int) -> Slate:
    meta = {"id": f"{game.name} {split} {again}", "game": game.name, "kind": game.kind}
    return Slate(game.prompt, meta=meta)


def _rows(slate: Slate) -> tuple[np.ndarray, list[int]]:
    """(the game's table, the action number of every candidate)."""
    game = games()[fact("games", slate, "game")]
    for i in range(len(slate)):
        if slate.response(i) not in game.actions:
            raise InputError(
                f"{slate.response(i)[:80]!r} is no action of game {game.name!r}",
                remedy=f"its actions are {', '.join(game.actions)}",
            )
    return np.array(game.P), [game.actions.index(slate.response(i)) for i in range(len(slate))]


def against_winner(slate: Slate) -> list[float]:
    """The gold score: the probability of beating the game's von Neumann winner."""
    P, actions = _rows(slate)
    return [float((P @ von_neumann_winner(P))[a]) for a in actions]


def against_all(slate: Slate) -> list[float]:
    """The mean win probability over all actions: what a reward fitted to random comparisons ranks by."""
    P, actions = _rows(slate)
    return [float(P[a].mean()) for a in actions]


def preferences(slate: Slate) -> list[list[float]]:
    """The exact K x K table of the slate's candidates."""
    P, actions = _rows(slate)
    return P[np.ix_(actions, actions)].tolist()


@dataclass(frozen=True)
class Uniform:
    """An annotator with both columns: the exact table, and as score the mean win probability over all actions."""

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [{"preference": table(preferences(s)), "score": scores(against_all(s))} for s in slates]


def base(cache: Path) -> Path:
    """A policy close to uniform on every game (logits of N(0, 0.1), the same every time)."""

    def make(directory: Path) -> None:
        rng = np.random.default_rng(7)
        width = max(len(game.P) for game in games().values())
        everything = list(games().values())
        logits_PA = 0.1 * rng.standard_normal((len(everything), width))
        Tabular([g.prompt for g in everything], [g.actions for g in everything], logits_PA).save(directory)

    return made_once(cache, "games", make, (__name__,))


def make_world(name: str, kinds: tuple[str, ...], summary: str) -> World:
    """The world, or one of its halves."""
    score: Judge = Scored(against_all, "gold")
    return World(
        name=name,
        summary=summary,
        prompts=Prompts(kinds),
        gold=Scored(against_winner, "gold"),
        annotators={
            "perfect": Perfect(score),
            "noisy": Noisy(score, rate=0.2),
            "length-biased": LengthBiased(score, per_word=0.1),
            "several": Several(
                (("fair", Perfect(score)), ("hasty", Noisy(score, 0.3)), ("wordy", LengthBiased(score, 0.2)))
            ),
            "cyclic": Uniform(),
        },
        base=base,
        preference=Compared(preferences),
        max_tokens=1,
    )


WORLD = make_world(
    "games", ("transitive", "cyclic"), "tables of preferences, transitive and cyclic, solved by tabular policies"
)

VARIANTS: Mapping[str, World] = {
    "transitive": make_world("games:transitive", ("transitive",), "tables of preferences with a best action"),
    "cyclic": make_world("games:cyclic", ("cyclic",), "tables of preferences without a best action"),
}
