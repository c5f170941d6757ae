"""A policy that is also a judge, each half wrong, on exact tables. For claims about models that reward themselves.

Responses have D features and a gold reward that is linear in them. The policy's log-odds of two responses are linear in
their difference, with weights of its own; so are the log-odds of "A" when it is asked which of two is better, with
other weights. Both are the gold's direction plus an error; the errors are drawn apart, or are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path

import numpy as np

from prefine.curating.internal import LETTERS, WHICH, asked_which
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Slate


@dataclass(frozen=True)
class TwoJudges:
    """``prompts`` of ``actions`` responses, the last fifth held out; ``error``: size of either error beside gold's 1.

    >>> world = TwoJudges(prompts=5, actions=2)
    >>> [len(world.slates(held_out)) for held_out in (False, True)], len(world.start().prompts)
    ([4, 1], 13)
    """

    prompts: int = 200
    actions: int = 5
    dimensions: int = 5
    error: float = 1.4
    same_errors: bool = False
    size: float = 1.0
    seed: int = 0

    @cached_property
    def gold_D(self) -> np.ndarray:
        return _unit(np.random.default_rng([self.seed, 0]).normal(size=self.dimensions))

    @cached_property
    def features_PAD(self) -> np.ndarray:
        return np.random.default_rng([self.seed, 1]).normal(size=(self.prompts, self.actions, self.dimensions))

    def _believed(self, who: int) -> np.ndarray:
        """The gold's direction plus an error at right angles to it, and to the other's unless both are the same."""
        rng = np.random.default_rng([self.seed, 2])
        taken = [self.gold_D]
        for _ in range(1 if self.same_errors else who + 1):
            drawn = rng.normal(size=self.dimensions)
            taken.append(_unit(drawn - sum(((drawn @ x) * x for x in taken), np.zeros(self.dimensions))))
        return self.size * _unit(self.gold_D + self.error * taken[-1])

    def slates(self, held_out: bool = False) -> list[Slate]:
        cut = self.prompts - self.prompts // 5
        return [Slate(f"x{p}", meta={"id": f"x{p}"}) for p in (range(cut, self.prompts) if held_out else range(cut))]

    def start(self) -> Tabular:
        """Uniform over responses, and able to be asked."""
        return self._table(np.concatenate([np.zeros(self.dimensions), self._believed(1)]))

    def trained(self) -> Tabular:
        """The same after a training that gave it beliefs of its own about responses."""
        return self._table(np.concatenate([self._believed(0), self._believed(1)]))

    def _table(self, theta: np.ndarray) -> Tabular:
        none = np.zeros(self.dimensions)
        names, actions, features = [], [], []
        for p in range(self.prompts):
            names.append(f"x{p}")
            actions.append([f"x{p} a{a}" for a in range(self.actions)])
            features.append([np.concatenate([x, none]) for x in self.features_PAD[p]])
        for p in range(self.prompts - self.prompts // 5):  # asked about no other
            slate = Slate(f"x{p}", tuple(map(Candidate, actions[p])))
            for a, b in permutations(range(self.actions), 2):
                half = (self.features_PAD[p, a] - self.features_PAD[p, b]) / 2
                names.append(str(asked_which(WHICH, slate, a, b)))
                actions.append(list(LETTERS))
                rows = [np.concatenate([none, half]), np.concatenate([none, -half])]
                features.append(rows + [np.concatenate([none, none])] * (self.actions - 2))
        return Tabular(names, actions, features_PAD=np.array(features), theta_D=theta)

    def saved(self, folder: Path) -> tuple[Path, Path]:
        """Directories of (start, trained)."""
        numbers = (self.seed, self.prompts, self.actions, self.dimensions, self.error, self.same_errors, self.size)
        here = folder / f"two-judges-{'-'.join(f'{n:g}' for n in numbers)}"
        if not here.exists():
            self.start().save(here / "start")
            self.trained().save(here / "trained")
        return here / "start", here / "trained"

    def value(self, policy: Tabular) -> float:
        """Expected gold reward on held-out prompts."""
        told = [policy.probabilities(str(s.prompt)).numpy() @ self._gold(s) for s in self.slates(held_out=True)]
        return float(np.mean(told))

    def _gold(self, slate: Slate) -> np.ndarray:
        return self.features_PAD[int(str(slate.prompt)[1:])] @ self.gold_D

    def told(self, policy: Tabular) -> dict[str, float]:
        """On held-out pairs: the judges' agreement, the accuracy of each, and of both where they agree."""
        theta = policy.module.theta_D.detach().numpy()  # type: ignore[union-attr,operator]
        rows = [self.features_PAD[int(str(s.prompt)[1:])] for s in self.slates(held_out=True)]
        gaps = np.array([row[a] - row[b] for row in rows for a, b in permutations(range(self.actions), 2) if a < b])
        gold, implicit, asked = (
            gaps @ w > 0 for w in (self.gold_D, theta[: self.dimensions], theta[self.dimensions :])
        )
        both = implicit == asked
        return {
            "agreement": float(both.mean()), "implicit": float((implicit == gold).mean()),
            "generative": float((asked == gold).mean()), "agreed": float((implicit == gold)[both].mean()),
        }  # fmt: skip


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)
