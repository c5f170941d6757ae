"""Written verdicts and pairwise models: both orders, what cannot be read is counted, places cancel out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefine import judging
from prefine.errors import InputError
from prefine.judging.pairwise import PairwiseReward
from prefine.policies.base import Sampling
from prefine.run import Run
from prefine.slate import Candidate, Prompt, Slate
from prefine.store import read_jsonl


@dataclass
class Writer:
    """Answers with what a function makes of (first, second, sample)."""

    say: Callable[[str, str, int], str]
    key: str = "writer"

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        assert len(set(seeds)) == len(seeds), "every question has a seed of its own"
        sides = [[line[2:] for line in str(p).splitlines() if line.startswith("r ")] for p in prompts]
        return [[Candidate(self.say(a, b, n)) for n in range(sampling.n)] for a, b in sides]


def slate(*texts: str) -> Slate:
    return Slate("p", tuple(Candidate(f"r {t}") for t in texts))


def test_a_judge_that_always_says_a_says_nothing() -> None:
    columns = judging.verdicts(Writer(lambda a, b, n: "Verdict: A"))([slate("x", "y", "z")])[0]
    assert columns["preference"].values == ((0.5, 0.5, 0.5),) * 3
    assert columns["preference_read"].values[0] == (0.0, 2.0, 2.0)


def test_a_judge_that_knows_is_heard_whatever_the_order() -> None:
    judge = judging.verdicts(Writer(lambda a, b, n: f"Hm. Verdict: {'A' if a < b else 'B'}"))
    P = judge([slate("2", "1", "3")])[0]["preference"].values
    assert P == ((0.5, 0.0, 1.0), (1.0, 0.5, 1.0), (0.0, 0.0, 0.5))


def test_what_cannot_be_read_is_counted_and_never_dropped_in_silence(tmp_path: Path) -> None:
    """By hand: of 4 verdicts on the pair the two with x first cannot be read; the others give y the win (1) and a tie."""
    say = {("x", 0): "I like both", ("x", 1): "", ("y", 0): "verdict: a", ("y", 1): "Verdict: tie"}
    judge = judging.verdicts(Writer(lambda a, b, n: say[a, n]), samples=2, temperature=1.0)
    columns = judge([slate("x", "y")])[0]
    assert columns["preference"].values == ((0.5, 0.25), (0.75, 0.5))
    assert columns["preference_read"].values[0][1] == columns["preference_unread"].values[0][1] == 2.0
    told: list[str] = []
    run = Run(tmp_path / "run", progress=Told(told))
    run.judge(run.slates([slate("x", "y"), slate("x", "x")]), judge)
    figures = read_jsonl(run.dir / "journal.jsonl")[-1]["figures"]
    assert figures == {"slates": 2, "labels": 1, "abstained": 1, "comparisons": 2, "unread": 6}
    assert any("6 answers of" in text and "could not be read" in text for text in told)


class Told:
    def __init__(self, said: list[str]) -> None:
        self.said = said

    def stage(self, label: str, total: float | None = None) -> Told:
        return self

    def update(self, done: float, **figures: float) -> None: ...
    def end(self, **figures: float) -> None: ...
    def say(self, text: str) -> None:
        self.said.append(text)


def test_grades_that_cannot_be_read_are_counted_too(tmp_path: Path) -> None:
    class Grader(Writer):
        def sample(self, prompts, sampling, seeds):  # type: ignore[no-untyped-def]
            return [[Candidate("Score: 3"), Candidate("Score: 9"), Candidate("?")] for _ in prompts]

    run = Run(tmp_path / "run")
    judge = judging.language_judge(Grader(lambda a, b, n: ""), samples=3, temperature=1.0)
    judged = run.judge(run.slates([slate("x", "y")]), judge)
    assert judged[0].column("score") == (3.0, 3.0)
    assert read_jsonl(run.dir / "journal.jsonl")[-1]["figures"]["unread"] == 4


def test_a_judge_that_only_compares_measures_by_putting_the_policy_beside_the_start(tmp_path: Path) -> None:
    import torch

    from prefine.binding.roles import InRole
    from prefine.policies.tabular import Tabular

    Tabular(["p"], ["r 1", "r 2"], torch.tensor([[9.0, 0.0]])).save(tmp_path / "worse")
    Tabular(["p"], ["r 1", "r 2"], torch.tensor([[0.0, 9.0]])).save(tmp_path / "better")
    run = Run(tmp_path / "run")
    start, policy = run.policy(tmp_path / "worse"), run.policy(tmp_path / "better")
    judge = InRole(judging.verdicts(Writer(lambda a, b, n: f"Verdict: {'A' if a > b else 'B'}")), "score")
    prompts = run.slates([Slate("p", meta={"id": str(i)}) for i in range(20)])
    figures = run.evaluate(policy, prompts, judge=judge, start=start)
    assert figures["win_rate"] > 0.9 and "reward" not in figures, "a share of wins over nobody is no reward"
    assert "win_rate" not in run.evaluate(start, prompts, judge=judge, start=start)
    assert run.labels == 0


@dataclass
class Both:
    """A pairwise reward model: quality of the first less that of the second, and a pull to the first place."""

    pull: float = 0.0
    key: str = "both"

    def load(self) -> Both:
        return self

    def reward(self, slates: Sequence[Slate]) -> list[list[float]]:
        return [[self._one(c.text) for c in s.candidates] for s in slates]

    def sample(self) -> None: ...

    def _one(self, text: str) -> float:
        first, second = (float(line[2:]) for line in text.splitlines() if line.startswith("r "))
        return first - second + self.pull


def test_a_pairwise_model_is_read_both_ways_round() -> None:
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    P = PairwiseReward(Both(pull=0.8))([slate("1", "3"), slate("2")])
    expected = (sigmoid(-2 + 0.8) + 1 - sigmoid(2 + 0.8)) / 2
    assert P[0]["preference"].values[0][1] == pytest.approx(expected)
    assert P[0]["preference"].values[1][0] == pytest.approx(1 - expected)
    assert P[1]["preference"].values == ((0.5,),)
    assert PairwiseReward(Both(9.0))([slate("2", "2")])[0]["preference"].values[0][1] == pytest.approx(0.5)
    with pytest.raises(InputError, match="gives no rewards"):
        PairwiseReward(Writer(lambda a, b, n: ""))([slate("1", "2")])  # type: ignore[arg-type]
