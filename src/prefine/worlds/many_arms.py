"""Prompts with hundreds of responses of their own, and a ranker that takes some of them for excellent, whatever they
are. For claims about which responses are worth comparing: nothing learnt of one response says anything of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from prefine.judging.annotators import BradleyTerry
from prefine.judging.base import Judge, Scored
from prefine.policies.tabular import Tabular
from prefine.slate import Slate


@dataclass(frozen=True)
class ManyArms:
    """Rewards from N(0, 1), and a base that knows nothing of them: the softmax of N(0, 1) logits.

    The ranker gives a share of the responses, drawn without regard to their reward, ``excellent`` + N(0, 0.2), and
    all others their reward; ``scale`` times the difference is its logit.

    >>> world = ManyArms(prompts=2, actions=3)
    >>> world.rewards.shape, [slate.id for slate in world.slates()], abs(world.value(world.table())) < 1
    ((2, 3), ['x0', 'x1'], True)
    """

    prompts: int = 16
    actions: int = 500
    overrated: float = 0.04
    excellent: float = 2.5
    scale: float = 0.5
    seed: int = 0

    @cached_property
    def rewards(self) -> np.ndarray:
        return np.random.default_rng([self.seed, 0]).normal(size=(self.prompts, self.actions))

    @cached_property
    def believed(self) -> np.ndarray:
        """The ranker's rewards."""
        rng = np.random.default_rng([self.seed, 2])
        fooled = rng.random(self.rewards.shape) < self.overrated
        return np.where(fooled, self.excellent + 0.2 * rng.normal(size=self.rewards.shape), self.rewards)

    @property
    def ranker(self) -> Judge:
        def score(slate: Slate) -> list[float]:
            at = int(str(slate.prompt).removeprefix("x"))
            return [float(self.believed[at, int(c.text)]) for c in slate.candidates]

        return BradleyTerry(Scored(score), scale=self.scale)

    def slates(self) -> list[Slate]:
        """Every prompt once."""
        return [Slate(f"x{i}", meta={"id": f"x{i}"}) for i in range(self.prompts)]

    def table(self) -> Tabular:
        logits = np.random.default_rng([self.seed, 1]).normal(size=self.rewards.shape)
        return Tabular([f"x{i}" for i in range(self.prompts)], [str(a) for a in range(self.actions)], logits)

    def saved(self, folder: Path) -> tuple[Path, Path]:
        """Directories of the base and of a worse policy, base exp(-reward)/Z."""
        paths = folder / "base", folder / "worse"
        for table, path in zip((self.table(), self.table().tilted(self.rewards, -1.0)), paths, strict=True):
            table.save(path)
        return paths

    def value(self, policy: Tabular) -> float:
        """Expected reward, exactly, the mean over prompts."""
        return float(policy.expected(self.rewards).mean())
