"""094 and 108: the measurements on numbers worked out by hand, and the recipes on tabular policies."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prefine.engine.learner import LEARNT
from prefine.engine.settings import TrainSettings
from prefine.policies.tabular import Tabular
from prefine.registry import Part
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Slate, pair
from prefine.systems.evaluation.dpo_survey_liu import above, dpo_survey_liu, in_random_order, interval
from prefine.systems.evaluation.dpo_survey_xiao import Third, accuracy, share_of, spearman
from prefine.systems.objectives.lcpo import lcpo
from prefine.systems.objectives.rdpo import rdpo

torch.set_num_threads(1)


def test_accuracy_on_six_pairs_by_hand() -> None:
    """Chosen above rejected in pairs 1, 2, 4 and 6: 4/6."""
    rewards = np.array([[2.0, 1.0], [0.5, 0.1], [0.0, 3.0], [-1.0, -2.0], [1.0, 1.5], [4.0, 3.9]])
    assert accuracy(rewards) == pytest.approx(4 / 6)


def test_the_rank_correlation_is_that_of_the_formula() -> None:
    """rho = 1 - 6 sum d^2 / (n (n^2 - 1)) without equals; d = (0, 0, 1, 1, 0) gives 0.9."""
    x, y = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([10.0, 20.0, 40.0, 30.0, 50.0])
    assert spearman(x, y) == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert spearman(x, -y) == pytest.approx(-0.9) and spearman(x, np.ones(5)) == 0.0
    assert spearman(np.exp(x), y) == pytest.approx(spearman(x, y)), "ranks alone"


def test_the_share_of_sampling() -> None:
    rows = [{"verb": "sample", "seconds": 7.0}, {"verb": "train", "seconds": 3.0}, {"verb": "round", "event": "start"}]
    assert share_of("sample", rows) == pytest.approx(0.7) and share_of("sample", []) == 0.0


def test_the_parts_are_disjoint_and_the_longest_prompts_are_outside() -> None:
    rows = [pair(Slate("x" * i, (Candidate("a"), Candidate("b"))), 0, 1) for i in range(1, 41)]
    parts = {
        w: [len(str(c.slate.prompt)) for c in Third(w, 0.25, 0.2)(rows, random.Random(0))]
        for w in ("out", "in", "train")
    }
    assert sorted([i for part in parts.values() for i in part]) == list(range(1, 41))
    assert parts["out"] == list(range(31, 41)) and len(parts["in"]) == 6


def test_intervals_over_seeds() -> None:
    low, high = interval(np.array([0.6, 0.7, 0.8, 0.7, 0.7]))
    assert 0.6 <= low < 0.7 < high <= 0.8
    assert above(np.array([0.9, 0.8]), np.array([0.5, 0.6])) and not above(np.array([0.9, 0.5]), np.array([0.5, 0.6]))


def test_labels_in_random_order_are_half_turned() -> None:
    rows = [pair(Slate("x", (Candidate("a"), Candidate("b"))), 0, 1) for _ in range(400)]
    turned = sum(c.roles == (-1, 1) for c in in_random_order(rows, random.Random(0)))
    assert 160 < turned < 240


# -- recipes on a table, where the optimum is known


def on_a_table(tmp_path: Path, flips: int) -> tuple[Run, object, object]:
    """20 labels of one pair, ``flips`` of them the wrong way round."""
    Tabular(["x"], ["good", "bad"], [[0.0, 0.0]]).save(tmp_path / "base")
    settings = {"lr": 0.2, "batch_size": 20, "max_steps": 150, "schedule": "constant", "warmup": 0.0, "clip": None}
    run = Run(tmp_path / "run", settings=TrainSettings.of(settings))
    slate = Slate("x", (Candidate("good"), Candidate("bad")))
    rows = run.slates([slate])
    pairs = run.curate(rows, lambda slates, rng: [pair(slate, int(i < flips), int(i >= flips)) for i in range(20)])
    return run, run.policy(tmp_path / "base"), pairs


def gap(policy: object) -> float:
    logp = policy.load().logp_PA().detach()[0]  # type: ignore[attr-defined]
    return float(logp[0] - logp[1])


def test_with_the_right_rate_the_optimum_is_that_of_clean_labels(tmp_path: Path) -> None:
    """A true preference of 0.8 seen through 25% flips is 0.65 of labels; rDPO's optimum has sigma(h) = 0.8."""
    run, base, pairs = on_a_table(tmp_path, flips=7)
    trained = rdpo(run, base, pairs, eps=0.25, beta=1.0)  # type: ignore[arg-type]
    assert gap(trained) == pytest.approx(np.log(0.8 / 0.2), abs=0.02)
    assert gap(dpo_survey_liu(run, base, pairs, beta=1.0)) == pytest.approx(np.log(0.65 / 0.35), abs=0.02)  # type: ignore[arg-type]


def test_latent_labels_move_further_than_smoothed_ones(tmp_path: Path) -> None:
    """The EM fixed point: sigma(h) and eta explain the labels together, where plain DPO's h explains them alone."""
    run, base, pairs = on_a_table(tmp_path, flips=6)
    latent = gap(lcpo(run, base, pairs, over="dpo(beta=1.0)"))  # type: ignore[arg-type]
    plain = gap(dpo_survey_liu(run, base, pairs, beta=1.0))  # type: ignore[arg-type]
    assert plain == pytest.approx(np.log(0.7 / 0.3), abs=0.02) and latent > plain + 0.2


def test_every_annotator_has_a_reliability_whatever_they_are_called(tmp_path: Path) -> None:
    """Annotator 7 is always right, annotator 1042 four times in ten wrong: two reliabilities, in that order."""
    Tabular(["x"], ["good", "bad"], [[0.0, 0.0]]).save(tmp_path / "base")
    settings = {"lr": 0.1, "batch_size": 20, "max_steps": 60, "schedule": "constant", "warmup": 0.0}
    run = Run(tmp_path / "run", settings=TrainSettings.of(settings))
    both, base = (Candidate("good"), Candidate("bad")), run.policy(tmp_path / "base")

    def labelled(wrong: int, who: int) -> list[Contrast]:
        slates = [Slate("x", both, meta={"id": f"{who}-{i}", "extra": {"annotator": who}}) for i in range(10)]
        return [pair(s, int(i < wrong), int(i >= wrong)) for i, s in enumerate(slates)]

    rows = run.slates([Slate("x", both)])
    pairs = run.curate(rows, lambda slates, rng: labelled(4, 1042) + labelled(0, 7))
    trained = lcpo(run, base, pairs, over=Part("dpo(beta=1.0)"))
    seven, other = load_file(trained.path / LEARNT)["objective.eta_K"].tolist()
    assert seven > 0.9 > other
