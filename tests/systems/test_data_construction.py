"""019, 100, 103 as recipes on exact tables: who is compared with whom, and what was asked of the annotator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from prefine.artifacts import PolicyHandle
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.judging.base import Scored
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, scores
from prefine.store import read_jsonl
from prefine.systems.data.aepo import aepo
from prefine.systems.data.ampo import ampo
from prefine.systems.data.sweet_spot import sweet_spot

ACTIONS = list("abcdefgh")


def start(tmp_path: Path, **settings: object) -> tuple[Run, PolicyHandle]:
    torch.set_num_threads(1)
    plain = {"lr": 0.05, "schedule": "constant", "warmup": 0.0, "clip": None, "batch_size": 16, "max_steps": 6}
    Tabular(["p"], ACTIONS).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings.of({**plain, **settings}))
    return run, run.policy(tmp_path / "base")


def prompts(n: int) -> list[Slate]:
    return [Slate("p", meta={"id": str(i)}) for i in range(n)]


def score(slate: Slate) -> list[float]:
    return [float(-ACTIONS.index(c.text)) for c in slate.candidates]


JUDGE = Scored(score)


def trained_on(run: Run) -> list[str]:
    return [
        row["key"] for row in read_jsonl(run.dir / "journal.jsonl") if row["verb"] == "train" and row["event"] == "done"
    ]


def test_the_sweet_spot_rejects_the_worst_of_five_or_what_is_near_an_anchor(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    source = run.slates(prompts(12))
    probability = {}
    for name, options in {
        "five": {},
        "anchors": {"pick": "anchors", "rejected": "mu-1"},
        "min": {"worst_of": 30},
    }.items():
        trained = sweet_spot(run, policy, source, JUDGE, n=30, beta=0.1, **options)  # type: ignore[arg-type]
        probability[name] = trained.load().probabilities("p")  # type: ignore[attr-defined]
        assert probability[name][0] > 1 / 8, "the best of 30 is chosen"
    assert probability["min"][7] < probability["anchors"][7], "the worst of all is rejected there alone"
    with pytest.raises(InputError, match="rejected='worst'"):
        sweet_spot(run, policy, source, JUDGE, pick="anchors", rejected="worst")


def test_all_21_pairs_of_anchors_are_trained_from_the_same_samples(tmp_path: Path) -> None:
    run, _ = start(tmp_path, max_steps=1)
    bell = [[-((i - 15) ** 2) / 32 for i in range(31)]]  # scores of about -15, sigma 4
    Tabular(["p"], [str(i) for i in range(31)], bell).save(tmp_path / "bell")
    judge = Scored(lambda slate: [-float(c.text) for c in slate.candidates])
    best = sweet_spot(run, run.policy(tmp_path / "bell"), run.slates(prompts(3)), judge, n=80, pick="all")
    assert len(set(trained_on(run))) == 21 and best.key in trained_on(run)
    sampled = [
        row for row in read_jsonl(run.dir / "journal.jsonl") if row["verb"] == "sample" and row["event"] == "done"
    ]
    assert sum(row["role"] == "current" and "80" in row["label"] for row in sampled) == 1
    names = {row["name"] for row in read_jsonl(run.dir / "evaluations.jsonl")}
    assert len(names) == 21 and "mu+2 over mu-2" in names


@pytest.mark.parametrize("select", ["opt-select", "coreset", "bottom-k"])
def test_sets_raise_the_best_response_without_a_reference(tmp_path: Path, select: str) -> None:
    run, policy = start(tmp_path)
    trained = ampo(run, policy, run.slates(prompts(8)), JUDGE, n=10, k=3, select=select, vectors="words", rounds=2)  # type: ignore[arg-type]
    change = trained.load().probabilities("p") - 1 / 8  # type: ignore[attr-defined]
    assert change[0] > 0 > change[7]
    assert not any(row["verb"] == "logps" for row in read_jsonl(run.dir / "journal.jsonl"))


def test_sets_are_made_of_scored_lists_too(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    rated = Slate("p", tuple(map(Candidate, ACTIONS))).with_feedback("score", scores([float(-i) for i in range(8)]))
    trained = ampo(run, policy, lists=run.slates([rated]), learn_from="lists", vectors="words", k=3)
    assert trained.load().probabilities("p")[0] > 1 / 8  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="learn_from=samples needs"):
        ampo(run, policy, lists=run.slates([rated]))


@dataclass(frozen=True)
class OfItself:
    """A judge that is the policy of the moment."""

    def spoken_by(self, policy: PolicyHandle) -> Scored:
        assert isinstance(policy, PolicyHandle)
        return JUDGE

    def __call__(self, slates: object) -> list:  # type: ignore[type-arg]
        raise AssertionError("nobody lent it a policy")


def test_the_policy_may_judge_itself(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    source = run.slates(prompts(8))
    sweet_spot(run, policy, source, OfItself(), n=8, beta=0.1)  # type: ignore[arg-type]
    aepo(run, policy, source, OfItself(), n=6, vectors="words")  # type: ignore[arg-type]


def test_only_the_selected_responses_are_labelled(tmp_path: Path) -> None:
    asked = []

    def noting(slate: Slate) -> list[float]:
        asked.append(len(slate))
        return score(slate)

    run, policy = start(tmp_path)
    aepo(run, policy, run.slates(prompts(8)), Scored(noting), n=12, k=3, vectors="words", pairs="all")
    assert asked == [3] * 8
    assert run.labels == 3 * 8, "k times the prompts, however many were sampled"


def test_west_of_n_asks_for_as_many_labels_on_fewer_prompts(tmp_path: Path) -> None:
    run, policy = start(tmp_path)
    aepo(run, policy, run.slates(prompts(12)), JUDGE, n=6, k=2, select="west-of-n")
    assert run.labels == 2 * 12
    fewer, policy = start(tmp_path / "fewer")
    aepo(fewer, policy, fewer.slates(prompts(12)), JUDGE, n=5, k=2, select="west-of-n")
    assert fewer.labels == 5 * 4, "as many whole prompts as 24 labels are enough for"
    with pytest.raises(InputError, match="k=1"):
        aepo(run, policy, run.slates(prompts(2)), JUDGE, k=1)
