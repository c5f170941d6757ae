"""One prompt whose responses come in kinds: many ways to say the same. For claims about which responses to look at.

The policy is log-linear, its start uniform: a response's features are its kind and, weaker, itself, so that what is
learnt of one response holds for those like it. Texts of a kind share their words, so that a look at the words tells
kinds apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefine.judging.base import Judge, Scored
from prefine.policies.tabular import Tabular
from prefine.slate import Slate

PROMPT = "choose"
SAYINGS = (
    "calls the reader names and goes away",
    "answers some other question at great length",
    "invents three facts about the capital",
    "repeats what was asked word by word",
    "says politely that it cannot know",
    "gives the right number with its source",
    "mixes two languages in every line",
    "ends in the middle of its",
)


@dataclass(frozen=True)
class Modes:
    """``sizes`` responses of every kind with a gold of about ``golds``; ``odd`` ones more that are like nothing else.

    >>> world = Modes(sizes=(2, 1), golds=(0.0, 1.0), jitter=0.0)
    >>> world.texts[1], world.gold.tolist()
    ('calls the reader names and goes away 1', [0.0, 0.0, 1.0])
    """

    sizes: tuple[int, ...] = (10, 8, 6, 6, 5, 5)
    golds: tuple[float, ...] = (-3.0, -1.2, -1.0, -0.8, 0.3, 1.0)
    odd: int = 0
    odd_gold: float = -4.0
    jitter: float = 0.1
    own: float = 0.3
    """How far a response is a thing of its own to the policy, its kind being 1."""
    seed: int = 0

    @property
    def kinds(self) -> np.ndarray:
        """(A,) the kind of every response; odd ones are kinds of their own."""
        usual = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return np.concatenate([usual, len(self.sizes) + np.arange(self.odd)])

    @property
    def texts(self) -> list[str]:
        rng = np.random.default_rng([self.seed, 7])
        strange = [" ".join(f"{w:04x}" for w in rng.integers(1 << 16, size=7)) for _ in range(self.odd)]
        return [f"{(*SAYINGS[: len(self.sizes)], *strange)[kind]} {a}" for a, kind in enumerate(self.kinds)]

    @property
    def gold(self) -> np.ndarray:
        noise = np.random.default_rng([self.seed, 0]).normal(scale=self.jitter, size=len(self.kinds))
        return np.array([*self.golds, *[self.odd_gold] * self.odd])[self.kinds] + noise

    def prompts(self, n: int) -> list[Slate]:
        """The one prompt, n times."""
        return [Slate(PROMPT, meta={"id": f"{PROMPT}-{i}"}) for i in range(n)]

    def score(self, slate: Slate) -> Sequence[float]:
        gold = self.gold
        return [float(gold[int(c.text.split()[-1])]) for c in slate.candidates]

    @property
    def judge(self) -> Judge:
        return Scored(self.score)

    def base(self, folder: Path) -> Path:
        """Directory of the uniform policy."""
        kinds = self.kinds
        features_AD = np.concatenate([np.eye(int(kinds.max()) + 1)[kinds], self.own * np.eye(len(kinds))], 1)
        path = folder / f"modes-{self.seed}-{'-'.join(map(str, self.sizes))}-{self.odd}-{self.own:g}"
        if not path.exists():
            beside = path.with_name(path.name + ".partial")
            shutil.rmtree(beside, ignore_errors=True)
            Tabular([PROMPT], self.texts, features_PAD=features_AD[None]).save(beside)
            beside.rename(path)
        return path

    def shares(self, policy: Tabular) -> np.ndarray:
        """Probability of every kind."""
        return np.bincount(self.kinds, weights=policy.probabilities(PROMPT).numpy())

    def value(self, policy: Tabular) -> float:
        """Expected gold reward."""
        return float(policy.expected(self.gold[None])[0])
