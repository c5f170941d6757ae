"""126 and its blocks: rounds of PPO and GRPO by hand, rewards of samples, factors and their effects."""

from __future__ import annotations

import random
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prefine import curating
from prefine.curating.levels import Saying, Turned
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.factors import effects, gap
from prefine.judging.base import Scored
from prefine.objectives.policy_gradient import advantage
from prefine.policies.base import Sampling
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair, scores
from prefine.store import read_jsonl
from prefine.systems.blocks.grpo import grpo
from prefine.systems.blocks.ppo import Proximal, ppo
from prefine.systems.evaluation.arms import Plan, prompt_sets, size_of
from prefine.systems.evaluation.unpacking_dpo_ppo import unpacking_dpo_ppo

torch.set_num_threads(1)
make_model: Callable[..., Path] = runpy.run_path(str(Path(__file__).parents[1] / "cli" / "tiny.py"))["make_model"]
PROMPTS = [f"say {word}" for word in ("yes", "no", "maybe", "what", "two", "plus")]


def letters(slate: Slate) -> list[float]:
    return [float(len(slate.response(i))) / 10 for i in range(len(slate))]


JUDGE = Scored(letters, "score")


def small(tmp_path: Path, **settings: object) -> Run:
    plain = {"lr": 1e-3, "batch_size": 3, "log_every": 1000, **settings}
    return Run(tmp_path / "run", settings=TrainSettings.of(plain), sampling=Sampling(max_tokens=6))


# -- rewards


def test_a_response_without_its_end_gets_exactly_minus_ten() -> None:
    slate = Slate("x", (Candidate("a", stop="end"), Candidate("b", stop="length"), Candidate("c"), Candidate("d")))
    judged = slate.with_feedback("score", scores([0.3, 7.0, 0.5, None]))
    (found,) = curating.rollouts(unfinished=-10.0)([judged], random.Random(0))
    assert found.values["reward"] == (0.3, -10.0, 0.5) and found.members == (0, 1, 2) and set(found.roles) == {0}
    (scaled,) = curating.rollouts(unfinished=-10.0, gain=2.0, bias=1.0)([judged], random.Random(0))
    assert scaled.values["reward"] == (1.6, -19.0, 2.0), "gain and bias come last"
    (as_judged,) = curating.rollouts()([judged], random.Random(0))
    assert as_judged.values["reward"] == (0.3, 7.0, 0.5)
    assert not list(curating.rollouts(fewest=4)([judged], random.Random(0)))


def test_moments_are_those_of_all_tokens_of_the_round() -> None:
    rng = np.random.default_rng(0)
    slates = [Slate(f"x{i}", (Candidate("a", stop="end"), Candidate("b", stop="end"))) for i in range(700)]
    slates = [s.with_feedback("score", scores(rng.normal(size=2).tolist())) for s in slates]
    drawn = list(curating.rollouts()(slates, random.Random(0)))
    stored = [[[rng.normal(size=1 + (i + m) % 4) for m in range(2)] for i in range(700)] for _ in range(3)]
    of = advantage(0.3, 0.9, 0.8, critic=True)
    curator = curating.with_moments(of, ("old", "reference", "value"))
    found = list(curator(drawn, *stored, random.Random(0)))
    all_of_them = []
    for i, contrast in enumerate(drawn):
        for m in range(2):
            old, ref, value = (stored[k][i][m] for k in range(3))
            r = -0.3 * (old - ref)
            r[-1] += contrast.values["reward"][m]  # type: ignore[index]
            delta = r + 0.9 * np.append(value[1:], 0.0) - value
            ahead = 0.0
            for t in reversed(range(len(r))):
                ahead = delta[t] + 0.72 * ahead
                all_of_them.append(ahead)
    assert found[5].values["advantage_mean"] == pytest.approx(np.mean(all_of_them), abs=1e-12)
    assert found[5].values["advantage_variance"] == pytest.approx(np.var(all_of_them, ddof=1), abs=1e-10)
    assert all(c.values["reward"] == d.values["reward"] for c, d in zip(found, drawn, strict=True))


# -- rounds


@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_a_round_of_ppo_moves_policy_and_value_model(whiten_rewards: bool, tmp_path: Path) -> None:
    run = small(tmp_path)
    policy = run.policy(make_model(tmp_path / "lm"))
    slates = run.judge(run.sample(policy, run.slates([Slate(p) for p in PROMPTS]), n=2), JUDGE)
    drawn = run.curate(slates, curating.rollouts(unfinished=-1.0))
    how = Proximal(whiten_rewards=whiten_rewards)
    after, critic = how.step(run, policy, run.critic(policy), policy, drawn)
    scored = [row for row in read_jsonl(run.dir / "journal.jsonl") if (row["verb"], row["event"]) == ("logps", "done")]
    assert len(scored) == 2, "policy and value model once each, though two trainings read them"
    before, now, values = (run.logps(model, drawn) for model in (policy, after, critic))
    assert any(np.abs(a - b).max() > 1e-6 for c, d in zip(before, now, strict=True) for a, b in zip(c, d, strict=True))
    assert any(np.abs(v).max() > 0 for c in values for v in c)


def test_how_a_step_is_cut_into_micro_batches_does_not_matter(tmp_path: Path) -> None:
    weights = []
    for budget in (None, 20):
        run = small(
            tmp_path / str(budget), tokens_per_microbatch=budget, optimizer="sgd", lr=0.1, clip=None, batch_size=6
        )
        policy = run.policy(make_model(tmp_path / str(budget) / "lm"))
        slates = run.judge(run.sample(policy, run.slates([Slate(p) for p in PROMPTS]), n=2), JUDGE)
        drawn = run.curate(slates, curating.rollouts())
        both = Proximal().step(run, policy, run.critic(policy), policy, drawn)
        weights.append([p for handle in both for p in handle.load().module.parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_recipes_run_on_a_language_model(tmp_path: Path) -> None:
    run = small(tmp_path)
    policy, prompts = run.policy(make_model(tmp_path / "lm")), run.slates([Slate(p) for p in PROMPTS])
    for recipe in (ppo(run, policy, prompts, JUDGE, rounds=2), grpo(run, policy, prompts, JUDGE, rounds=2, n=3)):
        assert recipe.key != policy.key and recipe.load().kind == "causal-lm"
    with pytest.raises(InputError, match="n=1"):
        grpo(run, policy, prompts, JUDGE, n=1)


def test_grpo_finds_the_better_action_of_a_table(tmp_path: Path) -> None:
    Tabular(["x"], ["bad", "good"], [[0.5, 0.0]]).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings.of({"lr": 0.3, "batch_size": 4, "log_every": 1000}))
    prompts = run.slates([Slate("x", meta={"id": str(i)}) for i in range(40)])
    judge = Scored(lambda slate: [float(c.text == "good") for c in slate.candidates], "score")
    trained = grpo(run, run.policy(tmp_path / "base"), prompts, judge, rounds=4, n=8, beta=0.0)
    assert trained.load().probabilities("x")[1] > 0.8  # type: ignore[attr-defined]


# -- the comparison


def test_effects_by_hand() -> None:
    """Data 2 and 1 (DPO) and, under PPO, sizes: 4, 3 on a and 3, 3 on b. Data: (1 + 1 + 0)/3; size: 1/2; PPO against
    DPO within a: 2, 1, within b: 2, 2."""
    arms = [
        ({"data": "a", "algorithm": "dpo"}, 2.0),
        ({"data": "b", "algorithm": "dpo"}, 1.0),
        ({"data": "a", "algorithm": "ppo", "size": "1"}, 4.0),
        ({"data": "a", "algorithm": "ppo", "size": "2"}, 3.0),
        ({"data": "b", "algorithm": "ppo", "size": "1"}, 3.0),
        ({"data": "b", "algorithm": "ppo", "size": "2"}, 3.0),
    ]
    assert effects(arms) == pytest.approx({"data": 2 / 3, "algorithm": 7 / 4, "size": 0.5})
    assert gap(arms, "data", "b", "a") == pytest.approx(-2 / 3)


def test_labels_are_turned_and_data_sets_are_equally_large() -> None:
    slates = [Slate(f"x{i}", (Candidate("a"), Candidate("b")), meta={"source": "web" if i % 3 else "crowd"})
              for i in range(600)]  # fmt: skip
    rows = [pair(s, 0, 1) for s in slates]
    turned = sum(c.roles == (-1, 1) for c in Turned(0.2)(rows, random.Random(0)))
    assert 90 < turned < 150 and not any(c.roles == (-1, 1) for c in Turned(0.0)(rows, random.Random(0)))
    kept = list(Saying("source", "web", 200)(rows, random.Random(0)))
    assert len(kept) == 200 and all(c.slate.meta["source"] == "web" for c in kept)


def test_prompts_by_a_column_are_as_many_of_each(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    kinds = ["math"] * 4 + ["chat"] * 8
    prompts = run.slates([Slate(f"p{i}", meta={"extra": {"kind": kind}}) for i, kind in enumerate(kinds)])
    sets = prompt_sets(run, prompts, "kind")
    assert {name: len(found) for name, found in sets.items()} == {"mixed": 4, "chat": 4, "math": 4}
    assert prompt_sets(run, prompts, "kind") == sets, "the same again"
    assert prompt_sets(run, prompts, "") == {"all": prompts}
    with pytest.raises(InputError, match="no row has such"):
        prompt_sets(run, prompts, "topic")


def test_sizes_are_shares_or_directories(tmp_path: Path) -> None:
    assert size_of("1") == 1.0 and size_of(str(tmp_path)) == str(tmp_path)
    for wrong in ("0", "1.5", "no/such/model"):
        with pytest.raises(InputError):
            size_of(wrong)


def test_every_arm_is_trained_once_and_the_best_comes_out(tmp_path: Path) -> None:
    run = small(tmp_path)
    policy = run.policy(make_model(tmp_path / "lm", num_hidden_layers=2))
    prompts = run.slates([Slate(p, meta={"kind": "ab"[i % 2]}) for i, p in enumerate(PROMPTS)])
    both = (Candidate(" yes please"), Candidate(" no"))
    pairs = run.curate(run.slates([Slate(p, both) for p in PROMPTS]), lambda rows, rng: [pair(s, 0, 1) for s in rows])
    data = {"right": pairs, "turned": run.curate(pairs, Turned(1.0 - 1e-9))}
    plan = Plan(("dpo", "ppo", "grpo"), (1.0, 0.5), rounds=1)
    arms = list(plan.arms(run, policy, data, prompt_sets(run, prompts, "kind")))
    assert len(arms) == 2 * (1 + 2 * 2) + 2 * 2, "the grid, and two more sets of prompts for each online algorithm"
    assert len({handle.key for _, handle in arms}) == len(arms)
    found = unpacking_dpo_ppo(run, policy, pairs, prompts, noise=(0.0,), reward_models=("0.5",), rounds=1)
    notes = {name for row in read_jsonl(run.dir / "notes.jsonl") for name in row}
    assert found.key != policy.key and {"effect_of_algorithm", "noise-0_dpo", "noise-0_ppo_0.5_all"} <= notes
    for wrong in ({"algorithms": ("ppp",)}, {"noise": (1.2,)}, {"data_by": "source"}, {"reward_models": ("2",)}):
        with pytest.raises(InputError):
            unpacking_dpo_ppo(run, policy, pairs, prompts, **wrong)  # type: ignore[arg-type]
