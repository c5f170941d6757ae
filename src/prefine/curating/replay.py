"""Replay: some of the original pairs among the generated ones, on other prompts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import floor

from prefine.curating.base import Curator
from prefine.registry import between
from prefine.slate import Contrast, Slate, prompt_to_json


@dataclass(frozen=True)
class Replay:
    """What a curator finds, mixed with offline contrasts at a ratio (see ``mix``)."""

    curator: Curator
    offline: Sequence[Contrast]
    gamma: float

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        return iter(mix(list(self.curator(slates, rng)), self.offline, self.gamma, rng))


def replay_counts(offline: int, generated: int, gamma: float) -> tuple[int, int]:
    """(generated, offline) contrasts in the mixture: DICE's two formulas (arXiv 2406.09760).

    n_gen = min(floor(N_off (1 - gamma)), N_gen), n_off = floor(gamma n_gen / (1 - gamma)).

    >>> replay_counts(100, 80, 0.5), replay_counts(100, 30, 0.25), replay_counts(100, 80, 0.0)
    ((50, 50), (30, 10), (80, 0))
    """
    between(0, 1, gamma=gamma)
    n_generated = min(floor(offline * (1 - gamma) + 1e-9), generated)
    return n_generated, floor(gamma * n_generated / (1 - gamma) + 1e-9)


def mix(generated: Sequence[Contrast], offline: Sequence[Contrast], gamma: float, rng: random.Random) -> list[Contrast]:
    """A random mixture in which offline contrasts have the share gamma and no prompt of a generated one.

    One contrast a prompt; in random order. If too few offline prompts are left over, all of them are taken.
    Values that not all contrasts have are dropped, as nothing could be learnt from them consistently.
    """
    unique = _one_a_prompt(generated, rng, set())
    n_generated, n_offline = replay_counts(len(offline), len(unique), gamma)
    first = unique[:n_generated]
    taken = {_prompt(contrast) for contrast in first}
    second = _one_a_prompt(offline, rng, taken)[:n_offline]
    mixed = [*first, *second]
    rng.shuffle(mixed)
    return _common_values(mixed)


def _one_a_prompt(contrasts: Sequence[Contrast], rng: random.Random, without: set[str]) -> list[Contrast]:
    order = list(range(len(contrasts)))
    rng.shuffle(order)
    found = dict.fromkeys(without)
    kept = []
    for contrast in (contrasts[i] for i in order):
        if _prompt(contrast) not in found:
            found[_prompt(contrast)] = None
            kept.append(contrast)
    return kept


def _prompt(contrast: Contrast) -> str:
    """The prompt itself: in two files the same one may have two ids."""
    return json.dumps(prompt_to_json(contrast.slate.prompt), sort_keys=True)


def _common_values(contrasts: list[Contrast]) -> list[Contrast]:
    if not contrasts:
        return []
    names = set.intersection(*(set(c.values) for c in contrasts))
    return [replace(c, values={n: v for n, v in c.values.items() if n in names}) for c in contrasts]


def replay_mix(curator: Curator, offline: Sequence[Contrast], gamma: float = 0.5) -> Replay:
    """A curator whose contrasts are mixed with offline ones."""
    between(0, 1, gamma=gamma)
    return Replay(curator, offline, gamma)
