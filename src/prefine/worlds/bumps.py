"""Two good places far apart, and policies that can be in one of them. For claims about which divergence is minimised.

Actions are places on a line, the reward has a bump at -3 and one at 3, the reference is uniform. A policy is a
discretised Gaussian, pi(x) ~ exp(a x/3 + b (x/3)^2): to cover both bumps it has to be everywhere between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from prefine.judging.base import Judge, Scored
from prefine.policies.tabular import Tabular
from prefine.slate import Slate

PROMPT, AT = "where", 3.0


@dataclass(frozen=True)
class Bumps:
    """``points`` places from -6 to 6; bumps of this standard deviation.

    >>> world = Bumps(points=13)
    >>> int(world.places[int(world.rewards.argmax())]), round(world.between(world.uniform()), 3)
    (-3, 0.231)
    """

    points: int = 49
    width: float = 0.5

    @cached_property
    def places(self) -> np.ndarray:
        return np.linspace(-6, 6, self.points)

    @property
    def rewards(self) -> np.ndarray:
        """The log of the sum of two Gaussian bumps."""
        left, right = (-((self.places - at) ** 2) / (2 * self.width**2) for at in (-AT, AT))
        return np.logaddexp(left, right)

    def gaussian(self, mean: float, deviation: float) -> Tabular:
        theta = np.array([AT * mean, -(AT**2) / 2]) / deviation**2
        return self._policy(theta)

    def uniform(self) -> Tabular:
        return self._policy(np.zeros(2))

    def saved(self, folder: Path) -> tuple[Path, Path]:
        """Directories of the start, a Gaussian at 1 with deviation 1, and of the uniform reference."""
        paths = folder / "start", folder / "uniform"
        for table, path in zip((self.gaussian(1.0, 1.0), self.uniform()), paths, strict=True):
            table.save(path)
        return paths

    def _policy(self, theta: np.ndarray) -> Tabular:
        scaled = self.places / AT
        features = np.stack([scaled, scaled**2], 1)[None]
        return Tabular([PROMPT], [f"{x:g}" for x in self.places], features_PAD=features, theta_D=theta)

    def prompts(self, n: int) -> list[Slate]:
        """The one prompt, n times."""
        return [Slate(PROMPT, meta={"id": str(i)}) for i in range(n)]

    def score(self, slate: Slate) -> list[float]:
        at = [f"{x:g}" for x in self.places]
        return [float(self.rewards[at.index(c.text)]) for c in slate.candidates]

    @property
    def gold(self) -> Judge:
        return Scored(self.score)

    def between(self, policy: Tabular) -> float:
        """The mass in the valley, |x| < 1.5."""
        return float(policy.probabilities(PROMPT).numpy()[np.abs(self.places) < AT / 2].sum())

    def kl_to_optimum(self, policy: Tabular, beta: float) -> float:
        """KL(pi || pi*), pi* ~ exp(r/beta)."""
        return float(policy.kl(self.uniform().tilted(self.rewards[None], beta))[0])
