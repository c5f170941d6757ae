"""Sums whose working and answer fall apart: the arithmetic world, with a base that writes one and answers another.

The last total of the working is wrong two times in five, and the answer below it as often, each by its own coin. A
reward that reads the answer alone has nothing against wrong working; whoever reads the working has. For claims about
consistency.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from prefine.worlds.arithmetic import MARKER, SETTINGS, TOP, Pupils
from prefine.worlds.pretrain import pretrained

TIDY = Pupils(inventing=0.0, shuffled=0.0, slip=0.01, miscount=0.0, hasty=(0.0, 0.0), unmarked=(0.02, 0.02))


@dataclass(frozen=True)
class Careless:
    """Whose work the base imitates. ``working``, ``answer``: how often each is one off."""

    pupils: Pupils = TIDY
    working: float = 0.4
    answer: float = 0.4

    def __call__(self, rng: random.Random) -> tuple[str, str]:
        prompt, text = self.pupils(rng)
        lines = text.split("\n")
        if len(lines) < 4 or MARKER not in lines[-1]:  # a single sum, or one without an answer
            return prompt, text
        sum_, _, total = lines[-2].partition("=")
        last = f"{sum_}={off(int(total), self.working, rng)}"
        return prompt, "\n".join([*lines[:-2], last, f"{MARKER} {off(int(total), self.answer, rng)}"])


def off(total: int, rate: float, rng: random.Random) -> int:
    """One more or less with this probability, within what totals can be."""
    wrong = rng.choice([t for t in (total - 1, total + 1) if 0 <= t <= TOP])
    return wrong if rng.random() < rate else total


def base(cache: Path) -> Path:
    """Directory of the base policy; prompts and verifier are those of the arithmetic world."""
    return pretrained(cache, "unfaithful", Careless(), SETTINGS, modules=("prefine.worlds.arithmetic",))
