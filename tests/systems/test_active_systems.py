"""045, 064, 065 and 109: what they ask for, how often, and from what they are trained."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from prefine import objectives, selecting
from prefine.artifacts import PolicyHandle, contrasts_at
from prefine.curating.elliptical import maximum_likelihood
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.judging.base import Compared
from prefine.run import Run
from prefine.selecting.dueling import KernelRidge, play, rbf
from prefine.selecting.margins import surprises
from prefine.selecting.optimal import Inverse, curvature, doubling, greedy
from prefine.slate import Candidate, Slate, pair, scores, table
from prefine.store import read_jsonl
from prefine.systems.active.adpo import adpo
from prefine.systems.active.ae_dpo import ae_dpo
from prefine.systems.active.apl import apl
from prefine.systems.active.small_margin import small_margin
from prefine.worlds.duels import Duels
from prefine.worlds.linear_pool import LinearPool

torch.set_num_threads(1)
WORLD = LinearPool(prompts=60, actions=4, dimensions=3)
SETTINGS = TrainSettings.of({"lr": 0.1, "epochs": 1, "batch_size": 16, "weight_decay": 0.0})


def begun(tmp_path: Path, world: LinearPool = WORLD, name: str = "r") -> tuple[Run, PolicyHandle]:
    run = Run(tmp_path / name, settings=SETTINGS)
    return run, run.policy(world.base(tmp_path))


def journal(run: Run, verb: str) -> list[dict]:  # type: ignore[type-arg]
    return [row for row in read_jsonl(run.dir / "journal.jsonl") if row["verb"] == verb and row["event"] != "start"]


# --- 045 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allocation", "each"), [("decrease", [9, 6, 3]), ("increase", [3, 6, 9]), ("constant", [6] * 3)]
)
def test_small_margin_spends_its_budget_exactly(tmp_path: Path, allocation: str, each: list[int]) -> None:
    run, start = begun(tmp_path)
    small_margin(run, start, run.slates(WORLD.bare()), WORLD.oracle(), budget="30%", allocation=allocation, n=3)  # type: ignore[arg-type]
    assert [row["figures"]["kept"] for row in journal(run, "select")] == each
    assert run.labels == 18
    annotators = [row["figures"]["labels"] for row in journal(run, "judge") if row["role"] == "annotator"]
    assert annotators == each


def test_small_margin_says_when_a_round_has_too_few_prompts(tmp_path: Path) -> None:
    run, start = begun(tmp_path)
    with pytest.raises(InputError, match="more pairs in a round"):
        small_margin(run, start, run.slates(WORLD.bare()), WORLD.oracle(), budget="90%")
    small_margin(run, start, run.slates(WORLD.bare()), WORLD.oracle(), budget="90%", allocation="constant")
    asked = run.labels
    for allocation in ("decrease", "increase", "constant"):
        with pytest.raises(InputError, match="leaves none for one of 3 rounds"):
            small_margin(run, start, run.slates(WORLD.bare()), WORLD.oracle(), budget="2", allocation=allocation)  # type: ignore[arg-type]
    assert run.labels == asked, "before anybody was asked"


def test_surprises_are_labels_against_the_margin() -> None:
    def labelled(margin: float, wins: float) -> Slate:
        said = (Candidate("a"), Candidate("b"))
        return Slate(
            "x", said, {"implicit": scores([margin, 0.0]), "preference": table([[0.5, wins], [1 - wins, 0.5]])}
        )

    rows = [labelled(2.0, 1.0), labelled(2.0, 0.0), labelled(-3.0, 1.0), labelled(0.0, 1.0)]
    assert surprises(rows) == {"corrected": (0 + 1 + 1 + 0.5) / 4, "missed": (2.0 + 3.0) / 4}


# --- 064 ------------------------------------------------------------------------------------------------------


def test_the_hessian_of_dpo_is_the_gram_matrix_that_the_design_sums() -> None:
    """By automatic differentiation of the loss as the objective computes it on a log-linear table."""
    rng, beta = np.random.default_rng(0), 0.7
    phi, theta = rng.normal(size=(6, 3)), rng.normal(size=3)
    offset, signs = rng.normal(size=6), rng.choice([-1.0, 1.0], size=6)

    def loss(t: torch.Tensor) -> torch.Tensor:
        logits = beta * (torch.tensor(phi) @ t - torch.tensor(offset))
        return -torch.nn.functional.logsigmoid(torch.tensor(signs) * logits).sum()

    hessian = torch.autograd.functional.hessian(loss, torch.tensor(theta)).numpy()
    v = np.array([curvature(beta, d) for d in phi @ theta - offset])[:, None] * phi
    assert np.allclose(hessian, v.T @ v, atol=1e-12)


def test_the_implicit_margin_of_a_log_linear_table_is_its_logit(tmp_path: Path) -> None:
    run, start = begun(tmp_path)
    pairs = run.slates(WORLD.pairs())
    theta = np.array([0.3, -1.0, 0.4])
    table_ = start.fresh()
    table_.module.theta_D.data = torch.tensor(theta)  # type: ignore[union-attr]
    table_.save(tmp_path / "fitted")
    fitted = run.policy(tmp_path / "fitted")
    design = selecting.d_optimal(5, beta=0.5, subset=0)
    seen = run.judge(pairs, design.view(fitted, start), role="view")
    phi = WORLD.features[:, 0] - WORLD.features[:, 1]
    for i, slate in enumerate(seen):
        expected = 0.5 / (2 * np.cosh(0.25 * (phi[i] @ theta))) * phi[i]
        assert np.allclose(design.vector(slate, (0, 1)), expected, atol=1e-9)
    v = np.array([curvature(0.5, d) for d in phi @ theta])[:, None] * phi
    kept = [slate.prompt for slate in run.select(seen, design)]
    assert kept == [f"x{i}" for i in sorted(greedy(v, 5, Inverse(np.eye(3) / 0.01)))]


def test_adpo_asks_as_often_as_labels_double_and_trains_from_the_start(tmp_path: Path) -> None:
    run, start = begun(tmp_path)
    end = adpo(run, start, run.slates(WORLD.bare()), WORLD.oracle(), budget="20", first=4)
    assert doubling(20, 4) == [4, 4, 8, 4] and run.labels == 20
    kept = [row["figures"]["kept"] for row in journal(run, "select") if row["label"] == "select doptimal"]
    assert kept == [4, 4, 8, 4]
    lessons = [row["figures"]["contrasts"] for row in journal(run, "train")]
    assert lessons == [4, 8, 16, 20]
    # The last training alone, on the same twenty, gives the same policy: nothing of the earlier ones is in it.
    assert end.load().module.theta_D.abs().max() > 0  # type: ignore[union-attr,operator]
    asked = {row["key"] for row in journal(run, "select")}
    assert len(asked) == len(journal(run, "select"))


def test_adpo_plus_asks_nobody(tmp_path: Path) -> None:
    run, start = begun(tmp_path)
    pairs = run.curate(run.slates(WORLD.pairs()), lambda slates, rng: [pair(s, 0, 1) for s in slates])
    adpo(run, start, pairs=pairs, feedback="offline", budget="25%")
    assert run.labels == 0
    assert [row["figures"]["contrasts"] for row in journal(run, "train")] == [60, 15]


@pytest.mark.parametrize("recipe", [adpo, ae_dpo])
def test_what_the_feedback_needs_is_said(tmp_path: Path, recipe) -> None:  # type: ignore[no-untyped-def]
    run, start = begun(tmp_path)
    with pytest.raises(InputError, match="feedback=offline needs pairs"):
        recipe(run, start, feedback="offline")
    with pytest.raises(InputError, match="feedback=online needs prompts"):
        recipe(run, start, feedback="online")


def test_maximum_likelihood_with_a_ridge_is_stationary() -> None:
    world = LinearPool(prompts=50, dimensions=4)
    phi = world.features[:, 0] - world.features[:, 1]
    theta = maximum_likelihood(phi, lam=0.3)
    assert np.allclose(phi.T @ (1 / (1 + np.exp(phi @ theta))), 0.3 * theta, atol=1e-9)


# --- 065 ------------------------------------------------------------------------------------------------------


def test_the_posterior_is_kernel_ridge_written_out() -> None:
    rng = np.random.default_rng(1)
    points, noise = rng.normal(size=(12, 2)), 0.3
    kernel = rbf(points, 0.8, 0.5)
    seen, at, values = KernelRidge(np.full(12, 0.5), kernel, noise), [], []
    for _ in range(20):
        i, value = int(rng.integers(12)), float(rng.random())
        seen.add(i, value)
        at.append(i)
        values.append(value)
    weights = np.linalg.solve(kernel[np.ix_(at, at)] + noise * np.eye(20), np.array(values) - 0.5)
    assert np.allclose(seen.mean_N, 0.5 + kernel[:, at] @ weights)
    solved = np.linalg.solve(kernel[np.ix_(at, at)] + noise * np.eye(20), kernel[at])
    assert np.allclose(seen.deviation_N**2, np.diag(kernel - kernel[:, at] @ solved))


def test_the_bandit_goes_where_it_is_hard_and_knows_more_there() -> None:
    world = Duels(contexts=8, hard=2, actions=8, seed=3)
    runs = {
        active: play(world.beats, world.kernel, 200, np.random.default_rng(0), active=active, width=2.0)
        for active in (True, False)
    }
    assert world.is_hard[runs[True].asked_T].mean() > 0.6 > 2 * world.is_hard[runs[False].asked_T].mean() - 0.1
    assert np.allclose(world.beats + world.beats.transpose(0, 2, 1), 1)
    again = play(world.beats, world.kernel, 200, np.random.default_rng(0), width=2.0)
    assert np.array_equal(again.asked_T, runs[True].asked_T)


@pytest.mark.parametrize("choice", ["explore", "uncertain", "random"])
def test_ae_dpo_learns_from_a_share_of_every_super_batch(tmp_path: Path, choice: str) -> None:
    run, start = begun(tmp_path)
    pairs = run.curate(run.slates(WORLD.pairs()), lambda slates, rng: [pair(s, 0, 1) for s in slates])
    ae_dpo(run, start, pairs, choice=choice, rounds=2, ratio=3, draws=3)  # type: ignore[arg-type]
    assert [row["figures"]["contrasts"] for row in journal(run, "train")] == [10, 10] and run.labels == 0
    prompts = run.slates(WORLD.bare())
    ae_dpo(
        run, start, prompts=prompts, preference=WORLD.oracle(), feedback="online", choice=choice, rounds=2, ratio=3,
        n=2, draws=3,
    )  # type: ignore[arg-type]  # fmt: skip
    assert run.labels == 20, "one for each pair compared"


def test_a_ratio_of_one_keeps_everything(tmp_path: Path) -> None:
    run, start = begun(tmp_path)
    pairs = run.curate(run.slates(WORLD.pairs()), lambda slates, rng: [pair(s, 0, 1) for s in slates])
    ae_dpo(run, start, pairs, choice="random", rounds=1, ratio=1)
    assert [row["figures"]["contrasts"] for row in journal(run, "train")] == [60]


# --- 109 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["random", "certainty", "uncertainty", "hybrid"])
def test_apl_grows_by_steps_and_asks_exactly_as_many(tmp_path: Path, mode: str) -> None:
    run, start = begun(tmp_path)
    apl(
        run, start, run.slates(WORLD.bare()), WORLD.oracle(), mode=mode, labels=10, step=4, factor=3, samples=4,
        epochs=1, temperature=1.0,
    )  # type: ignore[arg-type]  # fmt: skip
    lessons = [row["figures"]["contrasts"] for row in journal(run, "train")]
    assert lessons == [4, 8, 10]  # prompts without a pair are replaced
    assert run.labels == 10


@pytest.mark.parametrize("mode", ["entropy", "hybrid", "random"])
def test_apl_draws_more_prompts_where_the_samples_of_some_are_twins(tmp_path: Path, mode: str) -> None:
    two = LinearPool(prompts=60, actions=2, dimensions=3)  # half of all pairs of samples, at first, are one text twice
    run, start = begun(tmp_path, two)
    prompts, factor = run.slates(two.bare()), 1 if mode == "random" else 6
    apl(run, start, prompts, two.oracle(), mode=mode, labels=8, step=4, factor=factor, samples=2, among=2, epochs=1)  # type: ignore[arg-type]
    assert [row["figures"]["contrasts"] for row in journal(run, "train")] == [4, 8] and run.labels == 8
    assert any(row["label"] == "prompts in place of those without a pair" for row in journal(run, "select")), (
        "twins gave way"
    )
    assert not any("short" in row for row in read_jsonl(run.dir / "notes.jsonl"))


def test_apl_says_how_many_pairs_a_stage_is_short_of_and_which_labels_were_ties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = LinearPool(prompts=60, actions=2, dimensions=3)
    run, start = begun(tmp_path, two)
    said: list[str] = []
    monkeypatch.setattr(run.progress, "say", said.append)
    undecided = Compared(lambda s: [[0.5, 0.5 + (won := int(str(s.prompt)[1:]) % 2 / 2)], [0.5 - won, 0.5]])
    options = {"labels": 60, "step": 60, "factor": 1, "samples": 2, "among": 2, "epochs": 1}
    apl(run, start, run.slates(two.bare()), undecided, mode="hybrid", **options)  # type: ignore[arg-type]
    (note,) = read_jsonl(run.dir / "notes.jsonl")
    (lessons,) = [row["figures"]["contrasts"] for row in journal(run, "train")]
    assert note["short"] == 60 - run.labels > 0 and note["ties"] == run.labels - lessons > 0
    assert [line.split()[0] for line in said] == [str(note["short"]), str(note["ties"])]
    assert "samples are all alike" in said[0] and "ties" in said[1]


def test_apl_may_ask_about_every_prompt_and_about_no_more(tmp_path: Path) -> None:
    every = LinearPool(prompts=6, actions=200, dimensions=3)  # enough actions that no prompt has twins
    run, start = begun(tmp_path, every)
    asking = (run, start, run.slates(every.bare()), every.oracle())
    with pytest.raises(InputError, match="there are 6 prompts"):
        apl(*asking, mode="random", labels=7, step=3, epochs=1)
    apl(*asking, mode="random", labels=6, step=3, epochs=1)
    assert run.labels == 6


def test_apl_resets_the_policy_what_comes_out_depends_on_the_labels_and_the_seed_alone(tmp_path: Path) -> None:
    run, start = begun(tmp_path)
    end = apl(run, start, run.slates(WORLD.bare()), WORLD.oracle(), labels=8, step=4, factor=3, samples=4, epochs=2)
    last = journal(run, "train")[-1]
    joined = [row for row in journal(run, "slates") if row["label"] == "join"][-1]
    lessons = contrasts_at(joined["key"], run.store.path(joined["key"]))
    alone = run.train(start, lessons, objective=objectives.dpo(0.2), epochs=2)
    assert alone.key == end.key == last["key"]


def test_random_source_of_greedy_decides_only_the_subset() -> None:
    v = np.random.default_rng(0).normal(size=(40, 3))
    whole = greedy(v, 6, Inverse(np.eye(3)))
    assert whole == greedy(v, 6, Inverse(np.eye(3)), subset=40, rng=random.Random(5))
    some = greedy(v, 6, Inverse(np.eye(3)), subset=5, rng=random.Random(5))
    assert len(set(some)) == 6 and some == greedy(v, 6, Inverse(np.eye(3)), subset=5, rng=random.Random(5))
