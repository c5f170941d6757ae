"""Contexts with several good answers and users who name what is wrong with a bad one. Exact, for claims.

Each of 12 contexts has 12 answers: four good ones, and eight with one of four faults. A policy is log-linear in
(context, answer); shown a complaint, good answers are likelier and those with the fault unlikely, each by a fixed
amount, so what is learnt without the complaint carries over to what is said with it. Gold is 1 for a good answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Contrast, Slate, point

CONTEXTS, GOOD = 12, 4
FAULTS = ("rude", "wrong", "long", "vague")
ANSWERS = (*(f"good {k}" for k in range(GOOD)), *(f"{fault} {k}" for fault in FAULTS for k in range(2)))
LIKING, HINT, CARE = 0.7, 3.0, 2.0
"""By how much the first policy likes bad answers more; what a complaint takes off its fault, and adds to good ones."""


def context(x: int) -> str:
    return f"context {x}"


def hinted(x: int, answer: str) -> str:
    """The prompt that shows a bad answer and the complaint about it."""
    return f"{context(x)}{answer}\nUser: {complaint(answer)}\nAssistant:"


def complaint(answer: str) -> str:
    return f"That is {answer.split()[0]}."


def start(folder: Path) -> Path:
    """The first policy's directory."""
    if not folder.exists():
        prompts = [context(x) for x in range(CONTEXTS)]
        rows = [(x, "") for x in range(CONTEXTS)]
        for x in range(CONTEXTS):
            for answer in ANSWERS[GOOD:]:
                prompts.append(hinted(x, answer))
                rows.append((x, answer.split()[0]))
        base = np.array([[_liking(fault, a) for a in ANSWERS] for _, fault in rows])
        phi = np.zeros((len(rows), len(ANSWERS), CONTEXTS * len(ANSWERS)))
        for p, (x, _) in enumerate(rows):
            phi[p, np.arange(len(ANSWERS)), x * len(ANSWERS) + np.arange(len(ANSWERS))] = 1.0
        Tabular(prompts, list(ANSWERS), base, features_PAD=phi).save(folder)
    return folder


def _liking(fault: str, answer: str) -> float:
    """Logit of an answer where this fault was complained of ("" for none)."""
    if answer.startswith("good"):
        return CARE * bool(fault)
    return LIKING - HINT * (answer.split()[0] == fault)


def disliked(policy: Any, count: int, seed: int) -> list[Slate]:
    """Bad answers drawn from a policy, each with the complaint in its row."""
    rng = random.Random(f"complaints {seed}")
    rows: list[Slate] = []
    while len(rows) < count:
        x = rng.randrange(CONTEXTS)
        answer = rng.choices(ANSWERS, policy.probabilities(context(x)).tolist())[0]
        if not answer.startswith("good"):
            rows.append(
                Slate(context(x), (Candidate(answer),), meta={"id": str(len(rows)), "feedback": complaint(answer)})
            )
    return rows


def as_bad(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    return (point(slate, 0, False) for slate in slates)


def is_good(slate: Slate) -> list[float]:
    return [float(slate.response(i).startswith("good")) for i in range(len(slate))]


def liked(slate: Slate) -> list[float]:
    """A reward model that likes the first good answer a little more, and long ones nearly as much as good ones."""
    texts = [slate.response(i) for i in range(len(slate))]
    return [
        good + 0.3 * (text == ANSWERS[0]) + 0.9 * text.startswith("long")
        for text, good in zip(texts, is_good(slate), strict=True)
    ]


def _table(policy: Any) -> np.ndarray:
    return np.stack([policy.probabilities(context(x)).detach().numpy() for x in range(CONTEXTS)])


def gold(policy: Any) -> float:
    """The probability of a good answer, over contexts."""
    return float(_table(policy)[:, :GOOD].sum(1).mean())


def entropy(policy: Any) -> float:
    """Of the good answers among themselves, in nats, over contexts."""
    good = _table(policy)[:, :GOOD]
    p = good / good.sum(1, keepdims=True)
    return float(-(p * np.log(p)).sum(1).mean())


def gap(policy: Any, rows: Sequence[Contrast]) -> float:
    """How often the answer to a complaint would be good: its gold less that of the disliked answer, which is 0."""
    shown = [hinted(int(str(row.prompt(0)).split()[1]), row.response(0)) for row in rows]
    return float(np.mean([float(policy.probabilities(prompt)[:GOOD].sum()) for prompt in shown]))
