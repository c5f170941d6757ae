"""Two responses, one of them hardly ever given, and two hypotheses about its reward. For claims about exploration.

r(a) = 1/2 is known, r(b) is 0 or 1, ref(b) = 0.01, and the policy class has two members, pi_r ~ ref exp(r/beta).
Every round some responses are drawn and labelled by Bradley and Terry, and the next policy is the exact minimiser
of the summed loss over everything seen (a tie, and the start, is r(b) = 0, which hardly ever gives b).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from prefine.objectives.scores import Objective, Scores

Draw = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[int, int, int]]
"""(current policy, reference, random source) -> two responses to compare and a calibration response."""


@dataclass(frozen=True)
class TwoArms:
    """``truth`` is r(b).

    >>> arms = TwoArms(truth=1.0)
    >>> [round(float(p), 4) for p in arms.policies()[:, 1]], round(arms.regrets()[0], 3)
    ([0.0001, 0.6], 0.091)
    """

    truth: float = 1.0
    beta: float = 0.1
    rare: float = 0.01
    known: float = 0.5

    @property
    def reference(self) -> np.ndarray:
        return np.array([1 - self.rare, self.rare])

    def policies(self) -> np.ndarray:
        """(2, 2) hypothesis x response: pi_r for r(b) = 0 and r(b) = 1."""
        tilted = self.reference * np.exp(np.array([[self.known, 0.0], [self.known, 1.0]]) / self.beta)
        return tilted / tilted.sum(1, keepdims=True)

    def regrets(self) -> list[float]:
        """J(pi*) - J(pi) of both, J = E r - beta KL to the reference."""
        pi, r = self.policies(), np.array([self.known, self.truth])
        values = (pi * (r - self.beta * np.log(pi / self.reference))).sum(1)
        return [float(v) for v in values[int(self.truth)] - values]

    def losses(self, objective: Objective) -> np.ndarray:
        """[hypothesis, chosen, rejected, calibration response, the calibration response is the rejected one's place]

        Contrasts have the pair and a calibration response with role 0. The value "calibration" is 1 on the pair's
        member that the last index says (0: chosen, 1: rejected).
        """
        lessons = list(product(range(2), repeat=4))
        members = torch.tensor([[w, l, c] for w, l, c, _ in lessons]).flatten()
        marks = torch.tensor([[1.0 - place, float(place), 0.0] for *_, place in lessons]).double().flatten()
        groups = torch.arange(len(lessons)).repeat_interleave(3)
        roles = torch.tensor([1, -1, 0]).repeat(len(lessons))

        def loss(pi: np.ndarray) -> Tensor:
            logp, ref = (torch.as_tensor(np.log(p))[members][:, None] for p in (pi, self.reference))
            scores = Scores(logp, torch.ones_like(logp), roles, groups, {"reference": ref}, {"calibration": marks})
            return objective(scores).per_contrast

        return torch.stack([loss(pi) for pi in self.policies()]).reshape(2, 2, 2, 2, 2).numpy()

    def play(self, objective: Objective, draw: Draw, rng: np.random.Generator, rounds: int = 500) -> tuple[float, bool]:
        """(cumulative regret, whether the last policy is the best one). Of a pair the second response is marked."""
        table, regrets, pi, ref = self.losses(objective), self.regrets(), self.policies(), self.reference
        reward = (self.known, self.truth)
        seen, at, total = np.zeros(2), 0, 0.0
        for _ in range(rounds):
            total += regrets[at]
            one, two, other = draw(pi[at], ref, rng)
            first = rng.random() < 1 / (1 + np.exp(reward[two] - reward[one]))
            seen += table[:, one, two, other, 1] if first else table[:, two, one, other, 0]
            at = int(seen[1] < seen[0])
        return total, at == int(self.truth)


def from_policy_and_reference(pi: np.ndarray, ref: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int]:
    """One response of each; the reference's is the calibration response."""
    other = int(rng.random() < ref[1])
    return int(rng.random() < pi[1]), other, other


def both_from_policy(pi: np.ndarray, ref: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int]:
    """Two responses of the policy, and a calibration response of the reference."""
    return int(rng.random() < pi[1]), int(rng.random() < pi[1]), int(rng.random() < ref[1])
